"""What every part of the suite is given."""

from __future__ import annotations

import pytest

from penstock.log.base import Log
from penstock.records import LogPosition


class Instances:
    """The fixtures of a suite: ``log``, which the author writes, and what has a default."""

    counts_records = True
    """Positions are 1, 2, 3, ..., one for each record; False for a log that leaves numbers out and
    knows positions only between appends."""

    @pytest.fixture
    def other(self, log: Log) -> Log:
        """A second instance on the same storage; the log itself where there cannot be one."""
        return log

    async def register(
        self, log: Log, consumer: str, topic: str, partition: int, position: LogPosition
    ) -> None:
        """Store a consumer's position where `Log.trim` looks for it."""
        pytest.skip(f"{log}: not told how {consumer} is set to {topic}:{partition}:{position}")
