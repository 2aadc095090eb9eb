"""Descriptions of tables in the binlog, from bytes to records. Pure.

Before the rows of a transaction the server describes each table that they are of: types always,
names, signs, character sets and the key when ``binlog_row_metadata`` is FULL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from penstock.sources.mysql.events import HEADER
from penstock.sources.mysql.forms import ENUM, SET, real_type
from penstock.sources.mysql.protocol import BROKEN, broken, length_encoded, length_encoded_bytes


class TableMap(NamedTuple):
    """The shape of a table for the row events that follow. What is None the server did not say
    (``binlog_row_metadata``)."""

    table_id: int
    database: str
    table: str
    types: bytes
    metadata: tuple[int, ...]
    nullable: tuple[bool, ...]
    names: tuple[str, ...] | None
    unsigned: frozenset[int]
    collations: tuple[int | None, ...]
    values: tuple[tuple[bytes, ...] | None, ...]
    primary_key: tuple[int, ...] | None


def decode_table_map(data: bytes, *, mariadb: bool = False) -> TableMap:
    """The shape of a table."""
    try:
        at = HEADER
        table_id = int.from_bytes(data[at : at + 6], "little")
        at += 8
        database, at = _name(data, at)
        table, at = _name(data, at)
        count, at = length_encoded(data, at)
        types = data[at : at + count]
        if len(types) != count or not count:
            raise ValueError(count)
        block, at = length_encoded_bytes(data, at + count)
        metadata = _column_metadata(types, block)
        empty = data[at : at + (count + 7) // 8]
        if len(empty) != (count + 7) // 8:
            raise ValueError(count)
        nullable = tuple(bool(empty[i >> 3] >> (i & 7) & 1) for i in range(count))
        said = _optional_metadata(data, at + len(empty))
        groups = _MARIADB_GROUPS if mariadb else _MYSQL_GROUPS
        return _described(table_id, (database, table), types, metadata, nullable, groups, said)
    except BROKEN as error:
        raise broken("the description of a table", data) from error


def _name(data: bytes, at: int) -> tuple[str, int]:
    length = data[at]
    end = at + 1 + length
    if data[end] != 0:
        raise ValueError(length)
    return data[at + 1 : end].decode(), end + 1


# How many bytes a column's metadata has, by type.
_METADATA_SIZE: Final = {
    4: 1, 5: 1, 15: 2, 16: 2, 17: 1, 18: 1, 19: 1, 242: 1, 245: 1, 246: 2, 247: 2, 248: 2,
    249: 1, 250: 1, 251: 1, 252: 1, 253: 2, 254: 2, 255: 1, 140: 1, 141: 2,
}  # fmt: skip
_STRINGS: Final = frozenset({246, 247, 248, 253, 254})


def _column_metadata(types: bytes, block: bytes) -> tuple[int, ...]:
    found = []
    at = 0
    for kind in types:
        size = _METADATA_SIZE.get(kind, 0)
        piece = block[at : at + size]
        if len(piece) != size:
            raise ValueError(kind)
        at += size
        # Two bytes of these are not one number: the first is a type or a precision.
        found.append(int.from_bytes(piece, "big" if kind in _STRINGS else "little"))
    if at != len(block):
        raise ValueError(at)
    return tuple(found)


def _optional_metadata(data: bytes, at: int) -> dict[int, bytes]:
    found = {}
    while at < len(data):
        kind = data[at]
        found[kind], at = length_encoded_bytes(data, at + 1)
    return found


_NUMBERS: Final = frozenset({1, 2, 3, 4, 5, 8, 9, 246})
_CHARACTERS: Final = frozenset({15, 252, 253, 254, 249, 250, 251})
# Which columns are counted as numbers, and which as characters: MariaDB says of YEAR that it has no
# sign, and of geometries that they are binary; MySQL says neither.
_MYSQL_GROUPS: Final = (_NUMBERS, _CHARACTERS)
_MARIADB_GROUPS: Final = (_NUMBERS | {13}, _CHARACTERS | {255})


def _described(
    table_id: int,
    name: tuple[str, str],
    types: bytes,
    metadata: tuple[int, ...],
    nullable: tuple[bool, ...],
    groups: tuple[frozenset[int], frozenset[int]],
    said: dict[int, bytes],
) -> TableMap:
    reals = [real_type(kind, meta) for kind, meta in zip(types, metadata, strict=True)]
    numbers = [i for i, kind in enumerate(reals) if kind in groups[0]]
    letters = [i for i, kind in enumerate(reals) if kind in groups[1]]
    listed = [i for i, kind in enumerate(reals) if kind in (ENUM, SET)]
    collations: list[int | None] = [None] * len(types)
    _collations(collations, letters, said.get(2), said.get(3))
    _collations(collations, listed, said.get(10), said.get(11))
    values: list[tuple[bytes, ...] | None] = [None] * len(types)
    _values(values, [i for i, kind in enumerate(reals) if kind == SET], said.get(5))
    _values(values, [i for i, kind in enumerate(reals) if kind == ENUM], said.get(6))
    signs = said.get(1, b"")
    unsigned = frozenset(
        column
        for i, column in enumerate(numbers)
        if i >> 3 < len(signs) and signs[i >> 3] << (i & 7) & 0x80
    )
    names = None
    if 4 in said:
        names = tuple(value.decode() for value in _texts(said[4]))
        if len(names) != len(types):
            raise ValueError(names)
    key = None
    if 8 in said:
        key = tuple(_numbers(said[8]))
    elif 9 in said:
        key = tuple(_numbers(said[9]))[::2]
    elif names is not None:
        key = ()
    return TableMap(
        table_id, *name, types, metadata, nullable, names, unsigned,
        tuple(collations), tuple(values), key,
    )  # fmt: skip


def _numbers(block: bytes) -> Iterator[int]:
    at = 0
    while at < len(block):
        number, at = length_encoded(block, at)
        yield number


def _texts(block: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(block):
        value, at = length_encoded_bytes(block, at)
        yield value


def _collations(
    into: list[int | None], columns: list[int], default: bytes | None, each: bytes | None
) -> None:
    if each is not None:
        for column, collation in zip(columns, _numbers(each), strict=True):
            into[column] = collation
    elif default is not None:
        usual, *others = _numbers(default)
        for column in columns:
            into[column] = usual
        for place, collation in zip(others[::2], others[1::2], strict=True):
            into[columns[place]] = collation


def _values(into: list[tuple[bytes, ...] | None], columns: list[int], block: bytes | None) -> None:
    if block is None:
        return
    at = 0
    for column in columns:
        count, at = length_encoded(block, at)
        listed = []
        for _ in range(count):
            value, at = length_encoded_bytes(block, at)
            listed.append(value)
        into[column] = tuple(listed)
