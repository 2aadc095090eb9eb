"""L6: what is read is what was appended, each time."""

from __future__ import annotations

from penstock.log.base import Log
from penstock.records import (
    UNCHANGED,
    Change,
    Column,
    LogPosition,
    Microseconds,
    Op,
    Position,
    Schema,
)
from penstock.testing.logs.instances import Instances
from penstock.testing.logs.sample import change, changes_of, keys, read_all


class ContentsSuite(Instances):
    """What comes back."""

    async def test_l6_values_come_back_exactly(self, log: Log, other: Log) -> None:
        """Any text, NULL, what was not sent, and all that belongs to a change; every time."""
        wide = Schema("s", "w.x", (Column("k", "text", key=True), Column("v", "text")))
        values = ["", "NULL", "__debezium_unavailable_value", "\x00\n\\\"'", "é\U0001f600", None]
        given = [
            Change(wide, Op.READ, ("k",), Position("p"), Microseconds(-5), ("k", value))
            for value in (*values, UNCHANGED)
        ]
        given += [
            Change(
                wide, Op.UPDATE, ("n",), Position("q"), Microseconds(2**60), ("n", UNCHANGED),
                ("o", "b"), ("o",), "77",
            ),
            change(5, op=Op.DELETE),
            change(None, op=Op.TRUNCATE),
        ]  # fmt: skip
        await log.create_topic("t")
        await (await log.open_producer("p")).append("t", given)
        for each in (log, other, other, log):
            assert await changes_of(each, "t") == given

    async def test_streams_are_left_out_and_the_position_moves_on(
        self, log: Log, other: Log
    ) -> None:
        """A reader of some streams passes over the rest without reading it again."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        await producer.append("t", [change(1, stream="a"), change(2, stream="b")])
        await producer.append("t", [change(3, stream="b")])
        await producer.append("t", [change(4, stream="b"), change(5, stream="a")])
        for each in (other, log):
            for streams, expected in (
                ({"a"}, ["1", "5"]),
                ({"a", "b"}, list("12345")),
                ({"c"}, []),
            ):
                batches = await read_all(each, "t", streams=frozenset(streams))
                assert [k for batch in batches for k in keys(batch.changes)] == expected
                assert await each.read("t", 0, batches[-1].last) is None
            (*_, last) = await read_all(each, "t", max_changes=1)
            before = LogPosition(last.first - 1)
            batch = await each.read("t", 0, before, streams=frozenset({"a"}))
            assert batch is not None
            assert keys(batch.changes) == ["5"]
