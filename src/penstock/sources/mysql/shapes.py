"""What a table looks like: its columns as the server has them, and as changes carry them. Pure.

A shape comes from the binlog itself where it says enough (``binlog_row_metadata = FULL``), and else
from the catalogue at a known place of the log, kept up to date by the statements that alter it. It
gives the schema of the stream and the readers of its rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from penstock.errors import SourceError
from penstock.records import Column, Schema
from penstock.sources.mysql import forms
from penstock.sources.mysql.charsets import BINARY, decoder_of
from penstock.sources.mysql.forms import ColumnForm, real_type
from penstock.sources.mysql.table_map import TableMap

_KIND: Final = re.compile(r"[a-z0-9_]+(?: precision)?")
_LISTED: Final = re.compile(r"'((?:[^']|'')*)'")


class ShapeColumn(NamedTuple):
    """A column as the catalogue describes it: ``type`` in full (``int(10) unsigned``), the
    character set of texts, and whether it is part of the key."""

    name: str
    type: str
    charset: str | None = None
    key: bool = False

    @property
    def kind(self) -> str:
        """The type's first word."""
        match = _KIND.match(self.type.lower())
        return match[0] if match else self.type

    @property
    def arguments(self) -> str:
        """What stands in parentheses."""
        return _inside(self.type)

    @property
    def unsigned(self) -> bool:
        """Whether there are no negative values."""
        words = self.type.lower().rpartition(")")[2].split()
        return "unsigned" in words or "zerofill" in words


def _inside(words: str) -> str:
    begin, end = words.find("("), words.rfind(")")
    return words[begin + 1 : end] if 0 <= begin < end else ""


@dataclass(frozen=True)
class Shape:
    """The columns of a table, in order."""

    columns: tuple[ShapeColumn, ...]

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Of the source's state."""
        return cls(tuple(ShapeColumn(*column) for column in json.loads(text)))

    def format(self) -> str:
        """For the source's state."""
        return json.dumps(self.columns, separators=(",", ":"), ensure_ascii=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(column.name for column in self.columns)


_PLAIN: Final = {
    "tinyint": "smallint",
    "bool": "smallint",
    "boolean": "smallint",
    "smallint": "smallint",
    "mediumint": "integer",
    "int": "integer",
    "integer": "integer",
    "bigint": "bigint",
    "year": "smallint",
    "float": "real",
    "double": "double precision",
    "double precision": "double precision",
    "real": "double precision",
    "date": "date",
    "time": "interval",
    "datetime": "timestamp without time zone",
    "timestamp": "timestamp with time zone",
    "json": "json",
}
_WIDER: Final = {"smallint": "integer", "int": "bigint", "integer": "bigint",
                 "bigint": "numeric(20,0)"}  # fmt: skip
_TEXTS: Final = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext",
                           "enum", "set", "nchar", "nvarchar"})  # fmt: skip
_BYTES: Final = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
GEOMETRIES: Final = frozenset(
    {
        "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring",
        "multipolygon", "geometrycollection", "geomcollection",
    }
)  # fmt: skip
ADDRESSES: Final = {"uuid": "uuid", "inet4": "text", "inet6": "text"}
"""Types of MariaDB that the log writes as plain bytes. (A cast of PostgreSQL's inet to text shows a
mask that nobody wrote.)"""


def live_type(column: ShapeColumn) -> str:
    """The type of the column in a live table.

    Raises:
        SourceError: values of this type cannot be captured.
    """
    kind = column.kind
    if kind in _PLAIN:
        if column.unsigned and kind in _WIDER:
            return _WIDER[kind]
        return _PLAIN[kind]
    if kind in ("decimal", "numeric", "dec", "fixed"):
        precision, _, scale = (column.arguments or "10").partition(",")
        return f"numeric({int(precision)},{int(scale or 0)})"
    if kind in _TEXTS:
        return "bytea" if column.charset == BINARY and kind not in ("enum", "set") else "text"
    if kind in _BYTES:
        return "bytea"
    if kind == "bit":
        return f"bit({int(column.arguments or 1)})"
    if kind in GEOMETRIES:
        return "text"
    if kind in ADDRESSES:
        return ADDRESSES[kind]
    raise SourceError(
        f"expected column {column.name!r} to have a type that can be captured, got "
        f"{column.type!r}: leave the table out, or give the column another type"
    )


def schema_of(source: str, stream: str, shape: Shape) -> Schema:
    """The schema of the changes of a table of this shape."""
    return Schema(
        source,
        stream,
        tuple(Column(column.name, live_type(column), column.key) for column in shape.columns),
    )


# --------------------------------------------------------------------------- from the binlog


_BLOBS: Final = {1: "tiny", 2: "", 3: "medium", 4: "long"}
_NAMES: Final = {
    forms.TINY: "tinyint", forms.SHORT: "smallint", forms.INT24: "mediumint", forms.LONG: "int",
    forms.LONGLONG: "bigint", forms.FLOAT: "float", forms.DOUBLE: "double", forms.YEAR: "year",
    forms.DATE: "date", forms.NEWDATE: "date", forms.TIME: "time", forms.TIME2: "time",
    forms.DATETIME: "datetime", forms.DATETIME2: "datetime", forms.TIMESTAMP: "timestamp",
    forms.TIMESTAMP2: "timestamp", forms.JSON: "json", forms.GEOMETRY: "geometry",
}  # fmt: skip


def shape_in(described: TableMap, charsets: Mapping[int, str], known: Shape | None) -> Shape | None:
    """The shape that the log describes; None when it leaves out the names of columns.

    What it never says (that MariaDB's bytes are a UUID, what key there is beside a primary one) is
    as it was ``known``.
    """
    if described.names is None:
        return None
    before = {} if known is None else {column.name: column for column in known.columns}
    key = {described.names[i] for i in described.primary_key or ()}
    if not key:
        # A unique key in the place of a primary one is not described: as it was known, if its
        # columns are still there.
        key = {name for name, column in before.items() if column.key}
        key = key if key <= set(described.names) else set()
    columns = []
    for i, name in enumerate(described.names):
        collation = described.collations[i]
        charset = None if collation is None else charsets.get(collation, f"collation {collation}")
        kind = _column_type(described, i, charset)
        was = before.get(name)
        if was is not None and was.kind in ADDRESSES and kind.startswith("binary("):
            columns.append(ShapeColumn(name, was.type, None, name in key))
            continue
        if was is not None and was.kind in GEOMETRIES and kind == "geometry":
            kind = was.type
        columns.append(ShapeColumn(name, kind, charset, name in key))
    return Shape(tuple(columns))


def _column_type(described: TableMap, i: int, charset: str | None) -> str:
    metadata = described.metadata[i]
    kind = real_type(described.types[i], metadata)
    binary = charset in (None, BINARY)
    if kind in _NAMES:
        return _NAMES[kind] + (" unsigned" if i in described.unsigned else "")
    if kind == forms.NEWDECIMAL:
        return f"decimal({metadata >> 8},{metadata & 0xFF})"
    if kind == forms.BIT:
        return f"bit({(metadata >> 8) * 8 + (metadata & 0xFF)})"
    if kind == forms.BLOB:
        return _BLOBS.get(metadata, "long") + ("blob" if binary else "text")
    if kind in (forms.VARCHAR, forms.VAR_STRING):
        return f"varbinary({metadata})" if binary else "varchar"
    if kind == forms.STRING:
        return f"binary({metadata & 0xFF})" if binary else "char"
    if kind in (forms.ENUM, forms.SET):
        decode = decoder_of(charset or "utf8mb4") or decoder_of("utf8mb4")
        assert decode is not None
        listed = (decode(value).replace("'", "''") for value in described.values[i] or ())
        values = ",".join(f"'{value}'" for value in listed)
        return f"{'enum' if kind == forms.ENUM else 'set'}({values})"
    raise SourceError(
        f"expected column {i + 1} of table {described.database}.{described.table} to have a type "
        f"that can be captured, got binlog type {kind}: leave the table out, or give the column "
        "another type"
    )


def fits(described: TableMap, shape: Shape) -> bool:
    """Whether rows so described can be rows of this shape: as many columns, of such types."""
    if len(described.types) != len(shape.columns):
        return False
    return all(
        real_type(kind, metadata) in _WRITTEN_AS.get(column.kind, ())
        for kind, metadata, column in zip(
            described.types, described.metadata, shape.columns, strict=True
        )
    )


_WRITTEN_AS: Final[Mapping[str, tuple[int, ...]]] = {
    "tinyint": (1,), "bool": (1,), "boolean": (1,), "smallint": (2,), "mediumint": (9,),
    "int": (3,), "integer": (3,), "bigint": (8,), "year": (13,), "float": (4,), "double": (5,),
    "double precision": (5,), "real": (5,), "decimal": (246,), "numeric": (246,), "dec": (246,),
    "fixed": (246,), "bit": (16,), "date": (10, 14), "time": (11, 19), "datetime": (12, 18),
    "timestamp": (7, 17), "char": (254,), "nchar": (254,), "varchar": (15, 253),
    "nvarchar": (15, 253), "binary": (254,), "varbinary": (15, 253), "tinytext": (252,),
    "text": (252,), "mediumtext": (252,), "longtext": (252,), "tinyblob": (252,),
    "blob": (252,), "mediumblob": (252,), "longblob": (252,), "json": (245, 252),
    "enum": (247,), "set": (248,), "uuid": (254,), "inet4": (254,), "inet6": (254,),
    **dict.fromkeys(GEOMETRIES, (255,)),
}  # fmt: skip


def forms_of(described: TableMap, shape: Shape) -> tuple[ColumnForm, ...]:
    """How the values of rows of this description are written."""
    return tuple(
        ColumnForm(
            kind,
            metadata,
            column.unsigned,
            column.kind if column.kind in ADDRESSES else column.charset,
            listed_values(column),
            column.key,
        )
        for kind, metadata, column in zip(
            described.types, described.metadata, shape.columns, strict=True
        )
    )


def listed_values(column: ShapeColumn) -> tuple[str, ...]:
    """The values of an ENUM or SET."""
    if column.kind not in ("enum", "set"):
        return ()
    inside = _inside(column.type)
    return tuple(value.replace("''", "'") for value in _LISTED.findall(inside))
