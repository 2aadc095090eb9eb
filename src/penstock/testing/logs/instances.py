"""What every part of the suite is given."""

from __future__ import annotations

import pytest

from penstock.log.base import Log
from penstock.records import LogPosition


class Instances:
    """The fixtures of a suite: ``log``, which the author writes, and what has a default."""

    @pytest.fixture
    def other(self, log: Log) -> Log:
        """A second instance on the same storage; the log itself where there cannot be one."""
        return log

    async def register(
        self, log: Log, consumer: str, topic: str, partition: int, position: LogPosition
    ) -> None:
        """Store a consumer's position where `Log.trim` looks for it."""
        pytest.skip(f"{log}: not told how {consumer} is set to {topic}:{partition}:{position}")
