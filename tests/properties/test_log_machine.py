"""Both logs do, in any order of anything, what a plain list does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from penstock.database.connect import open_pool
from penstock.log.base import Log
from penstock.log.embedded import EmbeddedLog
from penstock.log.memory import MemoryLog
from penstock.records import LogPosition

from .log_model import LogMachine

unhurried = [HealthCheck.too_slow, HealthCheck.data_too_large]


class MemoryMachine(LogMachine):
    async def make(self) -> Log:
        return MemoryLog(self.clock)

    async def register(self, consumer: str, topic: str, partition: int, position: int) -> None:
        assert isinstance(self.log, MemoryLog)
        self.log.consumers[consumer, topic, partition] = LogPosition(position)


class EmbeddedMachine(LogMachine):
    """On one database for all examples: each has names of its own."""

    url = ""
    numbers = count()

    async def make(self) -> Log:
        self.number = next(self.numbers)
        self.pool = await open_pool(self.url, max_size=2)
        self.beside = EmbeddedLog(self.pool, self.url, clock=self.clock, cache_bytes=0)
        return EmbeddedLog(self.pool, self.url, clock=self.clock)

    def name(self, short: str) -> str:
        return f"{short}{self.number}"

    def readers(self) -> Sequence[Log]:
        return [self.log, self.beside]

    async def register(self, consumer: str, topic: str, partition: int, position: int) -> None:
        async with self.pool.connection() as connection:
            await connection.execute(
                "INSERT INTO penstock.consumers (consumer, topic, partition, position)"
                " VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (consumer, topic, partition)"
                " DO UPDATE SET position = excluded.position",
                (consumer, topic, partition, position),
            )

    async def end(self) -> None:
        for topic in self.topics:
            await self.log.drop_topic(self.name(topic))
        await self.beside.close()
        await self.log.close()
        await self.pool.close()


@pytest.mark.timeout(240)  # it takes seconds; making a failure small takes longer
def test_the_log_in_memory_does_what_a_list_does() -> None:
    """L1 to L6, retention and topics, in many orders."""
    run_state_machine_as_test(
        MemoryMachine,
        settings=settings(
            max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=unhurried
        ),
    )


@pytest.mark.timeout(240)  # it takes seconds; making a failure small takes longer
def test_the_embedded_log_does_what_a_list_does(database_url: str) -> None:
    """The same on the real server, read by two instances, one of them without a cache."""

    class Machine(EmbeddedMachine):
        url = database_url

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=8, stateful_step_count=40, deadline=None, suppress_health_check=unhurried
        ),
    )
