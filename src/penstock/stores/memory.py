"""A store in memory, for tests of what stands before a store. It passes the suite of stores.

It takes changes one by one and keeps everything in dictionaries, so it also serves as the plain
statement of what the store in PostgreSQL must come to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

from penstock.errors import BadRecordError, FencedError, RetryableError
from penstock.identity.components import Partition, ignored, resolve
from penstock.identity.reading import record_key, record_of
from penstock.identity.rules import Rules
from penstock.records import (
    BEGINNING,
    UNCHANGED,
    Change,
    Key,
    LogPosition,
    Microseconds,
    Op,
    Position,
    Schema,
    Value,
)
from penstock.stores.base import (
    ApplyEvidence,
    ApplyRows,
    DeadLetter,
    DocumentVersion,
    Effect,
    Move,
    PermissionEntry,
    Publish,
    ReplaceDocuments,
    SetPermissions,
    TruncateDocuments,
    no_destination,
)

_NEVER = Position("")


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """A row by the names of its columns."""

    values: Mapping[str, Value]
    position: Position
    committed_at: Microseconds


@dataclass(slots=True)
class MemoryTable:
    """A live table."""

    schema: Schema
    rows: dict[Key, MemoryRow] = field(default_factory=dict)
    gone: dict[Key, Position] = field(default_factory=dict)
    truncated_at: Position = _NEVER

    def copy(self) -> MemoryTable:
        """The same, free to be changed."""
        return replace(self, rows=dict(self.rows), gone=dict(self.gone))


@dataclass(slots=True)
class _State:
    tables: dict[tuple[str, str], MemoryTable] = field(default_factory=dict)
    documents: dict[tuple[str, str], DocumentVersion] = field(default_factory=dict)
    vectors: dict[tuple[str, bytes], Any] = field(default_factory=dict)
    heads: dict[tuple[str, bytes], str] = field(default_factory=dict)
    positions: dict[tuple[str, str, int], LogPosition] = field(default_factory=dict)
    passed: dict[tuple[str, str, int], Position] = field(default_factory=dict)
    as_of: dict[tuple[str, str, int], Microseconds] = field(default_factory=dict)
    letters: list[DeadLetter] = field(default_factory=list)
    entries: dict[tuple[str, str, str], PermissionEntry] = field(default_factory=dict)
    evidence: dict[str, dict[tuple[str, str], MemoryTable]] = field(default_factory=dict)

    def copy(self) -> _State:
        return _State(
            {stream: table.copy() for stream, table in self.tables.items()},
            dict(self.documents),
            dict(self.vectors),
            dict(self.heads),
            dict(self.positions),
            dict(self.passed),
            dict(self.as_of),
            list(self.letters),
            dict(self.entries),
            {
                kind: {stream: table.copy() for stream, table in tables.items()}
                for kind, tables in self.evidence.items()
            },
        )


class MemoryStore:
    """All in dictionaries; transactions wait for each other."""

    def __init__(self) -> None:
        self._state = _State()
        self._writing = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryTransaction]:
        """Begin; leaving normally commits, leaving with an exception undoes everything."""
        async with self._writing:
            state = self._state.copy()
            yield MemoryTransaction(state)
            self._state = state

    async def position(self, consumer: str, topic: str, partition: int) -> LogPosition:
        return self._state.positions.setdefault((consumer, topic, partition), BEGINNING)

    async def passed(self, consumer: str, topic: str, partition: int) -> Position | None:
        return self._state.passed.get((consumer, topic, partition))

    async def known_vectors(
        self, model: str, hashes: Sequence[bytes], head: str = ""
    ) -> set[bytes]:
        stored, heads = self._state.vectors, self._state.heads
        return {
            known
            for known in hashes
            if (model, known) in stored and head in ("", heads.get((model, known)))
        }

    async def stored_metadata(
        self, source: str, keys: Sequence[str]
    ) -> Mapping[str, tuple[Position, Mapping[str, Any]]]:
        found = ((key, self._state.documents.get((source, key))) for key in keys)
        return {
            key: (version.position, version.metadata)
            for key, version in found
            if version is not None
        }

    async def prepare_tables(self, schemas: Sequence[Schema]) -> None:
        for schema in schemas:
            self._state.tables.setdefault((schema.source, schema.stream), MemoryTable(schema))

    # ------------------------------------------------------------------ for tests to look at

    def rows(self, source: str, stream: str) -> dict[Key, MemoryRow]:
        """A live table's rows by key."""
        table = self._state.tables.get((source, stream))
        return {} if table is None else dict(table.rows)

    def documents(self, source: str) -> dict[str, DocumentVersion]:
        """The documents that are there, by key."""
        return {
            key: version
            for (of, key), version in self._state.documents.items()
            if of == source and version.chunks is not None
        }

    def entries(self, source: str) -> dict[str, PermissionEntry]:
        """The entries of a source that count, by their names."""
        return {
            name: entry
            for (of, _, name), entry in self._state.entries.items()
            if of == source and not entry.gone
        }

    def partition(self, kind: str, rules: Rules) -> Partition:
        """Who is who, worked out from all evidence at once."""
        records = [
            record_of(
                record_key(table.schema, key),
                {name: None if value is UNCHANGED else value for name, value in row.values.items()},
                rules,
                position=row.position,
                committed_at=row.committed_at,
            )
            for table in self._state.evidence.get(kind, {}).values()
            for key, row in table.rows.items()
        ]
        return resolve(records, rules, ignored=ignored(records, rules))

    @property
    def letters(self) -> Sequence[DeadLetter]:
        """What was buried, in order."""
        return tuple(self._state.letters)

    def as_of(self, consumer: str, topic: str, partition: int) -> Microseconds | None:
        """Up to which time a consumer has everything."""
        return self._state.as_of.get((consumer, topic, partition))


class MemoryTransaction:
    """Changes a copy that takes the state's place at the end."""

    def __init__(self, state: _State) -> None:
        self._state = state

    async def apply(self, effect: Effect) -> None:
        if isinstance(effect, ApplyRows):
            for change in effect.changes:
                self._change(self._state.tables, change)
        elif isinstance(effect, ApplyEvidence):
            tables = self._state.evidence.setdefault(effect.kind, {})
            for change in effect.changes:
                self._change(tables, change)
        elif isinstance(effect, ReplaceDocuments):
            self._replace(effect)
        elif isinstance(effect, TruncateDocuments):
            self._truncate_documents(effect)
        elif isinstance(effect, SetPermissions):
            self._set_permissions(effect)
        elif isinstance(effect, Publish):
            raise no_destination(effect)
        else:
            assert_never(effect)

    def _set_permissions(self, effect: SetPermissions) -> None:
        for entry in effect.entries:
            name = (entry.source, entry.place, entry.entry)
            before = self._state.entries.get(name)
            if before is None or before.position < entry.position:
                self._state.entries[name] = entry

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            known = [_identity(each) for each in self._state.letters]
            if _identity(letter) in known:
                self._state.letters[known.index(_identity(letter))] = letter
            else:
                self._state.letters.append(letter)

    async def move(self, step: Move) -> None:
        place = (step.consumer, step.topic, step.partition)
        if self._state.positions.get(place) != step.expected:
            raise FencedError(
                f"expected the consumer {step.consumer!r} at {step.expected}, it is at "
                f"{self._state.positions.get(place)!r}: another process moved it"
            )
        self._state.positions[place] = step.to
        if step.position is not None:
            passed = self._state.passed.get(place, step.position)
            self._state.passed[place] = max(passed, step.position)
        if step.as_of is not None:
            before = self._state.as_of.get(place, step.as_of)
            self._state.as_of[place] = max(before, step.as_of)

    # ------------------------------------------------------------------ rows

    def _change(self, tables: dict[tuple[str, str], MemoryTable], change: Change) -> None:
        schema = change.schema
        table = tables.setdefault((schema.source, schema.stream), MemoryTable(schema))
        if change.op is Op.TRUNCATE:
            if change.position > table.truncated_at:
                table.truncated_at = change.position
                table.rows = {k: r for k, r in table.rows.items() if r.position > change.position}
        elif change.op is Op.DELETE or change.after is None:
            self._remove(table, change.key, change)
        else:
            self._put(table, change, change.after)

    def _put(self, table: MemoryTable, change: Change, after: Sequence[Value]) -> None:
        source = change.key if change.old_key is None else change.old_key
        stood = table.rows.get(source)
        if change.old_key is not None:
            self._remove(table, change.old_key, change)
        if not self._is_later(table, change.key, change.position):
            return
        values = dict(zip(change.schema.names, after, strict=True))
        for name, value in values.items():
            if value is UNCHANGED:
                if stood is None:
                    raise BadRecordError(f"expected a row with the key {source!r}, got none")
                values[name] = stood.values.get(name)
        table.rows[change.key] = MemoryRow(values, change.position, change.committed_at)

    def _remove(self, table: MemoryTable, key: Key, change: Change) -> None:
        stood = table.rows.get(key)
        if stood is not None and stood.position < change.position:
            del table.rows[key]
        table.gone[key] = max(table.gone.get(key, _NEVER), change.position)

    def _is_later(self, table: MemoryTable, key: Key, position: Position) -> bool:
        stood = table.rows.get(key)
        return (
            position > table.truncated_at
            and position > table.gone.get(key, _NEVER)
            and (stood is None or position > stood.position)
        )

    # ------------------------------------------------------------------ documents

    def _replace(self, effect: ReplaceDocuments) -> None:
        for known, number in effect.vectors.items():
            self._state.vectors[effect.model, known] = effect.matrix[number]
            self._state.heads[effect.model, known] = effect.head
        before = dict(self._state.documents)
        for version in effect.documents:
            place = (version.source, version.key)
            stored = self._state.documents.get(place)
            at = _NEVER if stored is None else stored.position
            if version.position <= at or at < (version.since or _NEVER):
                continue
            base = before.get((version.source, version.base or version.key))
            there = _NEVER if base is None else base.position
            if version.based_on is not None and version.based_on != there:
                raise RetryableError("the version that this one was completed from has changed")
            self._state.documents[place] = version

    def _truncate_documents(self, effect: TruncateDocuments) -> None:
        for place, version in self._state.documents.items():
            of_stream = version.source == effect.source and version.stream == effect.stream
            if of_stream and version.position < effect.position:
                self._state.documents[place] = replace(
                    version, chunks=None, position=effect.position
                )


def _identity(letter: DeadLetter) -> tuple[object, ...]:
    """What makes two letters one: the change, not the batch in which it was met."""
    change = letter.change
    schema = change.schema
    place = (letter.pipeline, letter.topic, letter.partition)
    return (*place, schema.source, schema.stream, change.key, change.position)
