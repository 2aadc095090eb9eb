"""Geometries: from MySQL's bytes (SRID, then well-known binary) to extended well-known text. Pure.

Text that a person and a model can read, and that PostGIS takes as it is: ``SRID=4326;POINT(1 2)``.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from penstock.sources.mysql.protocol import BROKEN, broken
from penstock.sources.mysql.texts import double

_uint32 = {1: Struct("<I").unpack_from, 0: Struct(">I").unpack_from}
_point = {1: Struct("<dd").unpack_from, 0: Struct(">dd").unpack_from}

_NAMES: Final = (
    "",
    "POINT",
    "LINESTRING",
    "POLYGON",
    "MULTIPOINT",
    "MULTILINESTRING",
    "MULTIPOLYGON",
    "GEOMETRYCOLLECTION",
)
_DEEPEST: Final = 32


def ewkt(value: bytes) -> str:
    """The geometry as text.

    Raises:
        ProtocolError: these bytes are none.
    """
    try:
        (srid,) = _uint32[1](value, 0)
        words, end = _geometry(value, 4, 0)
        if end != len(value):
            raise ValueError(end)
    except (*BROKEN, KeyError) as error:
        raise broken("a geometry", value) from error
    return f"SRID={srid};{words}" if srid else words


def _geometry(value: bytes, at: int, depth: int) -> tuple[str, int]:
    order = value[at]
    (kind,) = _uint32[order](value, at + 1)
    if not 1 <= kind < len(_NAMES) or depth > _DEEPEST:
        raise ValueError(kind)
    words, end = _body(value, at + 5, order, kind, depth)
    return f"{_NAMES[kind]}{words or ' EMPTY'}", end


def _body(value: bytes, at: int, order: int, kind: int, depth: int) -> tuple[str, int]:
    if kind == 1:
        x, y = _point[order](value, at)
        return f"({double(x)} {double(y)})", at + 16
    if kind == 2:
        return _points(value, at, order)
    (count,) = _uint32[order](value, at)
    at += 4
    if count > len(value):
        raise ValueError(count)
    parts = []
    for _ in range(count):
        if kind == 3:
            part, at = _points(value, at, order)
        elif kind == 7:
            part, at = _geometry(value, at, depth + 1)
        else:
            inner = value[at]
            if _uint32[inner](value, at + 1)[0] != kind - 3:
                raise ValueError(kind)
            part, at = _body(value, at + 5, inner, kind - 3, depth + 1)
            part = part[1:-1] if kind == 4 else part
        parts.append(part)
    return (f"({','.join(parts)})" if parts else ""), at


def _points(value: bytes, at: int, order: int) -> tuple[str, int]:
    (count,) = _uint32[order](value, at)
    at += 4
    if count * 16 > len(value):
        raise ValueError(count)
    found = (_point[order](value, at + 16 * i) for i in range(count))
    words = ",".join(f"{double(x)} {double(y)}" for x, y in found)
    return (f"({words})" if words else ""), at + 16 * count
