"""From replication messages to changes, transaction by transaction. Pure: no I/O, no clock.

The `Assembler` is fed messages in order. It gives each change its position, leaves out what the log
holds already (after a crash PostgreSQL offers confirmed transactions again) and what an initial
copy contains, and knows how far complete transactions go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Final, cast

from penstock.errors import SourceError
from penstock.records import (
    UNCHANGED,
    Change,
    Column,
    Key,
    Microseconds,
    Op,
    Row,
    Schema,
)
from penstock.sources.postgres.bulk import decode_rows
from penstock.sources.postgres.decoder import (
    INSERT,
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    OldKind,
    Origin,
    ProtocolError,
    Relation,
    Truncate,
    Update,
    decode,
)
from penstock.sources.postgres.extras import Keep, message_row
from penstock.sources.postgres.marks import CopyMark, Visibility
from penstock.sources.postgres.positions import parse_position, position_prefix

NEVER: Final = 1 << 64
"""Where a table starts whose copy is yet to be made: after every LSN."""
_EVERYTHING: Final = 1 << 62
_SAME: Final = 5
"""A message's tag and relation."""
_ROWS_ONLY: Final = Keep()
_new = cast("Callable[[type[Change], tuple[Any, ...]], Change]", tuple.__new__)


def _key_maker(indexes: tuple[int, ...]) -> Callable[[Row], Key]:
    if len(indexes) == 1:
        only = indexes[0]
        return lambda row: (row[only],)  # type: ignore[return-value] # keys are never UNCHANGED
    return cast("Callable[[Row], Key]", itemgetter(*indexes))


@dataclass(frozen=True)
class TablePlan:
    """All that is worked out once per shape of a table."""

    schema: Schema
    starts_at: int
    """Changes that committed before this LSN are in the copy of the table."""
    key: Callable[[Row], Key]
    mark: CopyMark | None = None
    """What is kept of the table while it is copied."""

    @classmethod
    def make(cls, schema: Schema, starts_at: int = 0, mark: CopyMark | None = None) -> TablePlan:
        """Raises `SourceError` when the schema has no key."""
        if not schema.key_indexes:
            raise SourceError(
                f"expected a key on table {schema.stream!r} of source {schema.source!r}, got none: "
                "add a primary key, or ALTER TABLE ... REPLICA IDENTITY FULL",
                source=schema.source,
                stream=schema.stream,
            )
        return cls(schema, starts_at, _key_maker(schema.key_indexes), mark)


def table_schema(
    source: str,
    relation: Relation,
    types: Mapping[tuple[int, int], str],
    primary_key: tuple[str, ...],
) -> Schema:
    """The schema of a relation. Its key is the replica identity, or, where that is the full row,
    the primary key if there is one (``primary_key``) and otherwise all columns."""
    names = {column.name for column in relation.columns}
    full = relation.identity == "f"
    by_name = full and bool(primary_key) and names.issuperset(primary_key)
    columns = tuple(
        Column(
            column.name,
            types.get((column.type_oid, column.type_modifier), "text"),
            column.name in primary_key if by_name else full or column.key,
        )
        for column in relation.columns
    )
    return Schema(source, f"{relation.namespace}.{relation.name}", columns)


class Assembler:
    """Changes of the transactions that it is fed.

    ``changes`` holds what was not taken yet; the first ``complete`` of them belong to transactions
    that are complete, the last of which ended at ``end_lsn`` and was committed at ``committed_at``.
    """

    def __init__(
        self,
        source: str,
        position: str | None = None,
        end_lsn: int = 0,
        *,
        keep: Keep = _ROWS_ONLY,
    ) -> None:
        self._source = source
        self._keep = keep
        self._messages = TablePlan.make(keep.schema)
        self._resume = parse_position(position) if position else (-1, 0)
        self._plans: dict[int, TablePlan | None] = {}
        self._skip = 0
        self._place = 0
        self._begin: Begin | None = None
        self._prefix = ""
        self._transaction = ""
        self._committed = Microseconds(0)
        self._commit_lsn = 0
        self._unsettled: set[int] = set()
        self._handlers: Mapping[type, Callable[[Any], None]] = {
            Insert: self._insert,
            Update: self._update,
            Delete: self._delete,
            Begin: self._start,
            Commit: self._finish,
            Truncate: self._truncate,
            LogicalMessage: self._message,
            Origin: self._came_from,
        }
        self.changes: list[Change] = []
        self.complete = 0
        self.end_lsn = end_lsn
        self.committed_at: Microseconds | None = None

    def define(self, oid: int, plan: TablePlan | None) -> None:
        """Changes of this relation look so from here on; None leaves them out."""
        self._plans[oid] = plan

    def begin_table(self, oid: int, starts_at: int, mark: CopyMark | None) -> None:
        """Changes of this relation that commit from this LSN on are wanted, and noted in ``mark``
        while there is one."""
        plan = self._plans.get(oid)
        if plan is not None:
            self._plans[oid] = replace(plan, starts_at=starts_at, mark=mark)

    def is_seen_by(self, snapshot: Visibility) -> bool:
        """Whether all transactions that were begun here are in the snapshot. A transaction is sent
        to us as soon as its commit is on disk, a moment before others can see it."""
        self._unsettled = snapshot.unsettled(self._unsettled)
        return all(map(snapshot.sees, self._unsettled))

    def settle(self, snapshot: Visibility) -> None:
        """Forget what every snapshot from now on sees."""
        self._unsettled = snapshot.unsettled(self._unsettled)

    def expect(self, xids: Iterable[int]) -> None:
        """These may have been begun by an earlier life."""
        self._unsettled.update(xids)

    @property
    def is_open(self) -> bool:
        """Whether a transaction has begun and not ended."""
        return self._begin is not None

    def take_complete(self) -> list[Change]:
        """Remove the changes of complete transactions."""
        return self._take(self.complete)

    def take_part(self, most: int) -> list[Change]:
        """Remove the first changes of a transaction that is too long to wait for its end."""
        return self._take(most)

    def _take(self, count: int) -> list[Change]:
        taken, self.changes = self.changes[:count], self.changes[count:]
        self.complete = max(0, self.complete - count)
        return taken

    def feed(self, data: bytes, start: int = 0) -> None:
        """Add one message. Raises `ProtocolError` for what cannot stand at this place."""
        message = decode(data, start)
        handle = self._handlers.get(type(message))
        if handle is not None:
            handle(message)

    def feed_all(self, pieces: Sequence[bytes], start: int) -> None:
        """Add messages, each from ``start`` of its piece to its end: the same as `feed` of each."""
        rows = decode_rows(pieces, start)
        place, end = 0, len(pieces)
        while place < end:
            row = rows[place]
            if row is None:
                self.feed(pieces[place], start)
                place += 1
                continue
            head = pieces[place][start : start + _SAME]
            run: list[Row] = [row]
            place += 1
            while place < end and (row := rows[place]) is not None:
                if pieces[place][start : start + _SAME] != head:
                    break
                run.append(row)
                place += 1
            self._new_rows(head[0], int.from_bytes(head[1:], "big"), run)

    def _new_rows(self, tag: int, relation: int, rows: Sequence[Row]) -> None:
        """Inserts, or updates without an old row, of one table, one after the other."""
        first = self._place + 1
        plan = self._plan(relation)
        if plan is None or self._place <= self._skip or plan.mark is not None:
            self._place = first - 1
            for row in rows:
                if tag == INSERT:
                    self._insert(Insert(relation, row))
                else:
                    self._update(Update(relation, None, None, row))
            return
        self._place = first + len(rows) - 1
        schema = plan.schema
        if len(rows[0]) != len(schema.columns):
            raise _wrong_width(schema, rows[0])
        op = Op.CREATE if tag == INSERT else Op.UPDATE
        prefix, committed, transaction = self._prefix, self._committed, self._transaction
        key, new = plan.key, _new
        self.changes += [
            new(
                Change,
                (schema, op, key(row), f"{prefix}{place:08X}", committed, row, None, None,
                 transaction),
            )
            for place, row in enumerate(rows, first)
        ]  # fmt: skip

    def _start(self, begin: Begin) -> None:
        if self._begin is not None:
            raise ProtocolError("expected the end of a transaction, got the beginning of another")
        commit_lsn, place = self._resume
        if begin.commit_lsn < commit_lsn:
            self._skip = _EVERYTHING
        else:
            self._skip = place if begin.commit_lsn == commit_lsn else 0
        self._begin, self._place = begin, 0
        self._prefix = position_prefix(begin.commit_lsn)
        self._transaction = str(begin.xid)
        self._unsettled.add(begin.xid)
        self._committed, self._commit_lsn = begin.committed_at, begin.commit_lsn

    def _finish(self, commit: Commit) -> None:
        if self._begin is None or self._begin.commit_lsn != commit.commit_lsn:
            raise ProtocolError(
                f"expected the commit of {self._begin}, got {commit}: the stream is damaged"
            )
        self._begin = None
        self.complete = len(self.changes)
        self.end_lsn = max(self.end_lsn, commit.end_lsn)
        if self.committed_at is None or commit.committed_at > self.committed_at:
            self.committed_at = commit.committed_at

    def _plan(self, oid: int) -> TablePlan | None:
        """Count a change of this relation; its plan if the change is wanted."""
        if self._begin is None:
            raise ProtocolError("expected the beginning of a transaction, got a change")
        self._place += 1
        try:
            plan = self._plans[oid]
        except KeyError:
            raise ProtocolError(
                f"expected the description of relation {oid} before its first change, got none"
            ) from None
        if plan is None or self._place <= self._skip or self._commit_lsn < plan.starts_at:
            return None
        return plan

    def _insert(self, message: Insert) -> None:
        plan = self._plan(message.relation)
        if plan is None:
            return
        row = message.new
        if len(row) != len(plan.schema.columns):
            raise _wrong_width(plan.schema, row)
        self._add(plan, Op.CREATE, plan.key(row), row)

    def _update(self, message: Update) -> None:
        plan = self._plan(message.relation)
        if plan is None:
            return
        schema, old, row = plan.schema, message.old, message.new
        old_key: Key | None = None
        if len(row) != len(schema.columns):
            raise _wrong_width(schema, row)
        if old is not None and message.kind is not None:
            if len(old) != len(row):
                raise _wrong_width(schema, old)
            row = _filled(schema, message.kind, old, row)
            old_key = plan.key(old)
        key = plan.key(row)
        if UNCHANGED in cast("Row", key):
            raise ProtocolError(f"expected the key of an updated row of {schema.stream!r}")
        if old_key == key:
            old_key = None
        mark = plan.mark
        if mark is not None and UNCHANGED in row and not mark.knows(old_key or key):
            mark.put_off(key, row)
            if old_key is not None:
                self._add(plan, Op.DELETE, old_key, None, old)
            return
        self._add(plan, Op.UPDATE, key, row, old, old_key)

    def _delete(self, message: Delete) -> None:
        plan = self._plan(message.relation)
        if plan is None:
            return
        old = message.old
        if len(old) != len(plan.schema.columns):
            raise _wrong_width(plan.schema, old)
        self._add(plan, Op.DELETE, plan.key(old), None, old)

    def _truncate(self, message: Truncate) -> None:
        for oid in message.relations:
            plan = self._plan(oid)
            if plan is not None:
                self._add(plan, Op.TRUNCATE, (), None)

    def _came_from(self, _: Origin) -> None:
        """The transaction was replicated to the source itself."""
        if self._keep.own_only:
            self._skip = _EVERYTHING

    def _message(self, message: LogicalMessage) -> None:
        """What was written in a transaction has a place in it; what was written outside of one has
        none, and is left out."""
        if not message.transactional or not self._keep.messages:
            return
        if self._begin is None:
            raise ProtocolError("expected the beginning of a transaction, got a message")
        self._place += 1
        if self._place > self._skip:
            row = message_row(f"{self._prefix}{self._place:08X}", message)
            self._add(self._messages, Op.CREATE, (row[0],), row)

    def _add(
        self,
        plan: TablePlan,
        op: Op,
        key: Key,
        after: Row | None,
        before: Row | None = None,
        old_key: Key | None = None,
    ) -> None:
        mark = plan.mark
        if mark is not None:
            if op is Op.TRUNCATE:
                mark.empty()
            else:
                mark.touch(key)
                if old_key is not None:
                    mark.touch(old_key)
        # tuple.__new__ is what Change() comes to, at a third of its time.
        self.changes.append(
            _new(
                Change,
                (
                    plan.schema,
                    op,
                    key,
                    f"{self._prefix}{self._place:08X}",
                    self._committed,
                    after,
                    before,
                    old_key,
                    self._transaction,
                ),
            )
        )


def _filled(schema: Schema, kind: OldKind, old: Row, new: Row) -> Row:
    """The new row with what it left out as unchanged taken from the old one, as far as that is
    known: all of it, or the key."""
    if UNCHANGED not in new:
        return new
    known = range(len(new)) if kind == "full" else schema.key_indexes
    row = list(new)
    for index in known:
        if row[index] is UNCHANGED:
            row[index] = old[index]
    return tuple(row)


def _wrong_width(schema: Schema, row: Row) -> ProtocolError:
    return ProtocolError(
        f"expected {len(schema.columns)} values for table {schema.stream!r}, got {len(row)}"
    )
