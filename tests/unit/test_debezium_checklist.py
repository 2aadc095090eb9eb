"""The checklist of Debezium's tests is whole, and what it cites exists."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
NAMES = Path("cdc", "debezium", "test_names.jsonl")


@pytest.fixture(scope="module")
def checklist() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "debezium_checklist", ROOT / "tools" / "debezium_checklist.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_cited_test_exists(checklist: ModuleType) -> None:
    """A group that is covered cites tests; each of them is a function in that file."""
    for group in checklist.read_groups():
        assert group["verdict"] in checklist.VERDICTS
        assert bool(group.get("tests")) == (group["verdict"] == "covered"), group["title"]
        if group["verdict"] != "covered":
            assert group["why"]
        for test in group.get("tests", ()):
            file, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), test


def test_the_page_is_made_from_the_data(checklist: ModuleType) -> None:
    """Run tools/debezium_checklist.py when this fails."""
    assert checklist.PAGE.read_text(encoding="utf-8") == checklist.page(checklist.read_groups())


def test_every_name_is_in_one_group(checklist: ModuleType) -> None:
    """All names of the list, when it is at hand (PENSTOCK_DATA), and as many as the page says."""
    data = os.environ.get("PENSTOCK_DATA")
    if not data or not Path(data, NAMES).exists():
        pytest.skip("that every name has a group was not verified: PENSTOCK_DATA has no list")
    names = checklist.read_names(Path(data, NAMES))
    assert len(names) == len(set(names)) == 581
    groups = checklist.read_groups()
    found = checklist.assign(names, groups)
    assert [name for name, group in zip(names, found, strict=True) if group is None] == []
    counts = Counter(found)
    assert [counts[i] for i in range(len(groups))] == [group["names"] for group in groups]
