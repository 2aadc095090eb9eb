"""What a log is: durable, ordered, replayable stream storage.

Guarantees, shown by the suite in ``penstock.testing.logs``:

L1. Records of one partition have ascending positions in the order of appending. A log that stores
    records one by one counts them 1, 2, 3, ...; another may leave numbers out (Kafka gives some to
    its own marks) and may know positions only between appends.
L2. A position becomes visible only after all before it: a reader at N never misses one below.
L3. An append, the producer's new state and its time are one step: all of it or nothing.
L4. An append by a producer that was opened again elsewhere is refused (`FencedError`).
L5. All changes with one key are in one partition, in the order of appending. A truncate is in all
    partitions; a change that moves a row to another key is in those of both keys.
L6. Reading is repeatable: the same position gives the same records until retention removes them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from penstock.records import Batch, Change, LogPosition, Microseconds


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """One partition as it is now. ``first`` is the oldest position kept, ``last`` the newest one
    (``last < first`` when it is empty)."""

    topic: str
    partition: int
    first: LogPosition
    last: LogPosition
    records: int
    size_bytes: int


class Producer(Protocol):
    """The one writer of a name. Opening it again, anywhere, fences the one before."""

    name: str
    state: Mapping[str, str]
    """All named texts that were stored when the producer was opened."""

    async def append(
        self,
        topic: str,
        changes: Sequence[Change],
        *,
        state: Mapping[str, str | None] | None = None,
        as_of: Microseconds | None = None,
    ) -> None:
        """Make changes, state and time durable in one step and wake the readers.

        Returns only when the step is on disk. ``state`` is merged into what is stored; None removes
        a name. With no changes, only state and time are stored. Readers of all partitions see the
        time, and it uses up a position where there are no changes. Appends of one producer happen
        in the order of calling.

        Raises `FencedError` when another process has opened this producer, `UnavailableError` when
        the log cannot be reached: then the step has happened wholly or not at all, and opening the
        producer again tells which. Until it is opened again, more appends are refused (the same
        after a cancelled one).
        """


class Log(Protocol):
    """Topics of partitions of changes."""

    async def create_topic(self, topic: str, partitions: int = 1) -> None:
        """Make sure that a topic exists. Another number of partitions than it has is a
        `ConfigError`: keys would move between partitions and lose their order."""

    async def open_producer(self, name: str) -> Producer:
        """Become the only producer of that name and learn its stored state."""

    async def read(
        self,
        topic: str,
        partition: int,
        after: LogPosition,
        *,
        max_changes: int = 5000,
        streams: frozenset[str] | None = None,
    ) -> Batch | None:
        """The next changes after a position, in order; None when there are none yet. Never waits.

        At least one stored append is returned whole, even if it holds more than ``max_changes``, so
        that what was appended in one step is processed in one step. With ``streams``, changes of
        other streams are left out and ``last`` still moves past them. Reading from a position that
        retention has removed is a `FatalError` that names the oldest one kept.
        """

    async def wait(self, topic: str, partition: int, after: LogPosition) -> None:
        """Return when something is (or may be) readable after that position. Wakes on appends by
        any process; does not poll; cancel it to stop waiting."""

    async def seek(self, topic: str, partition: int, time: Microseconds) -> LogPosition:
        """The position to resume *after* to read all that was appended at or after ``time``."""

    async def describe(self, topic: str | None = None) -> Sequence[PartitionInfo]:
        """All partitions, or those of one topic, ordered by topic and partition."""

    async def trim(
        self, topic: str, *, before: Microseconds | None = None, max_bytes: int | None = None
    ) -> int:
        """Remove whole appends, oldest first, that are older than ``before`` or over ``max_bytes``,
        but never one that a registered consumer has not yet processed; returns how many records."""

    async def drop_topic(self, topic: str) -> None:
        """Remove a topic with all it holds."""

    async def close(self) -> None:
        """Release connections. Waits end with an error."""


class Consumers(Protocol):
    """What a log that is not in the project's database is told of those who read it, and tells the
    database of itself: positions of consumers are stored with their results, and how far a consumer
    is behind is asked there."""

    async def opened(self, topic: str, identity: str, partitions: int) -> None:
        """The topic is there. ``identity`` is another one when it was made anew: a `ConfigError`
        while consumers still have positions in the one before, which mean nothing in this."""

    async def reached(self, topic: str, ends: Mapping[int, LogPosition]) -> None:
        """The topic's partitions reach to there. Told before the append that did it returns, so
        that no later statement about the source is known before it."""

    async def trimmed(self, topic: str, firsts: Mapping[int, LogPosition]) -> None:
        """The oldest positions that are kept."""

    async def slowest(self, topic: str) -> Mapping[int, LogPosition]:
        """By partition, the least position that a registered consumer has behind it. Partitions
        that nobody has registered for are left out."""

    async def forget(self, topic: str) -> None:
        """The topic is gone: so are all positions in it."""


@runtime_checkable
class TailableLog(Protocol):
    """A log that can be followed by a person."""

    def tail(self, topic: str, after: LogPosition | None = None) -> AsyncIterator[Batch]:
        """Batches of all partitions from a position (None: from now on), for ever."""


@runtime_checkable
class CheckableLog(Protocol):
    """A log elsewhere, which may be out of reach or set up badly."""

    async def check(self) -> Sequence[tuple[Literal["ok", "warning", "error"], str, str]]:
        """What is well and what is not: level, what was found, what to do."""


@runtime_checkable
class DroppableLog(Protocol):
    """A log elsewhere, which a project that ends leaves things in."""

    async def drop(self) -> Sequence[str]:
        """Remove all topics and all state; returns what was removed, in words."""


class Item(NamedTuple):
    """Something that one process of a project does at a time: carry a source (``name``) into the
    log, process a partition of a topic (``name``, ``partition``), or an upkeep."""

    kind: Literal["source", "partition", "upkeep"]
    name: str
    partition: int = 0


class Share(NamedTuple):
    """What a process should do now. ``shed`` are those of ``mine`` that others should have: stop
    them, then release them."""

    mine: frozenset[Item]
    shed: frozenset[Item]


class Group(Protocol):
    """The processes that share the work of one project, as one of them sees it.

    It says who *should* do what, and is never what correctness rests on: two that do the same for a
    moment are told apart by the producer's fence and by the consumer's position (`FencedError`).
    """

    every_s: float
    """How often `beat` wants to be called; one that is not for several times that is given up."""

    async def join(self, items: Sequence[Item]) -> None:
        """Become one of those that share these; the same items in all processes."""

    async def beat(self) -> Share:
        """Say that this process lives, and learn its share. Items of processes that died are in the
        share of somebody after a few beats."""

    async def release(self, items: Collection[Item]) -> None:
        """These have been stopped: others may begin with them."""

    async def leave(self) -> None:
        """Give everything back at once. May be called again."""
