"""The conformance suite of logs: every promise in `penstock.log.base`, as tests.

Derive from `LogSuite` in a test module and write the fixture ``log`` (a fresh, empty log) and, when
two instances can stand on the same storage, ``other``. `register` says how a consumer's position
is stored where retention looks for it.

    class TestMyLog(LogSuite):
        @pytest.fixture
        async def log(self):
            ...

Each module holds the tests of one guarantee; `LogSuite` is all of them.
"""

from __future__ import annotations

from penstock.testing.logs.contents import ContentsSuite
from penstock.testing.logs.order import OrderSuite
from penstock.testing.logs.partitions import KeySuite
from penstock.testing.logs.retention import RetentionSuite
from penstock.testing.logs.sample import (
    COLUMNS,
    DEADLINE_S,
    change,
    changes_of,
    keys,
    present_time,
    read_all,
)
from penstock.testing.logs.steps import StepSuite
from penstock.testing.logs.topics import TopicSuite
from penstock.testing.logs.waiting import WaitingSuite

__all__ = [
    "COLUMNS",
    "DEADLINE_S",
    "LogSuite",
    "change",
    "changes_of",
    "keys",
    "present_time",
    "read_all",
]


class LogSuite(
    OrderSuite,
    StepSuite,
    KeySuite,
    ContentsSuite,
    WaitingSuite,
    RetentionSuite,
    TopicSuite,
):
    """What every log does."""
