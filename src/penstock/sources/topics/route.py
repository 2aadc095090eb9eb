"""How to read messages that look like one that was read: columns at a time. See `fast`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import repeat
from operator import attrgetter
from typing import Any, Final, NamedTuple, cast

import msgspec

from penstock.errors import BadRecordError
from penstock.records import UNCHANGED, Change, Key, Op, Position, Row, Value
from penstock.sources.topics import connect
from penstock.sources.topics.connect import ColumnType, Json
from penstock.sources.topics.debezium import OPS
from penstock.sources.topics.shapes import Plan, is_unavailable

_MIXED_PIECES: Final = 64
_BEFORE, _TRANSACTION = 1, 2
_new = cast("Callable[[tuple[Any, ...]], Change]", partial(tuple.__new__, Change))
REFUSED: Final = (
    msgspec.DecodeError,
    BadRecordError,
    UnicodeDecodeError,
    RecursionError,
    ValueError,
    OverflowError,
    AttributeError,
)
_BOOLEANS: Final = {True: "t", False: "f", None: None}


class Wrapped(NamedTuple):
    """What stands before and after a payload in its message: a schema and braces, or nothing."""

    before: bytes
    after: int

    def strip(self, values: Sequence[bytes]) -> Sequence[bytes]:
        """The payloads; ``ValueError`` when one is wrapped differently."""
        if not self.after:
            return values
        before, skip = self.before, len(self.before)
        if not all([value.startswith(before) for value in values]):  # noqa: C419 - a list is quicker here
            raise ValueError("another schema")
        if not all([value.endswith(b"}") for value in values]):  # noqa: C419 - as above
            raise ValueError("another end")
        return [value[skip:-1] for value in values]


class _Shell(msgspec.Struct):
    payload: msgspec.Raw
    schema: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def wrapping(value: bytes) -> Wrapped | None:
    """How the payload of a message that has a schema is wrapped; None where it cannot be told."""
    try:
        shell = msgspec.json.decode(value, type=_Shell)
    except msgspec.DecodeError:
        return Wrapped(b"", 0)
    payload = bytes(shell.payload)
    if shell.schema is msgspec.UNSET or not value.endswith(payload + b"}"):
        return None
    return Wrapped(value[: -len(payload) - 1], 1)


class Route:
    """How to read messages that look like one that was read."""

    def __init__(
        self,
        stream: str,
        plan: Plan,
        *,
        envelope: type[Any],
        wrapped: Wrapped,
        key: tuple[type[Any], Wrapped, Sequence[int]] | None,
        micros: bool,
        unavailable: str,
    ) -> None:
        self.stream = stream
        self.plan = plan
        self._decode = msgspec.json.Decoder(envelope).decode
        self._wrapped = wrapped
        self._key = key
        self._keys_of = None if key is None else msgspec.json.Decoder(key[0]).decode
        self._micros = micros
        self._unavailable = unavailable
        self._indexes = plan.schema.key_indexes
        self.refusals = 0
        self._mixed = 0
        self._take = attrgetter(
            "op",
            "before",
            "transaction",
            "source.gtid",
            "source.txId",
            "source.ts_us" if micros else "source.ts_ms",
            *(f"after.f{i}" for i in range(len(plan.types))),
        )
        self._columns = [attrgetter(f"f{i}") for i in range(len(plan.types))]
        self._renders = [_column_render(of, unavailable) for of in plan.types]

    def changes(
        self,
        values: Sequence[bytes],
        keys: Sequence[bytes | None],
        positions: Sequence[Position],
    ) -> list[Change]:
        """The changes of these messages; raises one of `REFUSED` when one does not fit."""
        if not values:
            return []
        payloads = self._wrapped.strip(values)
        key_rows = self._key_rows(keys)
        if self._mixed == 0:
            # Taking an event apart as soon as it is read is a quarter quicker than keeping it.
            try:
                columns = list(zip(*map(self._take, map(self._decode, payloads)), strict=True))
            except AttributeError:  # no row after: a delete is among them
                columns = []
            if columns and not any(columns[_BEFORE]) and not any(columns[_TRANSACTION]):
                return self._from_columns(columns, positions)
            self._mixed = _MIXED_PIECES
        self._mixed -= 1
        return self._from_events(list(map(self._decode, payloads)), key_rows, positions)

    def _from_columns(
        self, columns: Sequence[Sequence[Any]], positions: Sequence[Position]
    ) -> list[Change]:
        """The changes of events with a row after, none before and no block of a transaction."""
        ops, _, _, gtids, numbers, times, *after = columns
        fresh = None if "u" not in ops else [op != "u" for op in ops]
        texts: list[Sequence[Value]] = [
            list(render(column, fresh)) for render, column in zip(self._renders, after, strict=True)
        ]
        rows = list(zip(*texts, strict=True))
        named: Iterable[str | None] = repeat(None)
        if any(gtids) or any(numbers):
            named = _names(gtids, numbers)
        return list(
            map(
                _new,
                zip(
                    repeat(self.plan.schema),
                    map(OPS.__getitem__, ops),
                    _whole_keys([texts[i] for i in self._indexes]),
                    positions,
                    times if self._micros else [time * 1000 for time in times],
                    rows,
                    repeat(None),
                    repeat(None),
                    named,
                    strict=False,
                ),
            )
        )

    def _from_events(
        self,
        events: Sequence[Any],
        key_rows: Sequence[Key] | None,
        positions: Sequence[Position],
    ) -> list[Change]:
        ops = [OPS[event.op] for event in events]
        fresh = [op is Op.CREATE or op is Op.READ for op in ops]
        before = self._before([event.before for event in events])
        after: Sequence[Row | None]
        if Op.DELETE in ops:
            given = [None if event.op == "d" else event.after for event in events]
            after = self._some_rows(given, fresh)
            found = self._keys_with_deletes(ops, after, before, key_rows)
        else:
            after = self._rows([event.after for event in events], fresh)
            found = self._keys(after)
        return list(
            map(
                _new,
                zip(
                    repeat(self.plan.schema),
                    ops,
                    found,
                    positions,
                    self._times(events),
                    after,
                    repeat(None) if before is None else before,
                    repeat(None) if before is None else self._old_keys(found, after, before),
                    _transactions(events),
                    strict=False,
                ),
            )
        )

    # ------------------------------------------------------------------ rows

    def _some_rows(self, given: list[Any], fresh: Sequence[bool]) -> list[Row | None]:
        if None not in given:
            return cast("list[Row | None]", self._rows(given, fresh))
        there = [i for i, row in enumerate(given) if row is not None]
        rows: list[Row | None] = [None] * len(given)
        found = self._rows([given[i] for i in there], [fresh[i] for i in there])
        for i, row in zip(there, found, strict=True):
            rows[i] = row
        return rows

    def _rows(self, given: Sequence[Any], fresh: Sequence[bool]) -> list[Row]:
        """Rows column by column; a row that is None has no columns (``AttributeError``)."""
        columns = [
            render(list(map(column, given)), fresh)
            for render, column in zip(self._renders, self._columns, strict=True)
        ]
        return list(zip(*columns, strict=True))

    def _before(self, given: list[Any]) -> Sequence[Row | None] | None:
        if not any(given):
            return None
        return [
            row
            if row is None or UNCHANGED not in row
            else tuple(None if value is UNCHANGED else value for value in row)
            for row in self._some_rows(given, [False] * len(given))
        ]

    # ------------------------------------------------------------------ keys

    def _keys(self, rows: Sequence[Row]) -> list[Key]:
        """The keys of rows, which must be whole: anything else is looked at the slow way."""
        return _whole_keys([[row[i] for row in rows] for i in self._indexes])

    def _key_rows(self, keys: Sequence[bytes | None]) -> Sequence[Key] | None:
        """The keys that the messages carry, after a look at whether they are of the known form."""
        if self._key is None:
            if any(key is not None for key in keys):
                raise ValueError("a key where there was none")
            return None
        _, wrapped, indexes = self._key
        if None in keys:
            raise ValueError("no key where there was one")
        assert self._keys_of is not None
        found = list(map(self._keys_of, wrapped.strip(cast("Sequence[bytes]", keys))))
        return cast("Sequence[Key]", _KeyTexts(found, indexes, self.plan))

    def _keys_with_deletes(
        self,
        ops: Sequence[Op],
        after: Sequence[Row | None],
        before: Sequence[Row | None] | None,
        key_rows: Sequence[Key] | None,
    ) -> list[Key]:
        key_of = self.plan.key_of
        keys: list[Key] = []
        for i, op in enumerate(ops):
            row = after[i] if op is not Op.DELETE else None if before is None else before[i]
            if row is None:
                raise ValueError("no row")
            key = key_rows[i] if op is Op.DELETE and key_rows is not None else key_of(row)
            if None in key or UNCHANGED in cast("tuple[Value, ...]", key):
                raise ValueError("a part of the key is missing")
            keys.append(key)
        return keys

    def _old_keys(
        self, keys: Sequence[Key], after: Sequence[Row | None], before: Sequence[Row | None]
    ) -> list[Key | None]:
        key_of = self.plan.key_of
        old: list[Key | None] = [None] * len(keys)
        for i, row in enumerate(before):
            if row is not None and after[i] is not None:
                was = key_of(row)
                if was != keys[i] and any(part is not None for part in was):
                    old[i] = was
        return old

    # ------------------------------------------------------------------ times

    def _times(self, events: Sequence[Any]) -> list[int]:
        if self._micros:
            return [event.source.ts_us for event in events]
        return [event.source.ts_ms * 1000 for event in events]


def _whole_keys(columns: Sequence[Sequence[Value]]) -> list[Key]:
    for column in columns:
        if None in column or UNCHANGED in column:
            raise ValueError("a part of the key is missing")
    return cast("list[Key]", list(zip(*columns, strict=True)))


class _KeyTexts:
    """Keys as the messages carry them, rendered when asked for: only deletes need theirs."""

    def __init__(self, found: Sequence[Any], indexes: Sequence[int], plan: Plan) -> None:
        self._found = found
        self._indexes = indexes
        self._plan = plan

    def __getitem__(self, i: int) -> Key:
        values = msgspec.structs.astuple(self._found[i])
        return tuple(
            None if values[at] is None else of.render(values[at])
            for at, of in zip(
                self._indexes,
                (self._plan.types[k] for k in self._plan.schema.key_indexes),
                strict=True,
            )
        )


def _transactions(events: Sequence[Any]) -> list[str | None]:
    names = _names([event.source.gtid for event in events], [event.source.txId for event in events])
    return [
        name if event.transaction is None else event.transaction.id or name
        for name, event in zip(names, events, strict=True)
    ]


def _names(gtids: Sequence[Any], numbers: Sequence[Any]) -> list[str | None]:
    return [
        str(gtid or number) if gtid or number else None
        for gtid, number in zip(gtids, numbers, strict=True)
    ]


# --------------------------------------------------------------------------- columns

_Render = Callable[[Sequence[Json], Sequence[bool] | None], Iterable[Value]]


def _column_render(of: ColumnType, unavailable: str) -> _Render:
    """Renders a column's values; the second argument says which rows are new ones, where nothing
    can be unavailable (None: all of them)."""
    if of.render is connect.whole and of.json is int:
        return _wholes
    if of.json is bool:
        return lambda column, _: [_BOOLEANS[value] for value in column]
    if of.json in {int, float}:
        render = of.render
        return lambda column, _: [None if v is None else render(v) for v in column]
    return _Marked(of, unavailable)


def _wholes(column: Sequence[Json], fresh: Sequence[bool] | None) -> Iterable[Value]:  # noqa: ARG001 - see `_column_render`
    if None in column:
        return [None if value is None else str(value) for value in column]
    return map(str, column)


class _Marked:
    """Columns in which a value may be marked as not sent."""

    def __init__(self, of: ColumnType, unavailable: str) -> None:
        self._render = of.render
        self._plain = of.json is str and of.render is connect.TEXT.render
        self._text = of.json is str
        self._mark = unavailable
        self._marks = [
            mark
            for mark in (unavailable, _base64(unavailable))
            if is_unavailable(mark, unavailable)
        ]

    def __call__(self, column: Sequence[Json], fresh: Sequence[bool] | None) -> Iterable[Value]:
        if fresh is None or (self._text and not any(mark in column for mark in self._marks)):
            if self._plain:
                return column
            render = self._render
            return [None if value is None else render(value) for value in column]
        return [self._one(value, new) for value, new in zip(column, fresh, strict=True)]

    def _one(self, value: Json, new: bool) -> Value:  # noqa: FBT001 - one of two columns
        if value is None:
            return None
        if not new and is_unavailable(value, self._mark):
            return UNCHANGED
        return self._render(value)


def _base64(mark: str) -> str:
    from base64 import b64encode

    return b64encode(mark.encode()).decode()
