"""Entries of the ledger as changes of two streams. Pure."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from penstock.records import Change, Column, Microseconds, Op, Position, Row, Schema

INTERACTIONS: Final = "interactions"
FEEDBACK: Final = "feedback"
STREAMS: Final = (INTERACTIONS, FEEDBACK)
_COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = {
    INTERACTIONS: (
        Column("id", "text", key=True),
        Column("kind", "text"),
        Column("at", "timestamp with time zone"),
        Column("user_name", "text"),
        Column("session", "text"),
        Column("question", "text"),
        Column("answer", "text"),
        Column("abstained", "boolean"),
        Column("generator", "text"),
        Column("cost", "double precision"),
        Column("total_ms", "double precision"),
        Column("sources", "jsonb"),
    ),
    FEEDBACK: (
        Column("id", "text", key=True),
        Column("answer", "text"),
        Column("at", "timestamp with time zone"),
        Column("user_name", "text"),
        Column("rating", "integer"),
        Column("scale", "text"),
        Column("verdict", "text"),
        Column("comment", "text"),
        Column("correction", "text"),
    ),
}
_STREAM_OF: Final = {
    "answer": INTERACTIONS, "interaction": INTERACTIONS, "feedback": FEEDBACK,
}  # fmt: skip
KINDS: Final = (*_STREAM_OF, "erasure")


class Told(NamedTuple):
    """An entry as it is read; ``body`` is None where only a hash was kept, or it was erased."""

    number: int
    id: str
    kind: str
    at: int
    facts: str
    state: str
    body: str | None
    about: str | None


def schema(source: str, stream: str) -> Schema:
    """The shape of a stream."""
    return Schema(source, stream, _COLUMNS[stream])


def change_of(source: str, told: Told) -> Change | None:
    """An entry as a new row; None for one that was erased before it was read."""
    stream = _STREAM_OF[told.kind]
    if told.state == "redacted":
        return None
    facts, content = json.loads(told.facts), json.loads(told.body or "{}")
    values = _feedback(told, facts, content) if stream == FEEDBACK else _said(facts, content)
    at = dt.datetime.fromtimestamp(told.at / 1e6, dt.UTC).isoformat(sep=" ")
    known = {
        "id": told.id,
        "kind": told.kind,
        "at": at,
        "user_name": (content.get("principal") or {}).get("user"),
        **values,
    }
    row: Row = tuple(_storable(known.get(column.name)) for column in _COLUMNS[stream])
    return Change(
        schema(source, stream), Op.CREATE, (told.id,), position(told.number), _time(told.at), row
    )


def _said(facts: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, str | None]:
    usage, times = facts.get("usage") or {}, facts.get("timings_ms") or {}
    cited = {(part["source"], part["key"]) for part in content.get("citations") or ()}
    return {
        "session": content.get("session"),
        "question": content.get("question"),
        "answer": content.get("text"),
        "abstained": _text(facts.get("abstained")),
        "generator": facts.get("generator") or content.get("generator"),
        "cost": _text(usage.get("cost")),
        "total_ms": _text(times.get("total")),
        "sources": json.dumps([{"source": source, "key": key} for source, key in sorted(cited)]),
    }


def _feedback(
    told: Told, facts: Mapping[str, Any], content: Mapping[str, Any]
) -> dict[str, str | None]:
    return {
        "answer": told.about,
        "rating": _text(facts.get("rating")),
        "scale": facts.get("scale"),
        "verdict": facts.get("verdict"),
        "comment": content.get("comment"),
        "correction": content.get("correction"),
    }


def removals(source: str, told: Told, erased: Sequence[tuple[int, str, str]]) -> list[Change]:
    """What an erasure takes away: the rows of the entries (number, id, kind) whose content went."""
    return [
        Change(
            schema(source, _STREAM_OF[kind]),
            Op.DELETE,
            (name,),
            position(told.number, place),
            _time(told.at),
        )
        for place, (_, name, kind) in enumerate(erased, 1)
        if kind in _STREAM_OF
    ]


def position(number: int, place: int = 0) -> Position:
    """Where a change stands: by entry, and within one."""
    return Position(f"{number:016d}.{place:06d}")


def _time(at: int) -> Microseconds:
    return Microseconds(at)


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _storable(value: str | None) -> str | None:
    """As a database can hold it: a model may have written anything."""
    if value is None:
        return None
    return value.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
