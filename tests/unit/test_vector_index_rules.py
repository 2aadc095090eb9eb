"""When the index of the vectors is dropped, built and mended."""

from __future__ import annotations

import pytest

from penstock.stores.postgres.vector_index import Deed, IndexState, before_bulk, due


def state(vectors: int, *, exists: bool = True, valid: bool = True, dead: int = 0) -> IndexState:
    return IndexState(1, 384, vectors, exists, valid, dead)


@pytest.mark.parametrize(
    ("there", "incoming", "drop"),
    [
        (state(20_000), 15_000, True),
        (state(20_000), 6_000, False),
        (state(200_000), 15_000, False),
        (state(6_000), 4_000, False),
        (state(20_000, exists=False), 15_000, False),
    ],
)
def test_a_load_that_is_large_beside_what_is_there_drops_the_index(
    there: IndexState, incoming: int, *, drop: bool
) -> None:
    """Building behind it costs less than keeping it up."""
    assert before_bulk(there, incoming) is drop


@pytest.mark.parametrize(
    ("there", "deed"),
    [
        (state(5_000, exists=False), "none"),
        (state(5_001, exists=False), "build"),
        (state(9_000), "none"),
        (state(9_000, valid=False), "rebuild"),
        (state(100, valid=False), "rebuild"),
        (state(9_000, dead=899), "none"),
        (state(9_000, dead=900), "vacuum"),
        (state(100, exists=False, dead=900), "none"),
    ],
)
def test_what_is_due_follows_from_the_state(there: IndexState, deed: Deed) -> None:
    """None while small, built when large, mended when many were deleted."""
    assert due(there) == deed
