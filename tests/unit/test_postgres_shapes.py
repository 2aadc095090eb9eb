"""Which alterations of a table ask for another copy of it."""

from __future__ import annotations

import pytest

from penstock.sources.postgres.decoder import Relation, RelationColumn
from penstock.sources.postgres.shapes import (
    PATIENCE_S,
    STATE,
    Found,
    Shape,
    ShapeColumn,
    ShapeWatch,
)

INT, TEXT = 23, 25
ID, NAME = ShapeColumn(1, "id", INT, -1), ShapeColumn(2, "name", TEXT, -1)
BEFORE = Shape((ID, NAME), 2)


def watch(before: Shape = BEFORE) -> ShapeWatch:
    return ShapeWatch({"t": before})


def relation(shape: Shape) -> Relation:
    columns = tuple(
        RelationColumn(c.name, c.type_oid, c.type_modifier, False) for c in shape.columns
    )
    return Relation(1, "public", "t", "d", columns)


def looks(watch: ShapeWatch, now: Shape, *filled: int) -> tuple[bool, bool]:
    """Whether it is copied again at the first look, and at one after some time."""
    found = {"t": Found(now, frozenset(filled))}
    return tuple(bool(watch.compare(found, ["t"], at)) for at in (0.0, PATIENCE_S))  # type: ignore[return-value]


NEW = ShapeColumn(3, "new", TEXT, -1)
UNTOLD = {
    "renamed": Shape((ID, NAME._replace(name="title")), 2),
    "retyped": Shape((ID, NAME._replace(type_oid=INT)), 2),
    "shortened": Shape((ID, NAME._replace(type_modifier=14)), 2),
    "dropped": Shape((ID,), 2),
}


@pytest.mark.parametrize("now", UNTOLD.values(), ids=UNTOLD)
def test_what_the_stream_does_not_tell_in_time_is_copied_once(now: Shape) -> None:
    """A change has some time to come; then the table is copied, and asked for only once."""
    seen = watch()
    assert looks(seen, now) == (False, True)
    assert looks(seen, now) == (False, False)
    seen.copied("t", now)
    assert looks(seen, now) == (False, False)


@pytest.mark.parametrize("now", UNTOLD.values(), ids=UNTOLD)
def test_what_the_stream_tells_is_left_to_it(now: Shape) -> None:
    """The store follows the columns of the stream, and says itself when it is in doubt."""
    seen = watch()
    seen.describe("t", relation(now))
    assert looks(seen, now) == (False, False)
    assert seen.take_noted() == {STATE + "t": now.format()}
    assert Shape.parse(now.format()) == now


def test_a_new_column_is_copied_only_if_rows_have_values_in_it() -> None:
    """A default makes the difference."""
    now = Shape((ID, NAME, NEW), 3)
    assert looks(watch(), now) == (False, False)
    assert looks(watch(), now, NEW.number) == (False, True)


HIDDEN = {
    "made anew under its name": Shape((ID, NAME._replace(number=3)), 3),
    "a column published late": Shape((ID, NAME), 2),
    "another filter": Shape((ID, NAME), 2, "(id > 3)"),
}


@pytest.mark.parametrize("now", HIDDEN.values(), ids=HIDDEN)
def test_what_no_stream_could_tell_is_copied_at_once(now: Shape) -> None:
    """The stream's columns are the same as before, or say nothing of the rows."""
    before = Shape((ID,), 2) if now == BEFORE else BEFORE
    seen = watch(before)
    seen.describe("t", relation(now))
    assert looks(seen, now) == (True, False)


def test_an_alteration_taken_back_in_time_is_none() -> None:
    """The time begins anew with each shape."""
    seen = watch()
    found = {"t": Found(UNTOLD["dropped"], frozenset())}
    assert seen.compare(found, ["t"], 0.0) == []
    assert seen.compare({"t": Found(BEFORE, frozenset())}, ["t"], 1.0) == []
    assert seen.compare(found, ["t"], PATIENCE_S) == []


def test_a_table_seen_for_the_first_time_is_noted() -> None:
    """As after an upgrade from a version that kept no shapes."""
    seen = ShapeWatch({})
    assert looks(seen, BEFORE) == (False, False)
    assert seen.take_noted() == {STATE + "t": BEFORE.format()}
    assert seen.take_noted() == {}
