"""Debezium's side of a topic, for tests: the messages that a connector would send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

SOURCE: Final = {
    "version": "3.0.0.Final",
    "connector": "postgresql",
    "name": "srv",
    "ts_ms": 1_700_000_000_000,
    "ts_us": 1_700_000_000_000_000,
    "snapshot": "false",
    "db": "shop",
    "schema": "public",
    "table": "items",
    "txId": 7,
    "lsn": 24_023_128,
    "xmin": None,
}


def envelope(
    op: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    **source: Any,
) -> dict[str, Any]:
    """An envelope without its schema."""
    return {
        "before": before,
        "after": after,
        "source": {**SOURCE, **source},
        "op": op,
        "ts_ms": 1_700_000_000_500,
        "transaction": None,
    }


def message(
    op: str,
    key: Mapping[str, Any] | None,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    **source: Any,
) -> tuple[bytes | None, bytes]:
    """Key and value of a message, in JSON without schemas."""
    return (
        None if key is None else orjson.dumps(key),
        orjson.dumps(envelope(op, before=before, after=after, **source)),
    )
