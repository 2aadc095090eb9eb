"""Contexts come back from the ledger as they were, whatever values their rows have (G8)."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.models.base import Usage
from penstock.records import Microseconds, Position
from penstock.serving.context import Asking, Context, SourceState
from penstock.serving.items import ContextRow
from penstock.serving.ledger.pinned import (
    asking_of,
    context_of,
    decoded,
    encoded,
    pinned_asking,
    pinned_context,
    pinned_items,
)
from penstock.serving.profiles import ProfileWanted
from penstock.stores.base import Filter, Passage
from penstock.stores.ledger import canonical

TEXT = st.text(max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | TEXT
    | st.floats(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.datetimes(timezones=st.just(dt.UTC))
    | st.datetimes()
    | st.dates()
    | st.times()
    | st.binary(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXT | st.sampled_from(["$decimal", "$x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
POSITIONS = TEXT.map(Position)
TIMES = st.integers(0, 2**52).map(Microseconds)
SCORES = st.floats(0, 2)
PASSAGES = st.builds(
    Passage,
    chunk=st.integers(0, 9),
    document=st.integers(0, 9),
    source=TEXT,
    key=TEXT,
    title=TEXT,
    heading=TEXT,
    text=TEXT,
    start=st.integers(0, 9),
    end=st.integers(0, 9),
    version=POSITIONS,
    committed_at=TIMES,
    metadata=st.dictionaries(TEXT, VALUES, max_size=2),
    stream=st.none(),
    row_key=st.none(),
    score=SCORES,
    similarity=SCORES,
    text_score=SCORES,
)
ROWS = st.builds(
    ContextRow,
    source=TEXT,
    table=TEXT,
    key=TEXT,
    row_key=st.lists(TEXT | st.none(), max_size=2).map(tuple),
    title=TEXT,
    values=st.dictionaries(TEXT, VALUES, max_size=3),
    searched=st.lists(TEXT, max_size=2).map(tuple),
    version=POSITIONS,
    committed_at=TIMES,
    score=SCORES,
)
CONTEXTS = st.builds(
    Context,
    question=TEXT,
    items=st.lists(PASSAGES | ROWS, max_size=3).map(tuple),
    sources=st.lists(
        st.builds(SourceState, TEXT, TIMES | st.none(), SCORES | st.none(), POSITIONS | st.none(),
                  st.booleans()),
        max_size=2,
    ).map(tuple),
    taken_at=TIMES,
    timings_ms=st.just({}),
    reranked=TEXT | st.none(),
    notes=st.lists(TEXT, max_size=2).map(tuple),
    restricted=st.booleans(),
    searches=st.lists(TEXT, max_size=2).map(tuple),
    usage=st.none() | st.builds(Usage, st.integers(0, 9), st.none(), st.integers(0, 9), st.none()),
)  # fmt: skip


@given(VALUES)
def test_g8_values_come_back_with_their_types(value: Any) -> None:
    back = decoded(json.loads(canonical(encoded(value))))
    assert back == value
    assert type(back) is type(value)


@given(CONTEXTS)
def test_g8_a_context_comes_back_as_it_was(context: Context) -> None:
    said = json.loads(canonical(pinned_context(context)))
    assert context_of(context.question, said, pinned_items(context)) == context


@given(
    st.builds(
        Filter, sources=st.none() | st.lists(TEXT, max_size=2), path=TEXT | st.none(),
        title=TEXT | st.none(), metadata=st.dictionaries(TEXT, VALUES, max_size=2),
        kind=st.sampled_from([None, "row"]),
    ),
    st.none() | st.builds(ProfileWanted, TEXT, TEXT, st.lists(TEXT, max_size=2).map(tuple)),
)  # fmt: skip
def test_g8_how_it_was_asked_comes_back(where: Filter, profile: ProfileWanted | None) -> None:
    asking = Asking(where=where, limit=3, mode="text", profile=profile)
    back = asking_of(json.loads(canonical(pinned_asking(asking))))
    assert back.get("where", Filter()) == where
    assert (back.get("profile"), back["limit"], back["mode"]) == (profile, 3, "text")
