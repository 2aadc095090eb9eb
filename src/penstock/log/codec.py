"""Changes to bytes and back, exactly.

A batch is split into groups of changes of one schema and one shape (which of ``after``, ``before``
and ``old_key`` are there); inside a group everything is stored by column. Groups are separate
pieces, so that a reader of some streams does not parse the others.

    byte 0      version of the format
    byte 1      flags: 1 the body is compressed with zlib (no longer written), 2 a text is no valid
                Unicode, 4 the body is compressed with Zstandard
    bytes 2-5   CRC-32 of all the rest (and of the two bytes before)
    bytes 6-    body: length of the head, head, groups

``UNCHANGED`` is a list of row numbers beside a column, never a value, so that no text is special.
"""

from __future__ import annotations

import gc
import json
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias, cast

import orjson

from penstock.errors import DamagedError, FatalError
from penstock.records import UNCHANGED, Change, Column, Op, Row, Schema, Unchanged, Value

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

VERSION: Final = 1
ZLIB: Final = 1
SURROGATES: Final = 2
ZSTANDARD: Final = 4

_FRAME: Final = struct.Struct(">BBI")
_LENGTH: Final = struct.Struct(">I")
_OPS: Final = {op.value: op for op in Op}
_TEXTS: Final = frozenset({str, type(None)})
_VALUES: Final = _TEXTS | {Unchanged}
_MAX_SCHEMAS: Final = 4096
MOST_BYTES: Final = 1 << 30
"""So large may a body be when it is decompressed: as much as PostgreSQL keeps in one value. What
would be larger was not written by us, whatever its checksum says (G12)."""

_Json: TypeAlias = Any  # what a JSON parser returns


_Columns: TypeAlias = list[list[Value]]
_Fields: TypeAlias = list[list[Any]]  # the nine fields of some changes


class Encoded(NamedTuple):
    """A batch as bytes, the streams that it has changes of, and its size before compression."""

    payload: bytes
    streams: tuple[str, ...]
    size: int


class Decoded(NamedTuple):
    """The changes of a batch, and the size that its bytes had before compression."""

    changes: list[Change]
    size: int


class Codec:
    """Encodes and decodes; remembers schemas, so that equal ones are one object.

    ``compress_from`` is the size of a body in bytes from which it is compressed, None for never;
    one that is larger than ``most_bytes`` when it is decompressed is refused.
    """

    def __init__(self, *, compress_from: int | None = None, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._compress_from = compress_from
        self._schemas: dict[str, Schema] = {}
        self._texts: dict[int, tuple[Schema, str]] = {}  # holds the schema: its id stays its own

    def encode(self, changes: Sequence[Change]) -> Encoded:
        """One or more changes as bytes."""
        try:
            if len(changes) == 1 and (columns := _single_columns(changes[0])) is not None:
                return self._encode_one(changes[0].schema, columns)
        except TypeError:
            pass  # a text is no valid Unicode: the long way knows what to do
        groups, order = _grouped(changes)
        try:
            return self._encode(groups, order, orjson.dumps, 0)
        except TypeError:
            return self._encode(groups, order, _dump_any_text, SURROGATES)

    def decode(self, payload: bytes, streams: frozenset[str] | None = None) -> Decoded:
        """The changes of ``payload``, in order; only those of ``streams`` when given."""
        body, load = _open(payload, self._most_bytes)
        try:
            with _without_collector():
                return Decoded(self._decode(body, load, streams), len(body))
        except (LookupError, TypeError, ValueError, AttributeError, struct.error) as error:
            raise _corrupt(f"its content does not have the shape of a batch: {error}") from error

    def _encode(
        self,
        groups: Sequence[_Fields],
        order: Sequence[int] | None,
        dump: Callable[[Any], bytes],
        flags: int,
    ) -> Encoded:
        schemas: dict[Schema, int] = {}
        heads: list[tuple[int, int, int]] = []
        pieces: list[bytes] = []
        for group in groups:
            schema = group[0][0]
            piece = dump(_group_columns(schema, group))
            pieces.append(piece)
            number = schemas.setdefault(schema, len(schemas))
            heads.append((number, len(group[0]), len(piece)))
        texts = [_schema_text(schema, dump) for schema in schemas]
        for text, schema in zip(texts, schemas, strict=True):
            self._remember(text, schema)
        head = dump([texts, heads, order])
        body = b"".join((_LENGTH.pack(len(head)), head, *pieces))
        streams = tuple(dict.fromkeys(schema.stream for schema in schemas))
        return Encoded(_close(body, flags, self._compress_from), streams, len(body))

    def _encode_one(self, schema: Schema, columns: list[_Json]) -> Encoded:
        """What `_encode` makes of one change with valid texts, in a quarter of the time."""
        piece = orjson.dumps(columns)
        head = orjson.dumps([[self._text(schema)], [(0, 1, len(piece))], None])
        body = b"".join((_LENGTH.pack(len(head)), head, piece))
        return Encoded(_close(body, 0, self._compress_from), (schema.stream,), len(body))

    def _text(self, schema: Schema) -> str:
        known = self._texts.get(id(schema))
        if known is not None and known[0] is schema:
            return known[1]
        text = _schema_text(schema, orjson.dumps)
        self._remember(text, schema)
        if len(self._texts) >= _MAX_SCHEMAS:
            self._texts.clear()
        self._texts[id(schema)] = (schema, text)
        return text

    def _decode(
        self, body: bytes, load: Callable[[Any], _Json], streams: frozenset[str] | None
    ) -> list[Change]:
        (length,) = _LENGTH.unpack_from(body)
        start = _LENGTH.size + length
        view = memoryview(body)
        texts, heads, order = load(view[_LENGTH.size : start])
        schemas = [self._schema(text, load) for text in texts]
        groups: list[list[Change] | None] = []
        for number, count, size in heads:
            schema = schemas[number]
            wanted = streams is None or schema.stream in streams
            piece = view[start : start + size]
            groups.append(_group_changes(schema, count, load(piece)) if wanted else None)
            start += size
        if start != len(body):
            raise ValueError(f"{start} bytes are described, {len(body)} are there")
        return _ordered(groups, order)

    def _schema(self, text: str, load: Callable[[Any], _Json]) -> Schema:
        known = self._schemas.get(text)
        if known is not None:
            return known
        source, stream, columns = load(text.encode("utf-8", "surrogatepass"))
        schema = Schema(source, stream, tuple(Column(name, of, key) for name, of, key in columns))
        self._remember(text, schema)
        return schema

    def _remember(self, text: str, schema: Schema) -> None:
        if text not in self._schemas and len(self._schemas) >= _MAX_SCHEMAS:
            del self._schemas[next(iter(self._schemas))]
        self._schemas[text] = schema


@contextmanager
def _without_collector() -> Iterator[None]:
    """A batch is thousands of new tuples that all stay: the garbage collector would look through
    them over and over, which takes as long as making them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


# --------------------------------------------------------------------------- the frame


def _close(body: bytes, flags: int, compress_from: int | None) -> bytes:
    if compress_from is not None and len(body) >= compress_from:
        small = zstd.compress(body, level=1)
        if len(small) < len(body) * 0.8:
            body, flags = small, flags | ZSTANDARD
    check = zlib.crc32(body, zlib.crc32(bytes((VERSION, flags))))
    return _FRAME.pack(VERSION, flags, check) + body


def _open(payload: bytes, most: int) -> tuple[bytes, Callable[[Any], _Json]]:
    if len(payload) < _FRAME.size:
        raise _corrupt(f"it has {len(payload)} bytes and must have at least {_FRAME.size}")
    version, flags, check = _FRAME.unpack_from(payload)
    if zlib.crc32(payload[_FRAME.size :], zlib.crc32(payload[:2])) != check:
        raise _corrupt("its checksum does not match")
    if version != VERSION or flags & ~(ZLIB | SURROGATES | ZSTANDARD):
        raise FatalError(
            f"expected a batch of format {VERSION}, got {version} with flags {flags}: "
            "it was written by a newer version of penstock; upgrade this one",
            version=version,
        )
    body = payload[_FRAME.size :]
    try:
        if flags & (ZSTANDARD | ZLIB):
            body = _decompressed(body, flags, most)
    except (zlib.error, zstd.ZstdError) as error:
        raise _corrupt(f"it cannot be decompressed: {error}") from error
    return body, _load_any_text if flags & SURROGATES else orjson.loads


def _decompressed(body: bytes, flags: int, most: int) -> bytes:
    """Not more than ``most`` bytes are ever made, so that a bomb takes no more than that."""
    unpacker = zstd.ZstdDecompressor() if flags & ZSTANDARD else zlib.decompressobj()
    found: bytes = unpacker.decompress(body, most + 1)
    if len(found) > most:
        raise _corrupt(f"it has more than {most} bytes when it is decompressed")
    if not unpacker.eof or unpacker.unused_data:
        raise _corrupt("it cannot be decompressed: its end is missing, or something follows it")
    return found


def _corrupt(why: str) -> DamagedError:
    return DamagedError(
        f"expected a stored batch of changes, got damaged bytes ({why}): restore the database "
        "from a backup, or drop the topic and load its source again",
        why=why,
    )


def _dump_any_text(value: object) -> bytes:
    """Like `orjson.dumps`, for texts with lone surrogates (a file name that is not UTF-8)."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def _load_any_text(data: bytes | memoryview) -> _Json:
    return json.loads(bytes(data).decode("utf-8", "surrogatepass"))


def _schema_text(schema: Schema, dump: Callable[[Any], bytes]) -> str:
    columns = [(column.name, column.type, column.key) for column in schema.columns]
    return dump([schema.source, schema.stream, columns]).decode("utf-8", "surrogatepass")


# --------------------------------------------------------------------------- groups


def _grouped(changes: Sequence[Change]) -> tuple[Sequence[_Fields], list[int] | None]:
    """The fields of groups of one schema and shape, and for each change the number of its group
    (None: there is one)."""
    fields = _transposed(changes)
    schemas, _, keys, _, _, after, before, old_keys, _ = fields
    if (
        len(set(map(id, schemas))) == 1
        and len(set(map(len, keys))) == 1
        and all(len(set(map(type, column))) == 1 for column in (after, before, old_keys))
        and (old_keys[0] is None or len(set(map(len, old_keys))) == 1)
    ):
        return [fields], None
    same: dict[int, Schema] = {id(schema): schema for schema in schemas}
    equal: dict[Schema, int] = {}
    numbers = {known: equal.setdefault(schema, len(equal)) for known, schema in same.items()}
    groups: dict[tuple[int, int, bool, bool, int], tuple[int, list[Change]]] = {}
    order: list[int] = []
    for change in changes:
        shape = (
            numbers[id(change[0])],
            len(change[2]),
            change[5] is None,
            change[6] is None,
            -1 if change[7] is None else len(change[7]),
        )
        found = groups.get(shape)
        if found is None:
            found = groups[shape] = (len(groups), [])
        found[1].append(change)
        order.append(found[0])
    return [_transposed(group) for _, group in groups.values()], order


def _ordered(groups: Sequence[list[Change] | None], order: Sequence[int] | None) -> list[Change]:
    if order is None:
        (only,) = groups
        return [] if only is None else only
    if sum(1 for group in groups if group is not None) == len(groups):
        pull = [iter(cast("list[Change]", group)).__next__ for group in groups]
        return [pull[number]() for number in order]
    wanted = [None if group is None else iter(group) for group in groups]
    return [next(found) for found in map(wanted.__getitem__, order) if found is not None]


def _single_columns(change: Change) -> list[_Json] | None:
    """What `_group_columns` makes of one plain change; None for one that needs a closer look."""
    schema, op, key, position, time, after, before, old_key, transaction = change
    row = after if after is not None else before
    texts = (*key, *(after or ()), *(before or ()), *(old_key or ()))
    if not set(map(type, texts)) <= _TEXTS:
        return None
    lengths = {len(each) for each in (after, before) if each is not None}
    if lengths and lengths != {len(schema.columns)}:
        return None
    indexes = schema.key_indexes
    derived = row is not None and indexes and key == tuple(row[i] for i in indexes)
    return [
        op.value,
        (position,),
        time,
        transaction,
        None if derived else [(part,) for part in key],
        None if old_key is None else [(part,) for part in old_key],
        None if after is None else [None if value is None else (value,) for value in after],
        None if before is None else [None if value is None else (value,) for value in before],
    ]


def _group_columns(schema: Schema, fields: _Fields) -> list[_Json]:
    _, ops, keys, positions, times, after, before, old_keys, transactions = fields
    after_columns = _row_columns(schema, after)
    before_columns = _row_columns(schema, before)
    key_columns = _transposed(keys)
    rows = after_columns if after_columns is not None else before_columns
    return [
        "".join(ops),
        positions,
        times[0] if len(set(times)) == 1 else times,
        transactions[0] if len(set(transactions)) == 1 else transactions,
        None if _is_derived(schema, key_columns, rows) else _key_columns(key_columns),
        None if old_keys[0] is None else _key_columns(_transposed(old_keys)),
        None if after_columns is None else [_column(values) for values in after_columns],
        None if before_columns is None else [_column(values) for values in before_columns],
    ]


def _transposed(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Rows of one length as columns. Many small iterators, as ``zip(*rows)`` makes them, would set
    off the garbage collector."""
    return [list(map(itemgetter(i), rows)) for i in range(len(rows[0]))]


def _is_derived(schema: Schema, keys: _Columns, rows: _Columns | None) -> bool:
    """Is every key what the key's columns of the row say? Then it is not stored."""
    if rows is None or not schema.key_indexes:
        return False
    return keys == [rows[i] for i in schema.key_indexes]


def _key_columns(columns: _Columns) -> _Columns:
    for values in columns:
        if not set(map(type, values)) <= _TEXTS:
            raise _not_storable(values)
    return columns


def _row_columns(schema: Schema, rows: Sequence[Row | None]) -> _Columns | None:
    """Rows of one group as columns: they are all there or all not."""
    if rows[0] is None:
        return None
    there = cast("Sequence[Row]", rows)
    lengths = set(map(len, there))
    if lengths != {len(schema.columns)}:
        raise FatalError(
            f"expected {len(schema.columns)} values in each row of {schema.stream!r}, got "
            f"{sorted(lengths)}: the source's schema and its rows differ, which is a fault in it",
            stream=schema.stream,
        )
    return _transposed(there)


def _column(values: Sequence[Value]) -> _Json:
    types = set(map(type, values))
    if types <= _TEXTS:
        return values if str in types else None
    if not types <= _VALUES:
        raise _not_storable(values)
    kept = [None if value is UNCHANGED else value for value in values]
    unchanged = [i for i, value in enumerate(values) if value is UNCHANGED]
    return {"values": kept, "unchanged": unchanged}


def _not_storable(values: Sequence[object]) -> FatalError:
    wrong = {type(value).__name__ for value in values if type(value) not in _TEXTS}
    return FatalError(
        f"expected values to be text, None or, outside a key, UNCHANGED, got {sorted(wrong)}: "
        "the source must hand values over as the text that its system prints"
    )


def _group_changes(schema: Schema, count: int, piece: list[_Json]) -> list[Change]:
    ops, positions, times, transactions, keys, old_keys, after, before = piece
    after_columns = _plain(after, count)
    before_columns = _plain(before, count)
    key_columns = _plain(keys, count)
    if key_columns is None:
        rows = after_columns if after_columns is not None else before_columns
        key_columns = [cast("list[Any]", rows)[i] for i in schema.key_indexes]
    fields = zip(
        repeat(schema, count),
        map(_OPS.__getitem__, _sized(ops, count)),
        _tuples(key_columns, count),
        _sized(positions, count),
        _same_or_each(times, count),
        _tuples(after_columns, count),
        _tuples(before_columns, count),
        _tuples(_plain(old_keys, count), count),
        _same_or_each(transactions, count),
        strict=True,
    )
    # tuple.__new__ makes a Change without a Python frame for each: three times as quick.
    return list(map(tuple.__new__, repeat(Change), fields))


def _plain(columns: list[_Json] | None, count: int) -> list[list[Value]] | None:
    if columns is None:
        return None
    return [_values(column, count) for column in columns]


def _values(column: _Json, count: int) -> list[Value]:
    if column is None:
        return [None] * count
    if isinstance(column, dict):
        values: list[Value] = _sized(column["values"], count)
        for i in column["unchanged"]:
            values[i] = UNCHANGED
        return values
    return cast("list[Value]", _sized(column, count))


def _tuples(columns: list[list[Value]] | None, count: int) -> Iterable[Any]:
    if columns is None:
        return repeat(None, count)
    return zip(*columns, strict=True) if columns else repeat((), count)


def _same_or_each(value: _Json, count: int) -> Iterable[Any]:
    return _sized(value, count) if isinstance(value, list) else repeat(value, count)


def _sized(values: _Json, count: int) -> Any:
    if len(values) != count:
        raise ValueError(f"{count} values are described, {len(values)} are there")
    return values
