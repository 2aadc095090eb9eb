"""Deliveries that were taken and are not durable yet, and the ids of those that are."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from penstock.records import Change, Microseconds, Position
from penstock.sources.base import SourceBatch, State
from penstock.sources.webhook.payloads import News

_ID: Final = "id:"
_BATCH_CHANGES: Final = 5000


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
    durable: asyncio.Future[bool]


class Inbox:
    """One reading's deliveries, from a state on. Ends with `abandon`."""

    def __init__(self, state: State, bounds: Bounds) -> None:
        self._bounds = bounds
        self._sequence = int(state.get("sequence", "0"))
        self._number = int(state.get("deliveries", "0"))
        known = ((name[len(_ID) :], at) for name, at in state.items() if name.startswith(_ID))
        self._ids = OrderedDict(sorted(((i, int(at)) for i, at in known), key=lambda pair: pair[1]))
        self._taken: dict[str, _Delivery] = {}  # from here until they are durable
        self._waiting: deque[_Delivery] = deque()
        self._open: deque[tuple[int, _Delivery]] = deque()
        self._changes = self._bytes = 0
        self.wake = asyncio.Event()

    def knows(self, message_id: str) -> bool:
        """Is this one durable already?"""
        return message_id in self._ids and message_id not in self._taken

    def taken(self, message_id: str) -> asyncio.Future[bool] | None:
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

    def put(self, message_id: str, news: Sequence[News], size: int) -> asyncio.Future[bool]:
        """Take a delivery; resolved with True when it is durable, with False when it is not known
        whether it is (the sender sends it again, and its id tells)."""
        durable: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        delivery = _Delivery(message_id, news, size, durable)
        self._taken[message_id] = delivery
        self._waiting.append(delivery)
        self._changes += len(news)
        self._bytes += size
        self.wake.set()
        return durable

    def batch(self, now: Microseconds) -> SourceBatch | None:
        """The next deliveries as changes, whole deliveries only, with their ids in the state."""
        changes: list[Change] = []
        state: dict[str, str | None] = {}
        while self._waiting and len(changes) < _BATCH_CHANGES:
            delivery = self._waiting.popleft()
            self._number += 1
            self._open.append((self._number, delivery))
            self._ids[delivery.id] = now
            state[_ID + delivery.id] = str(now)
            for item in delivery.news:
                self._sequence += 1
                position = Position(f"{self._sequence:016d}")
                changes.append(Change(item.schema, item.op, item.key, position, now, item.row))
        if not state:
            return None
        self._forget(now, state)
        state["sequence"] = str(self._sequence)
        state["deliveries"] = str(self._number)
        return SourceBatch(changes, state, now if not self._waiting else None)

    def _forget(self, now: Microseconds, state: dict[str, str | None]) -> None:
        bounds = self._bounds
        while self._ids:
            message_id, at = next(iter(self._ids.items()))
            age = (now - at) / 1e6
            many = len(self._ids) > bounds.kept_ids and age > bounds.replay_window_s
            if age <= bounds.keep_ids_s and not many:
                return
            del self._ids[message_id]
            state[_ID + message_id] = None

    def settle(self, number: int) -> None:
        """All deliveries up to this number are durable."""
        while self._open and self._open[0][0] <= number:
            self._end(self._open.popleft()[1], durable=True)

    def abandon(self) -> None:
        """Nothing more is read: those who wait are told to send again."""
        for delivery in list(self._taken.values()):
            self._end(delivery, durable=False)
        self._waiting.clear()
        self._open.clear()

    def _end(self, delivery: _Delivery, *, durable: bool) -> None:
        if self._taken.pop(delivery.id, None) is None:
            return
        self._changes -= len(delivery.news)
        self._bytes -= delivery.size
        if not delivery.durable.done():
            delivery.durable.set_result(durable)
