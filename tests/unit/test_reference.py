"""The reference pages say what the code does; commands, settings and metrics are all there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["settings.md", "commands.md", "metrics.md", "penstock.schema.json"]
)
def test_the_page_is_up_to_date(name: str, reference: ModuleType) -> None:
    """`python tools/reference.py` would change nothing."""
    stored = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert reference.pages()[name] == stored, "run: uv run python tools/reference.py"
