"""Deliveries that were taken and are not durable yet, the ids of those that are, and what all
sources have in common that others send to."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from penstock.clock import Clock
from penstock.records import Change, Key, Microseconds, Op, Position, Row, Schema
from penstock.sources.base import SourceBatch, State, StateChange

_ID: Final = "id:"
_BATCH_CHANGES: Final = 5000


class News(NamedTuple):
    """One change to come."""

    schema: Schema
    op: Op
    key: Key
    row: Row | None


class Kept(NamedTuple):
    """What is remembered of a delivery: when it was given to the log, which is also the time of its
    changes, and a mark of what it said."""

    at: Microseconds
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait for the log, and which ids are remembered for how long. An id is always
    remembered while its timestamp would be taken (twice the tolerance), so no replay gets in."""

    waiting_changes: int = 20_000
    waiting_bytes: int = 64_000_000
    kept_ids: int = 100_000
    keep_ids_s: float = 3 * 86400.0
    replay_window_s: float = 600.0
    most_ids: int = 2_000_000


@dataclass(slots=True)
class _Delivery:
    id: str
    news: Sequence[News]
    size: int
    mark: str
    remembered: bool
    durable: asyncio.Future[Microseconds | None]
    at: Microseconds | None = None


class Inbox:
    """One reading's deliveries, from a state on. Ends with `abandon`."""

    def __init__(self, state: State, bounds: Bounds) -> None:
        self._bounds = bounds
        self._sequence = int(state.get("sequence", "0"))
        self._number = int(state.get("deliveries", "0"))
        known = [(name[len(_ID) :], _kept(v)) for name, v in state.items() if name.startswith(_ID)]
        self._ids = OrderedDict(sorted(known, key=lambda pair: pair[1].at))
        self._last = int(state.get("time", "0"))
        self._taken: dict[str, _Delivery] = {}  # from here until they are durable
        self._waiting: deque[_Delivery] = deque()
        self._open: deque[tuple[int, _Delivery]] = deque()
        self._changes = self._bytes = 0
        self.wake = asyncio.Event()

    def knows(self, message_id: str) -> bool:
        """Is this one durable already?"""
        return message_id in self._ids and message_id not in self._taken

    def kept(self, message_id: str) -> Kept | None:
        """What is remembered of this one, if it is durable already."""
        return self._ids[message_id] if self.knows(message_id) else None

    def mark(self, message_id: str) -> str | None:
        """The mark of this one, which came before and is not durable yet."""
        delivery = self._taken.get(message_id)
        return None if delivery is None else delivery.mark

    def taken(self, message_id: str) -> asyncio.Future[Microseconds | None] | None:
        """Resolved when this one, which came before, is durable; None: it did not come before."""
        delivery = self._taken.get(message_id)
        return None if delivery is None else delivery.durable

    def full(self, size: int) -> bool:
        """Is there no room for this many bytes more?"""
        bounds = self._bounds
        return (
            self._changes >= bounds.waiting_changes
            or (self._bytes + size > bounds.waiting_bytes and bool(self._taken))
            or len(self._ids) + len(self._waiting) >= bounds.most_ids
        )

    def put(
        self,
        message_id: str,
        news: Sequence[News],
        size: int,
        *,
        mark: str = "",
        remembered: bool = True,
    ) -> asyncio.Future[Microseconds | None]:
        """Take a delivery; resolved with the time of its changes when it is durable, with None when
        it is not known whether it is (the sender sends it again, and its id tells)."""
        loop = asyncio.get_running_loop()
        durable: asyncio.Future[Microseconds | None] = loop.create_future()
        delivery = _Delivery(message_id, news, size, mark, remembered, durable)
        self._taken[message_id] = delivery
        self._waiting.append(delivery)
        self._changes += len(news)
        self._bytes += size
        self.wake.set()
        return durable

    def tick(self, now: Microseconds) -> Microseconds:
        """Now, or later: no time is given twice, also where the clock was set back, so that a time
        says which deliveries were before it."""
        self._last = max(now, self._last + 1)
        return Microseconds(self._last)

    def batch(self, now: Microseconds) -> SourceBatch | None:
        """The next deliveries as changes, whole deliveries only, with their ids in the state."""
        changes: list[Change] = []
        state: dict[str, str | None] = {}
        if not self._waiting:
            return None
        now = self.tick(now)
        while self._waiting and len(changes) < _BATCH_CHANGES:
            delivery = self._waiting.popleft()
            self._number += 1
            self._open.append((self._number, delivery))
            delivery.at = now
            if delivery.remembered:
                self._ids[delivery.id] = Kept(now, delivery.mark)
                state[_ID + delivery.id] = f"{now} {delivery.mark}".rstrip()
            for item in delivery.news:
                self._sequence += 1
                position = Position(f"{self._sequence:016d}")
                changes.append(Change(item.schema, item.op, item.key, position, now, item.row))
        self._forget(now, state)
        state["sequence"] = str(self._sequence)
        state["deliveries"] = str(self._number)
        state["time"] = str(now)
        return SourceBatch(changes, state, now if not self._waiting else None)

    def _forget(self, now: Microseconds, state: dict[str, str | None]) -> None:
        bounds = self._bounds
        while self._ids:
            message_id, kept = next(iter(self._ids.items()))
            age = (now - kept.at) / 1e6
            many = len(self._ids) > bounds.kept_ids and age > bounds.replay_window_s
            if age <= bounds.keep_ids_s and not many:
                return
            del self._ids[message_id]
            state[_ID + message_id] = None

    def settle(self, number: int) -> None:
        """All deliveries up to this number are durable."""
        while self._open and self._open[0][0] <= number:
            delivery = self._open.popleft()[1]
            self._end(delivery, delivery.at)

    def abandon(self) -> None:
        """Nothing more is read: those who wait are told to send again."""
        for delivery in list(self._taken.values()):
            self._end(delivery, None)
        self._waiting.clear()
        self._open.clear()

    def _end(self, delivery: _Delivery, at: Microseconds | None) -> None:
        if self._taken.pop(delivery.id, None) is None:
            return
        self._changes -= len(delivery.news)
        self._bytes -= delivery.size
        if not delivery.durable.done():
            delivery.durable.set_result(at)


def _kept(written: str) -> Kept:
    at, _, mark = written.partition(" ")
    return Kept(Microseconds(int(at)), mark)


class InboxSource:
    """What is delivered to it, in the order of arrival.

    ``as_of`` means: everything that was delivered by then. What a sender still holds back, nobody
    but the sender knows.
    """

    def __init__(self, name: str, bounds: Bounds, clock: Clock, heartbeat_s: float) -> None:
        self.name = name
        self._bounds = bounds
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._inbox: Inbox | None = None

    async def read(self, state: State) -> AsyncIterator[SourceBatch]:
        """See `Source.read`."""
        inbox = self._inbox = Inbox(state, self._bounds)
        beat = self._clock.now()
        try:
            while True:
                inbox.wake.clear()
                now = self._clock.now()
                batch = inbox.batch(now)
                if batch is not None:
                    yield batch
                    continue
                if now >= beat:
                    beat = now + int(self._heartbeat_s * 1e6)  # type: ignore[assignment]
                    told = inbox.tick(now)
                    yield SourceBatch((), {"time": str(told)}, told)
                    continue
                await self._wait(inbox, (beat - now) / 1e6)
        finally:
            inbox.abandon()
            if self._inbox is inbox:
                self._inbox = None

    async def _wait(self, inbox: Inbox, seconds: float) -> None:
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        woken = asyncio.ensure_future(inbox.wake.wait())
        try:
            await asyncio.wait([timer, woken], return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            woken.cancel()
            await asyncio.gather(timer, woken, return_exceptions=True)

    async def acknowledge(self, state: StateChange) -> None:
        """Senders whose deliveries are durable get their answer."""
        number = state.get("deliveries")
        if self._inbox is not None and number is not None:
            self._inbox.settle(int(number))

    async def close(self) -> None:
        """Senders that wait are told to send again."""
        if self._inbox is not None:
            self._inbox.abandon()
            self._inbox = None
