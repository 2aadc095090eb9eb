"""Bytes that once broke a reader, and some that nobody chose."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import PenstockError

from .targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_g13_what_was_found_stays_mended(name: str) -> None:
    """Every input of the corpus: read, or refused in our words."""
    for path in sorted((CORPUS / name).glob("*")):
        with suppress(PenstockError):
            TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_g13_any_bytes_are_read_or_refused(name: str) -> None:
    """A short look without the fuzzer, which `tests/fuzz/run.py` takes longer."""

    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
    def try_it(data: bytes) -> None:
        with suppress(PenstockError):
            TARGETS[name](data)

    try_it()
