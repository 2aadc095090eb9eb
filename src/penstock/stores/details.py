"""What is known of people beside their traits, as it is at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from penstock.identity.details import Details
from penstock.records import Microseconds, Position


class ComputedValue(NamedTuple):
    """A value with how many rows it is from; ``untimed`` rows of its table tell no time, or an
    impossible one: they are in no window, and are nobody's last."""

    value: Any
    rows: int
    untimed: int


class ListedRow(NamedTuple):
    """A row of a live table, with its place in the source."""

    values: Mapping[str, Any]
    key: str
    position: Position


class ListedRows(NamedTuple):
    """Rows of a list, and whether there are more."""

    rows: Sequence[ListedRow]
    more: bool


class Happened(NamedTuple):
    """An event, with the columns that are kept of it."""

    source: str
    table: str
    at: Microseconds
    values: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class ProfileDetails:
    """All of it for one profile. ``consents`` says what was last said about each purpose."""

    computed: Mapping[str, ComputedValue] = field(default_factory=dict)
    lists: Mapping[str, ListedRows] = field(default_factory=dict)
    consents: Mapping[str, bool] = field(default_factory=dict)
    latest: Sequence[Happened] = ()


class SegmentMember(NamedTuple):
    """A profile of a segment, and since when it is in it."""

    profile: str
    since: Microseconds


class SegmentEvent(NamedTuple):
    """That a profile ``entered`` or ``left`` a segment, under a number that rises."""

    number: int
    segment: str
    profile: str
    event: str
    at: Microseconds


@runtime_checkable
class DetailedSnapshot(Protocol):
    """A snapshot of a store that keeps such details of profiles."""

    async def profile_details(
        self, kind: str, id_: str, wanted: Details, now: Microseconds
    ) -> ProfileDetails:
        """What is known of a profile (by the id that it has now) at ``now``; nothing where the one
        who asks may not see the kind."""

    async def segment(
        self, kind: str, segment: str, *, after: str = "", limit: int = 100
    ) -> Sequence[SegmentMember] | None:
        """Profiles of a segment behind an id, in the order of ids as texts; None where there is no
        such segment, or it is not for the one who asks."""
