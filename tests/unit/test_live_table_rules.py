"""The pure rules behind live tables: literals, names, columns, what a batch comes to."""

from __future__ import annotations

import pickle

import pytest

from penstock.errors import BadRecordError, ConfigError
from penstock.pipelines.base import Tools
from penstock.pipelines.tables import TablesPipeline
from penstock.records import (
    UNCHANGED,
    Change,
    Column,
    Microseconds,
    Op,
    Position,
    Schema,
    document_schema,
)
from penstock.stores.base import ApplyRows
from penstock.stores.postgres import live_names
from penstock.stores.postgres.arrays import array_literal
from penstock.stores.postgres.coalesce import coalesce, split
from penstock.stores.postgres.evolution import evolution, keeps_values
from penstock.testing.stores import THINGS, delete, put, row, truncate

# ------------------------------------------------------------------ literals


@pytest.mark.parametrize(
    ("values", "literal"),
    [
        ([], "{}"),
        (["a", None, ""], '{"a",NULL,""}'),
        (["NULL", "null", '"', "\\", ",", "{}"], r'{"NULL","null","\"","\\",",","{}"}'),
        ([None], "{NULL}"),
    ],
)
def test_texts_become_a_literal(values: list[str | None], literal: str) -> None:
    """Every text is quoted, so nothing in it has a meaning; NULL is not."""
    assert array_literal(values) == literal


@pytest.mark.parametrize("text", ["a\0b", "\0", chr(0xDC80), chr(0xD800), chr(0xD800) + "x"])
def test_texts_that_postgresql_cannot_hold_are_refused(text: str) -> None:
    """They are bad records, not shifted columns; half a character is not taken for NULL."""
    with pytest.raises(BadRecordError):
        array_literal(["before", None, text, "after"])


# ------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("source", "schema"),
    [
        ("travel", "travel"),
        ("Travel-1", "travel_1"),
        ("public", "source_public"),
        ("penstock", "source_penstock"),
        ("pg_source", "source_pg_source"),
    ],
)
def test_a_source_names_a_schema(source: str, schema: str) -> None:
    """Plain, and never one that is somebody else's."""
    assert live_names.live_schema(source) == schema


def test_names_that_are_too_long_stay_apart() -> None:
    """PostgreSQL would cut them to the same 63 bytes."""
    one, two = ("ä" * 60 + end for end in ("1", "2"))
    cut = {live_names.fitting(one), live_names.fitting(two)}
    assert len(cut) == 2
    assert all(len(name.encode()) <= 63 for name in cut)


def test_columns_step_aside() -> None:
    """Ours and PostgreSQL's own names are free, whatever a source calls its columns."""
    names = ["_penstock_position", "source_penstock_position", "ctid", "source_ctid", "plain"]
    live = live_names.live_columns([Column(name, "text") for name in names])
    assert len(set(live)) == len(names)
    assert live[1:2] + live[3:] == ["source_penstock_position", "source_ctid", "plain"]
    assert not any(name.startswith("_penstock_") or name == "ctid" for name in live)


def test_a_column_needs_a_name() -> None:
    """What no database would take is refused."""
    with pytest.raises(ConfigError):
        live_names.live_column("a\0", ())


def test_keys_have_distinct_texts() -> None:
    """However they are composed; long ones are named by their digest."""
    keys = [("a", "b,c"), ("a,b", "c"), ("a", None), ("a", "null"), ("a", "x" * 9000)]
    texts = live_names.key_texts(keys)
    assert len(set(texts)) == len(keys)
    assert max(map(len, texts)) < 500
    assert live_names.key_texts([("1",), ("2",)]) == ["1", "2"]
    assert live_names.key_texts([]) == []


# ------------------------------------------------------------------ columns


def columns(text: str) -> tuple[Column, ...]:
    """``id* integer, a text``: a star marks the key."""
    found = []
    for part in text.split(", "):
        name, _, of = part.partition(" ")
        found.append(Column(name.rstrip("*"), of or "text", name.endswith("*")))
    return tuple(found)


@pytest.mark.parametrize(
    ("old", "new", "drop", "rename", "add", "sure"),
    [
        ("id*, a, b", "id*, a, b, c", [], [], ["c"], False),
        ("id*, a, b", "id*, b", ["a"], [], [], True),
        ("id*, a, b", "id*, a", ["b"], [], [], True),
        ("id*, a, b", "id*, x, b", [], [("a", "x")], [], True),
        ("id*, a, b", "id*, a, x", [], [("b", "x")], [], False),
        ("id*, a, b", "id*, b, x", ["a"], [], ["x"], False),
        ("id*, a integer, b", "id*, x, b", ["a"], [], ["x"], False),
        ("id*, a integer, b", "id*, x", ["a"], [("b", "x")], [], False),
        ("id*, a, b, c", "id*, x, y, c", [], [("a", "x"), ("b", "y")], [], True),
        ("id*, a, b", "id*, b, a", [], [], [], False),
        ("id*, a, b, c", "id*, c", ["a", "b"], [], [], True),
        ("id*, a", "key*, a", [], [("id", "key")], [], True),
    ],
)
def test_columns_are_told_apart(
    old: str,
    new: str,
    drop: list[str],
    rename: list[tuple[str, str]],
    add: list[str],
    sure: bool,
) -> None:
    """Renamed where there is no other reading; a doubt is said wherever there is one."""
    steps = evolution(columns(old), columns(new))
    assert list(steps.drop) == drop
    assert list(steps.rename) == rename
    assert [column.name for column in steps.add] == add
    assert (not steps.doubts) == sure
    assert not steps.new_key


def test_a_key_of_other_columns_is_noticed() -> None:
    """Another column, one more, one less."""
    for new in ("id, a*", "id*, a*", "id, a, b*"):
        assert evolution(columns("id*, a"), columns(new)).new_key


@pytest.mark.parametrize(
    ("before", "now", "keeps"),
    [
        ("smallint", "bigint", True),
        ("integer", "numeric", True),
        ("bigint", "integer", False),
        ("character varying(5)", "character varying(9)", True),
        ("character varying(5)", "text", True),
        ("character varying(9)", "character varying(5)", False),
        ("character varying", "text", True),
        ("numeric(5,2)", "numeric(9,2)", True),
        ("numeric(5,2)", "numeric(9,3)", False),
        ("numeric(5,2)", "numeric", True),
        ("real", "double precision", False),
        ("text", "integer", False),
    ],
)
def test_types_that_only_widen(before: str, now: str, keeps: bool) -> None:
    """Only these are sure to leave each value as it is."""
    assert keeps_values(before, now) is keeps


# ------------------------------------------------------------------ batches


def test_g1_streams_keep_their_order_when_shapes_alternate() -> None:
    """Old shape, new, old again: three segments; another stream between them changes nothing."""
    other = THINGS.columns[:2]
    new, elsewhere = Schema("shop", "public.things", other), Schema("shop", "public.x", other)
    again = Schema("shop", "public.things", THINGS.columns)
    changes = [
        put(1, 1, "a", "b"),
        row(2, 1, ("1", "a"), schema=elsewhere),
        row(3, 1, ("1", "a"), schema=new),
        row(4, 2, ("2", "a"), schema=elsewhere),
        row(5, 1, ("1", "a", "b"), schema=again),
        put(6, 1, "c", "d"),
    ]
    found = [
        (segment.schema.stream, len(segment.schema.columns), [c.position[-1] for c in segment[1]])
        for segment in split(changes)
    ]
    assert found == [
        ("public.things", 3, ["1"]),
        ("public.things", 2, ["3"]),
        ("public.things", 3, ["5", "6"]),
        ("public.x", 2, ["2", "4"]),
    ]


def test_a_batch_comes_to_one_step_for_each_key() -> None:
    """However often a key changes; both ways of taking a batch agree."""
    changes = [put(1, 1, "a", "b"), put(2, 2, "a", "b"), delete(3, 2), put(4, 1, "c", "d")]
    quick = coalesce(changes)
    slow = coalesce([row(0, 7, ("7", "x", UNCHANGED)), *changes])
    assert [p.row for p in quick.puts] == [("1", "c", "d")]
    assert [key for key, _ in quick.gone] == [("2",)]
    assert (slow.puts, slow.gone) == (quick.puts, quick.gone)
    assert [p.base for p in slow.partial] == [("7",)]


def test_g4_a_truncate_leaves_nothing_of_what_was_before() -> None:
    """Not even deletions: the mark of the table stands for them."""
    net = coalesce([put(1, 1, "a", "b"), delete(2, 2), truncate(3), put(4, 3, "c", "d")])
    assert (net.truncated_at, net.gone) == (truncate(3).position, [])
    assert [put.key for put in net.puts] == [("3",)]


def test_values_after_a_deletion_are_not_made_up() -> None:
    """An update that leaves values out, of a row that this batch deleted or truncated."""
    update = row(3, 1, ("1", "a", UNCHANGED))
    for before in (delete(2, 1), truncate(2)):
        with pytest.raises(BadRecordError, match="expected a row"):
            coalesce([put(1, 1, "a", "b"), before, update])


# ------------------------------------------------------------------ the pipeline


async def test_tables_take_rows_and_leave_documents() -> None:
    """One effect with all rows in order; documents are another pipeline's; nothing: no effect."""
    pipeline = pickle.loads(pickle.dumps(TablesPipeline("tables", ("shop",))))
    empty = (None,) * 9
    document = Change(
        document_schema("shop"), Op.CREATE, ("a.md",), Position("2"), Microseconds(1), empty
    )
    tools: Tools = None  # type: ignore[assignment] # it needs none
    first, last = put(1, 1, "a", "b"), delete(3, 1)
    outcome = await pipeline.compute([first, document, last], tools)
    assert outcome.effects == (ApplyRows([first, last]),)
    assert (await pipeline.compute([document], tools)).effects == ()


def test_g4_a_truncate_takes_only_what_stood_before_it() -> None:
    """Partitions of a topic are read one after the other: what is later may come first."""
    net = coalesce([put(7, 1, "x", "y"), put(2, 2, "x", "y"), truncate(5), put(8, 3, "x", "y")])
    assert [put.key for put in net.puts] == [("1",), ("3",)]
    assert net.truncated_at == truncate(5).position
