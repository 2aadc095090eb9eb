"""Whatever happens to a source's table, its live table ends equal: in any batches, with replays.

Random histories of a small table (inserts, updates that leave values out, moved and traded keys,
deletes, truncates) are applied to the real store, cut anywhere, with any stretch applied again in
between, and compared with the plain dictionary that made the history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import count, pairwise

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.database.connect import open_pool
from penstock.records import (
    UNCHANGED,
    Change,
    Column,
    Key,
    Microseconds,
    Op,
    Position,
    Row,
    Schema,
)
from penstock.stores.base import ApplyRows, Store
from penstock.stores.memory import MemoryStore
from penstock.stores.postgres.store import PostgresStore

COLUMNS = (Column("id", "integer", key=True), Column("name", "text"), Column("body", "text"))
KEYS = ("1", "2", "3", "4")
ACTIONS = (
    *("insert", "update", "touch", "move", "delete") * 3,
    *("trade", "swap", "return", "twins", "copy", "truncate"),
)

sources = count(1)


class Source:
    """A table, and the changes that a capture of it would send."""

    def __init__(self, name: str) -> None:
        self.schema = Schema(name, "public.things", COLUMNS)
        self.rows: dict[str, tuple[str, str, str]] = {}
        self.changes: list[Change] = []
        self._texts = count(1)

    def do(self, action: str, key: str, other: str) -> None:
        """One action; nothing happens where the rows do not allow it."""
        there, free = key in self.rows, other not in self.rows
        if action == "insert" and not there:
            self._insert(key)
        elif action == "truncate":
            self.rows.clear()
            self._send(Op.TRUNCATE, None, None)
        elif action in _ALONE and there:
            _ALONE[action](self, key)
        elif action in _TO_FREE and there and free:
            _TO_FREE[action](self, key, other)
        elif action in _WITH_OTHER and there and not free and key != other:
            _WITH_OTHER[action](self, key, other)

    def _update(self, key: str) -> None:
        self._insert(key, Op.UPDATE)

    def _delete(self, key: str) -> None:
        del self.rows[key]
        self._send(Op.DELETE, key, None)

    def _insert(self, key: str, op: Op = Op.CREATE) -> None:
        row = (key, f"n{next(self._texts)}", f"b{next(self._texts)}")
        self.rows[key] = row
        self._send(op, key, row)

    def _touch(self, key: str) -> None:
        """An update beside a large value that did not change."""
        row = (key, f"n{next(self._texts)}", self.rows[key][2])
        self.rows[key] = row
        self._send(Op.UPDATE, key, (key, row[1], UNCHANGED))

    def _move(self, key: str, to: str) -> None:
        _, name, body = self.rows.pop(key)
        self.rows[to] = (to, name, body)
        self._send(Op.UPDATE, to, (to, name, UNCHANGED), old_key=key)

    def _trade(self, key: str, other: str) -> None:
        self._move(key, "99")
        self._move(other, key)
        self._move("99", other)

    def _swap(self, key: str, other: str) -> None:
        """In one statement, as a deferred constraint allows; such tables send whole old rows."""
        first, second = self.rows[key], self.rows[other]
        self.rows[key], self.rows[other] = (key, *second[1:]), (other, *first[1:])
        tag = f"swap {len(self.changes)}"
        for old, to in ((first, other), (second, key)):
            self._send(
                Op.UPDATE, to, (to, old[1], old[2]), old_key=old[0], before=old, transaction=tag
            )

    def _return(self, key: str, other: str) -> None:
        """There and back: on the wire the same as two equal rows that trade keys."""
        row = self.rows[key]
        away, tag = (other, *row[1:]), f"return {len(self.changes)}"
        for old, new in ((row, away), (away, row)):
            self._send(Op.UPDATE, new[0], new, old_key=old[0], before=old, transaction=tag)

    def _twin(self, key: str, other: str) -> None:
        """Another row becomes equal to this one in all but its key."""
        op = Op.UPDATE if other in self.rows else Op.CREATE
        self.rows[other] = (other, *self.rows[key][1:])
        self._send(op, other, self.rows[other])

    def _twins(self, key: str, other: str) -> None:
        """Two equal rows trade keys."""
        self._twin(key, other)
        self._swap(key, other)

    def _send(
        self,
        op: Op,
        key: str | None,
        after: Row | None,
        *,
        old_key: str | None = None,
        before: Row | None = None,
        transaction: str = "1",
    ) -> None:
        number = len(self.changes) + 1
        self.changes.append(
            Change(
                self.schema,
                op,
                () if key is None else (key,),
                Position(f"{number:08X}"),
                Microseconds(number),
                after,
                before,
                None if old_key is None else (old_key,),
                transaction,
            )
        )


_ALONE = {"update": Source._update, "touch": Source._touch, "delete": Source._delete}
_TO_FREE = {"move": Source._move, "return": Source._return, "copy": Source._twin}
_WITH_OTHER = {"trade": Source._trade, "swap": Source._swap, "twins": Source._twins}


@st.composite
def plans(draw: st.DrawFn) -> tuple[Source, list[Sequence[Change]]]:
    """A history and the batches in which it is applied, with stretches of it repeated."""
    source = Source(f"s{next(sources)}")
    for key in KEYS[: draw(st.integers(0, len(KEYS)))]:
        source.do("insert", key, key)
    actions = st.tuples(st.sampled_from(ACTIONS), st.sampled_from(KEYS), st.sampled_from(KEYS))
    for action, key, other in draw(st.lists(actions, min_size=8, max_size=30)):
        source.do(action, key, other)
    source.do("insert", KEYS[0], KEYS[0])
    total = len(source.changes)
    # What trades keys is not cut: what a source commits at once is applied at once.
    places = [
        i for i in range(1, total) if not _same_statement(source.changes[i - 1], source.changes[i])
    ]
    cuts = sorted({0, total, *draw(st.sets(st.sampled_from(places or [total]), max_size=6))})
    batches: list[Sequence[Change]] = []
    for start, end in pairwise(cuts):
        batches.append(source.changes[start:end])
        seen = [place for place in (0, *places) if place < end]
        for _ in range(draw(st.integers(0, 2))):
            first, last = sorted((draw(st.sampled_from(seen)), draw(st.sampled_from([*seen, end]))))
            batches.append(source.changes[first:last])
    return source, [batch for batch in batches if batch]


def _same_statement(one: Change, next_one: Change) -> bool:
    tag = next_one.transaction or ""
    return tag != "1" and tag == one.transaction


async def run(store: Store, batches: Sequence[Sequence[Change]]) -> None:
    for batch in batches:
        async with store.transaction() as transaction:
            await transaction.apply(ApplyRows(batch))


@pytest.fixture(scope="module")
def project_dsn(postgres: object) -> Iterator[str]:
    """One database for all examples: each has a source of its own."""
    name = postgres.create("project", "penstock_template")  # type: ignore[attr-defined]
    yield postgres.dsn(name)  # type: ignore[attr-defined]
    postgres.drop(name)  # type: ignore[attr-defined]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans())
def test_g1_g2_g4_a_live_table_ends_equal_to_its_source(
    plan: tuple[Source, list[Sequence[Change]]], project_dsn: str
) -> None:
    """Any history, any batches, any stretch again: the rows are the source's rows."""
    source, batches = plan

    async def apply() -> None:
        pool = await open_pool(project_dsn, max_size=1)
        try:
            await run(PostgresStore(pool), batches)
        finally:
            await pool.close()

    asyncio.run(apply())
    with psycopg.connect(project_dsn) as connection:
        rows = connection.execute(
            f"SELECT id::text, name, body FROM {source.schema.source}.things"
        ).fetchall()
    assert {row[0]: row for row in rows} == source.rows


@settings(max_examples=300, deadline=None)
@given(plan=plans())
def test_g1_g2_g4_so_does_the_store_in_memory(
    plan: tuple[Source, list[Sequence[Change]]],
) -> None:
    """The twin comes to the same, but for rows that trade keys in one statement."""
    source, batches = plan
    if any((change.transaction or "1") != "1" for change in source.changes):
        return
    store = MemoryStore()
    asyncio.run(run(store, batches))
    found: dict[Key, Row] = {
        key: tuple(row.values[name] for name in source.schema.names)
        for key, row in store.rows(source.schema.source, "public.things").items()
    }
    assert found == {(key,): row for key, row in source.rows.items()}
