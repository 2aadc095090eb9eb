"""Conditions on metadata, as they are written on the command line."""

from __future__ import annotations

import pytest

from penstock.cli.ask import _filter
from penstock.errors import ConfigError
from penstock.stores.base import Filter


def test_conditions_become_a_filter() -> None:
    """Texts as they are, JSON behind := ; the title is a field of its own."""
    found = _filter(["docs"], "a/*", ["language=de", "year:=2026", "title=A = B", "note="])
    assert found == Filter(
        sources=["docs"],
        path="a/*",
        title="A = B",
        metadata={"language": "de", "year": 2026, "note": ""},
    )
    assert _filter(None, None, None) == Filter()


@pytest.mark.parametrize("condition", ["language", "=de", "year:=twenty", ":=1", ""])
def test_what_is_no_condition_is_told(condition: str) -> None:
    with pytest.raises(ConfigError, match="expected FIELD=TEXT or FIELD:=JSON"):
        _filter(None, None, [condition])
