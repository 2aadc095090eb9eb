"""How values of columns are written in the binlog: the types that it knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

Reader: TypeAlias = Callable[[bytes, int], tuple[str | None, int]]

TINY: Final = 1
SHORT: Final = 2
LONG: Final = 3
FLOAT: Final = 4
DOUBLE: Final = 5
TIMESTAMP: Final = 7
LONGLONG: Final = 8
INT24: Final = 9
DATE: Final = 10
TIME: Final = 11
DATETIME: Final = 12
YEAR: Final = 13
NEWDATE: Final = 14
VARCHAR: Final = 15
BIT: Final = 16
TIMESTAMP2: Final = 17
DATETIME2: Final = 18
TIME2: Final = 19
JSON: Final = 245
NEWDECIMAL: Final = 246
ENUM: Final = 247
SET: Final = 248
BLOB: Final = 252
VAR_STRING: Final = 253
STRING: Final = 254
GEOMETRY: Final = 255


class ColumnForm(NamedTuple):
    """How a column's values are written in the binlog. ``charset`` is the server's name of it;
    ``values`` are the texts of an ENUM or SET; ``in_key``: there is no NULL for a zero date."""

    type: int
    metadata: int
    unsigned: bool = False
    charset: str | None = None
    values: tuple[str, ...] = ()
    in_key: bool = False


def real_type(kind: int, metadata: int) -> int:
    """ENUM and SET say in the metadata that they are no strings."""
    if kind == STRING:
        first = metadata >> 8
        if first in (ENUM, SET):
            return first
    return kind
