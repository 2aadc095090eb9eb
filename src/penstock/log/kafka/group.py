"""Sharing partitions through a consumer group of Kafka, for the assignment alone.

The group says which partitions are ours; nothing is fetched and no offset is ever committed there.
Rebalancing is cooperative: a partition that moves is stopped here before it is given away, and all
others go on.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from penstock.log.base import Item, Share
from penstock.log.kafka.client import Client, library, translated
from penstock.log.kafka.names import Names

if TYPE_CHECKING:
    from confluent_kafka import Consumer

SESSION_S: Final = 6.0
_POLL_S: Final = 0.2
_HAND_OVER_S: Final = 10.0


class KafkaGroup:
    """See `penstock.log.base.Group`; only partitions can be shared so."""

    def __init__(self, client: Client, names: Names, *, session_s: float) -> None:
        self.every_s = 0.5
        self._client = client
        self._names = names
        self._session_s = session_s
        self._consumer: Consumer | None = None
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._lock = threading.Condition()
        self._mine: set[Item] = set()
        self._leaving: set[Item] = set()

    async def join(self, items: Sequence[Item]) -> None:
        """See `Group.join`."""
        topics = sorted({self._names.topic(item.name) for item in items})
        await self._client.call(self._join, topics)

    async def beat(self) -> Share:
        """See `Group.beat`."""
        with self._lock:
            return Share(frozenset(self._mine), frozenset(self._leaving))

    async def release(self, items: Collection[Item]) -> None:
        """See `Group.release`."""
        with self._lock:
            self._leaving -= set(items)
            self._lock.notify_all()

    async def leave(self) -> None:
        """See `Group.leave`."""
        if self._thread is not None:
            self._ending.set()
            with self._lock:
                self._lock.notify_all()
            await self._client.call(self._thread.join)
            self._thread = None

    def _join(self, topics: Sequence[str]) -> None:
        session_ms = int(self._session_s * 1000)
        self._consumer = self._client.consumer(
            **{
                "group.id": f"{self._names.prefix}workers",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": session_ms,
                "heartbeat.interval.ms": session_ms // 4,
                "max.poll.interval.ms": int((self._session_s + _HAND_OVER_S) * 2000),
                "allow.auto.create.topics": False,
            }
        )
        with translated():
            self._consumer.subscribe(
                list(topics),
                on_assign=self._assigned,
                on_revoke=self._revoked,
                on_lost=self._lost,
            )
        self._thread = threading.Thread(target=self._run, name="penstock-kafka group", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        consumer = self._consumer
        assert consumer is not None
        while not self._ending.is_set():
            consumer.poll(_POLL_S)  # what it returns are hints; callbacks are called inside
        consumer.close()

    def _assigned(self, consumer: Any, places: Sequence[Any]) -> None:
        # Paused before anything is fetched: readers read for themselves.
        for place in places:
            place.offset = library().OFFSET_END
        consumer.incremental_assign(places)
        consumer.pause(places)
        with self._lock:
            self._mine |= self._items(places)

    def _revoked(self, consumer: Any, places: Sequence[Any]) -> None:
        """Wait until these are stopped, then let them go."""
        leaving = self._items(places)
        with self._lock:
            self._leaving |= leaving & self._mine
            self._lock.wait_for(
                lambda: self._ending.is_set() or not self._leaving & leaving, _HAND_OVER_S
            )
            self._mine -= leaving
            self._leaving -= leaving
        consumer.incremental_unassign(places)

    def _lost(self, consumer: Any, places: Sequence[Any]) -> None:
        """Somebody else has them already: there is nothing to hand over."""
        with self._lock:
            self._mine -= self._items(places)
        consumer.incremental_unassign(places)

    def _items(self, places: Sequence[Any]) -> set[Item]:
        found = {(self._names.ours(place.topic), place.partition) for place in places}
        return {Item("partition", name, number) for name, number in found if name is not None}
