"""What things of a source are called among live tables. Pure.

A live table stands in a schema with the source's name, under its own name. Columns keep their
names, except those that would hide ours or PostgreSQL's: ``_penstock_…``, ``ctid`` and their like
get ``source`` in front. Names that PostgreSQL would cut are cut here, with a mark of the whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from typing import Final

import orjson

from penstock.errors import BadRecordError, ConfigError
from penstock.records import Column, Key, Row

OWN: Final = "_penstock_"
KEY: Final = "_penstock_key"
POSITION: Final = "_penstock_position"
COMMITTED_AT: Final = "_penstock_committed_at"
TENANT: Final = "_penstock_tenant"

_SYSTEM: Final = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_RESERVED_SCHEMAS: Final = frozenset({"penstock", "public", "information_schema"})
_MAX_BYTES: Final = 63
_MAX_KEY: Final = 400
"""Longer keys are named by their digest: an index entry has room for about 2,700 bytes."""


def live_schema(source: str) -> str:
    """The schema of a source's live tables."""
    name = re.sub(r"\W", "_", source.casefold())
    if name in _RESERVED_SCHEMAS or name.startswith("pg_") or not name:
        name = f"source_{name}"
    return fitting(name)


def live_table_names(stream: str) -> tuple[str, ...]:
    """Names for a stream's live table, best first; the last is never taken by another stream."""
    schema, dot, table = stream.rpartition(".")
    short = fitting(table or stream)
    long = fitting(f"{schema}_{table}") if dot else short
    return tuple(dict.fromkeys((short, long, marked(stream.replace(".", "_"), stream))))


def live_columns(columns: Sequence[Column]) -> list[str]:
    """The names of a stream's columns in its live table, in order."""
    taken = {column.name for column in columns}
    return [live_column(column.name, taken) for column in columns]


def live_column(name: str, taken: Collection[str]) -> str:
    """The name of a column, beside columns with the names ``taken``."""
    if "\x00" in name or not name:
        raise ConfigError(f"expected a name for a column, got {name!r}: rename it at the source")
    if not name.startswith(OWN) and name not in _SYSTEM:
        return fitting(name)
    while name.startswith(OWN) or name in _SYSTEM or name in taken:
        name = f"source{name}" if name.startswith("_") else f"source_{name}"
    return fitting(name)


def fitting(name: str) -> str:
    """``name``, cut to what PostgreSQL keeps of an identifier."""
    return name if len(name.encode(errors="replace")) <= _MAX_BYTES else marked(name, name)


def marked(name: str, whole: str) -> str:
    """``name`` cut, with eight digits of the digest of ``whole`` behind it."""
    digest = hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest()[:8]
    kept = name.encode(errors="replace")[: _MAX_BYTES - 9].decode(errors="ignore")
    return f"{kept}_{digest}"


def key_texts(keys: Sequence[Key]) -> list[str]:
    """One text for each key, as short as an index wants it."""
    if not keys:
        return []
    if len(keys[0]) == 1 and None not in {key[0] for key in keys}:
        texts = [str(key[0]) for key in keys]
    else:
        texts = [key_json(key) for key in keys]
    if len(max(texts, key=len)) > _MAX_KEY:
        texts = [_digest(text) if len(text) > _MAX_KEY else text for text in texts]
    return texts


def key_json(key: Row) -> str:
    """A key (or a whole row) as one text; raises `BadRecordError` for what UTF-8 cannot write."""
    try:
        return orjson.dumps(key).decode()
    except TypeError as error:
        raise BadRecordError(
            f"expected a key that can be written as UTF-8, got {key!r}: mend it at the source"
        ) from error


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
