"""Events of profiles and segments as changes of three streams. Pure."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from penstock.records import Change, Column, Key, Microseconds, Op, Position, Row, Schema

EVENTS: Final = "profile_events"
MEMBERS: Final = "segment_members"
IDS: Final = "profile_ids"
STREAMS: Final = (EVENTS, MEMBERS, IDS)
_COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = {
    EVENTS: (
        Column("number", "bigint", key=True),
        Column("kind", "text"),
        Column("event", "text"),
        Column("profile", "text"),
        Column("other", "text"),
        Column("records", "jsonb"),
        Column("reason", "jsonb"),
        Column("happened_at", "timestamp with time zone"),
    ),
    MEMBERS: (
        Column("segment", "text", key=True),
        Column("profile", "text", key=True),
        Column("kind", "text"),
        Column("since", "timestamp with time zone"),
    ),
    IDS: (
        Column("id", "text", key=True),
        Column("kind", "text"),
        Column("profile", "text"),
        Column("since", "timestamp with time zone"),
    ),
}
_ITSELF: Final = frozenset({"created", "split", "restored"})
"""Events after which an id means itself."""
_OF_IDS: Final = _ITSELF | {"merged", "gone", "means"}


class Happened(NamedTuple):
    """An event as it is read. ``part`` 0: of a profile, with what was merged into it or parted from
    it as ``other`` and its reason as ``detail`` (empty where it was erased); ``part`` 1: of a
    segment, which is ``other``."""

    number: int
    part: int
    event: str
    profile: str
    other: str | None
    detail: str
    at: int


def changes_of(source: str, kind: str, happened: Happened) -> Iterator[Change]:
    """An event as changes: as a row, as a membership that begins or ends, and as what ids mean."""
    if happened.part == 1:
        yield _member(source, kind, happened)
        return
    detail = json.loads(happened.detail)
    yield _event(source, kind, happened, detail)
    if happened.event in _OF_IDS:
        means = happened.profile if happened.event in _ITSELF else happened.other
        values = {
            "id": happened.profile,
            "kind": kind,
            "profile": means,
            "since": _moment(happened.at),
        }
        # A split may be of an id that came back: who keeps ids takes either as what it means now.
        op = Op.CREATE if happened.event in ("created", "split") else Op.UPDATE
        yield _change(source, IDS, happened, (happened.profile,), values, op=op, place=1)


def _event(source: str, kind: str, happened: Happened, detail: Mapping[str, Any]) -> Change:
    reason = {name: said for name, said in detail.items() if name != "records"}
    values = {
        "number": str(happened.number),
        "kind": kind,
        "event": happened.event,
        "profile": happened.profile,
        "other": happened.other,
        "records": json.dumps(detail["records"]) if "records" in detail else None,
        "reason": json.dumps(reason) if reason else None,
        "happened_at": _moment(happened.at),
    }
    return _change(source, EVENTS, happened, (str(happened.number),), values)


def _member(source: str, kind: str, happened: Happened) -> Change:
    left = happened.event == "left"
    values = {
        "segment": happened.other,
        "profile": happened.profile,
        "kind": kind,
        "since": None if left else _moment(happened.at),
    }
    key = (happened.other, happened.profile)
    change = _change(source, MEMBERS, happened, key, values)
    return change._replace(op=Op.DELETE, before=change.after, after=None) if left else change


def _change(
    source: str,
    stream: str,
    happened: Happened,
    key: Key,
    values: Mapping[str, str | None],
    *,
    op: Op = Op.CREATE,
    place: int = 0,
) -> Change:
    columns = _COLUMNS[stream]
    row: Row = tuple(values[column.name] for column in columns)
    return Change(
        Schema(source, stream, columns),
        op,
        key,
        position(happened.number, happened.part, place),
        Microseconds(happened.at),
        row,
    )


def position(number: int, part: int, place: int = 0) -> Position:
    """Where a change stands: by event, and within one."""
    return Position(f"{number:016d}.{part}.{place:06d}")


def _moment(at: int) -> str:
    return dt.datetime.fromtimestamp(at / 1e6, dt.UTC).isoformat(sep=" ")
