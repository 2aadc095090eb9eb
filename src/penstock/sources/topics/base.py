"""What the parts of a topics source promise each other: transports carry bytes, decoders read them.

A transport knows a broker and nothing of what the bytes mean; a decoder knows a format and nothing
of where the bytes came from. Positions are made between the two (see `positions`).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias

import orjson

from penstock.errors import BadRecordError, SourceError
from penstock.records import (
    Change,
    Microseconds,
    Op,
    Position,
    unreadable_schema,
)
from penstock.sources.base import Finding

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]
NO_HEADERS: Final[Headers] = ()


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive records of one partition of one topic, by column.

    ``offsets`` are texts that sort in the partition's order; resuming at one returns what is after
    it. ``times`` are the broker's, in milliseconds. ``headers`` is None where no record has any.
    """

    topic: str
    partition: int
    offsets: Sequence[str]
    times: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers] | None = None
    marks: Sequence[str] | None = None
    """What the transport wants to be given back beside the offset, when reading goes on there."""
    subject: str = ""
    """What the broker calls these records' subject, where that is not the topic."""

    @property
    def name(self) -> str:
        """What formats take for the topic's name."""
        return self.subject or self.topic

    def cut(self, start: int, end: int) -> Slice:
        """Some of these records."""
        return Slice(
            self.topic,
            self.partition,
            self.offsets[start:end],
            self.times[start:end],
            self.keys[start:end],
            self.values[start:end],
            None if self.headers is None else self.headers[start:end],
            None if self.marks is None else self.marks[start:end],
            self.subject,
        )


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one fetch brought. ``complete_at`` is a time by which everything that the topics held
    is in this fetch or before it; None when that is not known."""

    slices: Sequence[Slice] = ()
    complete_at: Microseconds | None = None


class PartitionName(NamedTuple):
    """One partition of one topic; its text names it in the source's state."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"

    @classmethod
    def parse(cls, text: str) -> PartitionName:
        """``topic/partition``; ``ValueError`` for anything else."""
        topic, _, partition = text.rpartition("/")
        return cls(topic, int(partition))


Places: TypeAlias = Mapping[PartitionName, str]
"""For each partition, the offset of the last record that was read (and a space and its mark)."""


class Transport(Protocol):
    """A broker. One source uses it: `open`, then `fetch` and `acknowledge`, then `close`."""

    async def open(self, after: Places) -> None:
        """Begin after these places; a partition that is not named begins with its oldest record.

        Raises `UnavailableError` when the broker cannot be reached, and `SourceError` when records
        after a place are gone already (retention was quicker), or the place is not there.
        """

    async def fetch(self, timeout_s: float) -> Fetched:
        """The next records, as soon as there are any; nothing after ``timeout_s`` without.

        Slices of one partition come in order, without gaps. Bounded in memory whatever the topics
        hold. Raises as `open` does.
        """

    async def acknowledge(self, after: Places) -> None:
        """Everything up to these offsets is durable: the broker may show or forget that."""

    async def close(self) -> None:
        """Disconnect; may be called at any time and more than once."""

    async def check(self) -> Sequence[Finding]:
        """Look at reachability, topics and settings without changing anything."""


class Decoder(Protocol):
    """A format. Pure: no I/O but for schemas that a registry holds (see `prepare`)."""

    def restore(self, state: Mapping[str, str]) -> None:
        """Forget what was learned and begin with this, which `learned` gave earlier."""

    async def prepare(self, records: Slice) -> None:
        """Fetch what decoding these records needs from elsewhere (schemas); most need nothing."""

    def decode(self, records: Slice, positions: Sequence[Position]) -> list[Change]:
        """The changes of these records, in order. A record that cannot be read becomes a change of
        the stream ``unreadable`` (see `unreadable`); nothing but a fault of ours is raised."""

    def learned(self) -> Mapping[str, str]:
        """What was learned since this was last asked, as named texts for the state: without it
        later records could be read differently than without a restart."""

    async def close(self) -> None:
        """Release connections."""


def unreadable(source: str, records: Slice, index: int, position: Position, reason: str) -> Change:
    """The change that stands for a record which could not be read."""
    place = f"{records.topic}/{records.partition}/{records.offsets[index]}"
    headers = () if records.headers is None else records.headers[index]
    row = (
        place,
        str(records.times[index]),
        _text(records.keys[index]),
        _text(records.values[index]),
        orjson.dumps([(name, _text(value)) for name, value in headers]).decode(),
        reason,
    )
    return Change(
        unreadable_schema(source),
        Op.CREATE,
        (place,),
        position,
        Microseconds(records.times[index] * 1000),
        after=row,
    )


def kept_record(change: Change) -> Slice:
    """The record inside a change that `unreadable` made."""
    try:
        name, _, offset = str(change.value("place")).rpartition("/")
        topic, partition = PartitionName.parse(name)
        headers = orjson.loads(str(change.value("headers") or "[]"))
        return Slice(
            topic,
            partition,
            [offset],
            [int(str(change.value("time")))],
            [_bytes(change.value("key"))],
            [_bytes(change.value("value"))],
            [[(header, _bytes(value)) for header, value in headers]],
        )
    except (ValueError, TypeError) as error:
        raise BadRecordError(f"expected a record that was kept whole, got {error}") from error


def _text(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data).decode("ascii")


def _bytes(text: object) -> bytes | None:
    return None if text is None else b64decode(str(text), validate=True)


def gap(topic: str, what: str) -> SourceError:
    """The error of a transport whose records went before they were read."""
    return SourceError(
        f"expected to go on in {topic!r} where reading ended, got {what}: records were removed "
        "before they were read, or the topic was made anew; have the producer send everything "
        "again and set `on_gap: continue`",
        topic=topic,
    )
