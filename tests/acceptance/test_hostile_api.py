"""Those who mean harm, in short; `bench/api_hostile.py` has the long form and its figures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from penstock.project import open_project

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def hostile() -> ModuleType:
    return bench("api_hostile")


def bench(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


async def test_g7_orders_in_documents_have_no_consequence(
    hostile: ModuleType, database_url: str
) -> None:
    """A model that obeys sends nothing out, tells nothing of others, and writes nothing."""
    chosen = hostile.settings(database_url)
    async with open_project(settings=chosen) as project, project.running():
        await project.caught_up(limit_s=30)
        found = await hostile.inject(project, 120)
    assert found["obeyed"] == found["attempts"] == 120
    harm = ("outbound_requests", "links", "bytes_of_others", "writes", "stolen_in_addresses")
    assert {name: found[name] for name in harm} == dict.fromkeys(harm, 0)


async def test_no_address_leads_inside(hostile: ModuleType) -> None:
    """Numbers in any form, wrapped addresses, names that change their meaning, other schemes."""
    found = await hostile.ssrf(300)
    assert found["private_connections"] == 0
    assert found["refused"] == found["tried"]


@pytest.mark.filterwarnings("ignore")  # of what makes the requests up
async def test_requests_that_are_made_up_are_answered_as_described() -> None:
    """By three roles, right ones and wrong ones; `bench/api_fuzz.py` makes as many as one likes."""
    found = await bench("api_fuzz").fuzzed(240, 1, 1.0)
    assert found.requests > 60
    assert not [status for status in found.statuses if status >= "5" and status != "503"]
    assert found.wrong == {}
