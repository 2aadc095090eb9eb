"""A store that publishes too: messages go to their destination inside a transaction of the store.

A destination is no part of that transaction. Messages are delivered before it commits: when it then
does not, they come again (at least once); what is committed was delivered, always.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol, TypeVar

from penstock.debezium.messages import Message
from penstock.records import LogPosition, Position, Schema
from penstock.stores.base import DeadLetter, Effect, Move, Publish, Store, Transaction


class Destination(Protocol):
    """Where messages are published."""

    async def send(self, messages: Sequence[Message]) -> None:
        """Deliver these, in order per key; returns when the destination has them all durably.

        Raises `BadRecordError` when it refuses one for what it is (then some may be delivered),
        `UnavailableError` when it does not answer.
        """

    async def close(self) -> None:
        """Disconnect; may be called more than once."""


S = TypeVar("S", bound=Store)


class PublishingTransaction:
    """A transaction of ``inner``'s store; `Publish` effects go to their destination."""

    def __init__(self, inner: Transaction, destinations: Mapping[str, Destination]) -> None:
        self.inner = inner
        self._destinations = destinations

    async def apply(self, effect: Effect) -> None:
        if isinstance(effect, Publish):
            await self._destinations[effect.destination].send(effect.messages)
        else:
            await self.inner.apply(effect)

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        await self.inner.bury(letters)

    async def move(self, step: Move) -> None:
        await self.inner.move(step)


class PublishingStore(Generic[S]):
    """``store`` with destinations by name."""

    def __init__(self, store: S, destinations: Mapping[str, Destination]) -> None:
        self.store = store
        self._destinations = destinations

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PublishingTransaction]:
        """See `penstock.stores.base.Store.transaction`."""
        async with self.store.transaction() as inner:
            yield self.within(inner)

    def within(self, transaction: Transaction) -> PublishingTransaction:
        """A transaction of the store that is open, with the destinations."""
        return PublishingTransaction(transaction, self._destinations)

    async def position(self, consumer: str, topic: str, partition: int) -> LogPosition:
        return await self.store.position(consumer, topic, partition)

    async def passed(self, consumer: str, topic: str, partition: int) -> Position | None:
        return await self.store.passed(consumer, topic, partition)

    async def known_vectors(
        self, model: str, hashes: Sequence[bytes], head: str = ""
    ) -> set[bytes]:
        return await self.store.known_vectors(model, hashes, head)

    async def stored_metadata(
        self, source: str, keys: Sequence[str]
    ) -> Mapping[str, tuple[Position, Mapping[str, Any]]]:
        return await self.store.stored_metadata(source, keys)

    async def prepare_tables(self, schemas: Sequence[Schema]) -> None:
        await self.store.prepare_tables(schemas)

    async def close(self) -> None:
        """Disconnect from all destinations; the store stays open."""
        for destination in self._destinations.values():
            await destination.close()
