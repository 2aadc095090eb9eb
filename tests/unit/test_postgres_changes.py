"""From replication messages to changes: what comes, in which order, with which positions."""

from __future__ import annotations

import pytest

from penstock.errors import SourceError
from penstock.records import UNCHANGED, Column, Microseconds, Op, Row, Schema
from penstock.sources.postgres.catalogue import Table, choose_tables
from penstock.sources.postgres.changes import NEVER, Assembler, TablePlan, table_schema
from penstock.sources.postgres.decoder import (
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    ProtocolError,
    Relation,
    RelationColumn,
    Truncate,
    Type,
    Update,
)
from penstock.sources.postgres.publication import default_slot_name
from penstock.testing.pgoutput import encode

SCHEMA = Schema("shop", "public.t", (Column("id", "integer", key=True), Column("v", "text")))
OID = 7


def transaction(commit_lsn: int, *messages: Message) -> list[Message]:
    """Messages between BEGIN and COMMIT."""
    time = Microseconds(commit_lsn * 10)
    return [
        Begin(commit_lsn, time, commit_lsn + 1),
        *messages,
        Commit(commit_lsn, commit_lsn + 8, time),
    ]


def inserts(first: int, last: int) -> list[Message]:
    """Rows ``first`` to ``last``."""
    return [Insert(OID, (str(number), "x")) for number in range(first, last + 1)]


def assemble(messages: list[Message], position: str | None = None, starts_at: int = 0) -> Assembler:
    """What comes of these messages."""
    assembler = Assembler("shop", position)
    assembler.define(OID, TablePlan.make(SCHEMA, starts_at))
    for message in messages:
        assembler.feed(b"header" + encode(message), 6)
    return assembler


def test_g1_positions_are_commit_and_place() -> None:
    """Place counts from 1 within the transaction; time and transaction come from BEGIN."""
    assembler = assemble([*transaction(16, *inserts(1, 2)), *transaction(32, *inserts(3, 3))])
    assert [str(change.position) for change in assembler.changes] == [
        "0000000000000010.00000001",
        "0000000000000010.00000002",
        "0000000000000020.00000001",
    ]
    first = assembler.changes[0]
    assert (first.committed_at, first.transaction, first.op) == (160, "17", Op.CREATE)
    assert (assembler.end_lsn, assembler.committed_at, assembler.complete) == (40, 320, 3)


def test_g2_resuming_after_any_change_gives_the_rest() -> None:
    """From whichever position reading resumes, exactly what is after it comes."""
    messages = [m for lsn in (16, 32, 48) for m in transaction(lsn, *inserts(lsn, lsn + 3))]
    whole = assemble(messages).changes
    for place, change in enumerate(whole):
        assert assemble(messages, change.position).changes == whole[place + 1 :]


def test_g2_changes_in_the_copy_do_not_come_again() -> None:
    """A table's changes count from the consistent point of its copy on."""
    messages = [*transaction(16, *inserts(1, 1)), *transaction(32, *inserts(2, 2))]
    assert [c.key for c in assemble(messages, starts_at=32).changes] == [("2",)]
    assert assemble(messages, starts_at=33).changes == []
    assert assemble(messages, starts_at=NEVER).changes == []


def test_changes_of_tables_that_are_not_wanted_still_count() -> None:
    """Places do not depend on which tables the project names."""
    assembler = Assembler("shop")
    assembler.define(OID, TablePlan.make(SCHEMA))
    assembler.define(8, None)
    for message in transaction(16, Insert(8, ("1",)), Truncate((8, OID), 0), *inserts(1, 1)):
        assembler.feed(encode(message))
    assert [(c.op, c.position[-1]) for c in assembler.changes] == [("t", "3"), ("c", "4")]


@pytest.mark.parametrize(
    ("kind", "old", "new", "after", "old_key"),
    [
        (None, None, ("1", UNCHANGED), ("1", UNCHANGED), None),
        ("key", ("1", None), ("2", UNCHANGED), ("2", UNCHANGED), ("1",)),
        ("key", ("1", None), ("1", None), ("1", None), None),
        ("full", ("1", "big"), ("1", UNCHANGED), ("1", "big"), None),
        ("full", ("1", None), ("1", UNCHANGED), ("1", None), None),
        ("key", ("1", None), (UNCHANGED, "v"), ("1", "v"), None),
    ],
)
def test_updates(
    kind: str | None, old: Row | None, new: Row, after: Row, old_key: tuple[str, ...] | None
) -> None:
    """What an update left out is taken from the old row as far as that is known."""
    update = Update(OID, kind, old, new)  # type: ignore[arg-type]
    (change,) = assemble(transaction(16, update)).changes
    assert (change.after, change.old_key, change.before) == (after, old_key, old)


def test_deletes_carry_what_is_known() -> None:
    """A delete has the key, and before it what the source sent."""
    delete = Delete(OID, "key", ("1", None))
    (change,) = assemble(transaction(16, delete)).changes
    assert (change.op, change.key, change.before, change.after) == ("d", ("1",), ("1", None), None)


def test_messages_that_are_no_changes_are_passed_over() -> None:
    """Origins, types and logical messages neither come nor count."""
    extra: list[Message] = [Origin(1, "o"), Type(9, "s", "t"), LogicalMessage(True, 1, "p", b"c")]
    assembler = assemble(transaction(16, *extra, *inserts(1, 1)))
    assert [change.position[-1] for change in assembler.changes] == ["1"]


@pytest.mark.parametrize(
    "messages",
    [
        inserts(1, 1),
        [Begin(16, Microseconds(0), 1), Begin(32, Microseconds(0), 2)],
        [Begin(16, Microseconds(0), 1), Commit(32, 40, Microseconds(0))],
        [Commit(16, 24, Microseconds(0))],
        transaction(16, Insert(99, ("1", "x"))),
        transaction(16, Insert(OID, ("1",))),
        transaction(16, Update(OID, None, None, ("1", "2", "3"))),
        transaction(16, Update(OID, "key", ("1",), ("1", "2"))),
        transaction(16, Delete(OID, "key", ("1",))),
        transaction(16, Update(OID, None, None, (UNCHANGED, "v"))),
    ],
)
def test_what_cannot_be_is_an_error(messages: list[Message]) -> None:
    """Messages in an impossible order or shape stop the source instead of making wrong changes."""
    with pytest.raises(ProtocolError):
        assemble(messages)


def test_g12_a_long_transaction_is_taken_in_parts() -> None:
    """Parts come before the end is known; what is complete is taken apart from what is not."""
    assembler = assemble(
        [*transaction(16, *inserts(1, 2)), Begin(32, Microseconds(0), 1), *inserts(3, 6)]
    )
    assert assembler.complete == 2
    assert [change.key for change in assembler.take_complete()] == [("1",), ("2",)]
    assert assembler.complete == 0
    assert [change.key for change in assembler.take_part(3)] == [("3",), ("4",), ("5",)]
    assembler.feed(encode(Commit(32, 40, Microseconds(0))))
    assert [change.key for change in assembler.take_complete()] == [("6",)]


def relation(identity: str, *flags: bool) -> Relation:
    """A relation with columns a, b, ...; the flags say which are the identity."""
    columns = (RelationColumn("ab"[i], 23, -1, flag) for i, flag in enumerate(flags))
    return Relation(OID, "public", "t", identity, tuple(columns))


@pytest.mark.parametrize(
    ("shape", "primary_key", "key"),
    [
        (relation("d", True, False), (), ["a"]),
        (relation("i", False, True), ("a",), ["b"]),
        (relation("f", True, True), ("b",), ["b"]),
        (relation("f", True, True), (), ["a", "b"]),
        (relation("f", True, True), ("gone",), ["a", "b"]),
    ],
)
def test_the_key_is_the_replica_identity(
    shape: Relation, primary_key: tuple[str, ...], key: list[str]
) -> None:
    """Or, where that is the full row, the primary key if the table has one."""
    schema = table_schema("shop", shape, {(23, -1): "integer"}, primary_key)
    assert [column.name for column in schema.columns if column.key] == key
    assert {column.type for column in schema.columns} == {"integer"}


def test_a_table_that_lost_its_key_stops_the_source() -> None:
    """Without a key, changes cannot be told apart: the sentence says what to do."""
    with pytest.raises(SourceError, match="REPLICA IDENTITY FULL"):
        TablePlan.make(table_schema("shop", relation("n", False, False), {}, ()))


def table(name: str, **given: object) -> Table:
    """An ordinary table with a key."""
    values = {
        "oid": hash(name) % 1000,
        "namespace": "public",
        "name": name,
        "kind": "r",
        "persistence": "p",
        "is_partition": False,
        "visible": True,
        "readable": True,
        "owned": True,
        "identity": "d",
        "primary_key": ["id"],
        "key": ["id"],
        "rows": 0.0,
    }
    return Table(**{**values, **given})  # type: ignore[arg-type]


def test_tables_are_chosen_by_name_and_glob() -> None:
    """Globs take whole tables only; names are found in the search path or with their schema."""
    there = [
        table("flights", oid=1),
        table("flights_2026", oid=2, is_partition=True),
        table("view", oid=3, kind="v"),
        table("other", oid=4, namespace="far", visible=False),
    ]

    def chosen(*patterns: str) -> list[str]:
        return [found.stream for found in choose_tables(patterns, there, "shop")]

    assert chosen("*") == ["public.flights", "far.other"]
    assert chosen("public.*", "flights") == ["public.flights"]
    assert chosen("far.other", "flights_2026") == ["far.other", "public.flights_2026"]
    for pattern in ("other", "Flights", "nothing.*"):
        with pytest.raises(SourceError, match=r"public\.flights"):
            chosen(pattern)


def test_slot_names_are_what_postgresql_allows_and_never_meet() -> None:
    """Different names of sources give different slots, each at most 63 letters that are allowed."""
    names = ["shop", "Shop", "sh-op", "sh_op", "s" * 60, "s" * 61, "š"]
    slots = [default_slot_name(name) for name in names]
    assert len(set(slots)) == len(names)
    for slot in slots:
        assert len(slot) <= 63
        assert slot.isascii()
        assert set(slot) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")
