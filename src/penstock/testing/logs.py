"""The conformance suite of logs: every promise in `penstock.log.base`, as tests.

Derive from `LogSuite` in a test module and write the fixture ``log`` (a fresh, empty log) and, when
two instances can stand on the same storage, ``other``. `register` says how a consumer's position
is stored where retention looks for it.

    class TestMyLog(LogSuite):
        @pytest.fixture
        async def log(self):
            ...
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

import pytest

from penstock.errors import ConfigError, FatalError, FencedError
from penstock.log.base import Log, Producer, TailableLog
from penstock.records import (
    BEGINNING,
    UNCHANGED,
    Batch,
    Change,
    Column,
    Key,
    LogPosition,
    Microseconds,
    Op,
    Position,
    Row,
    Schema,
)

DEADLINE_S = 20.0
COLUMNS = (Column("id", "bigint", key=True), Column("name", "text"))


def change(
    key: object, name: str | None = "a", *, stream: str = "public.things", op: Op = Op.CREATE
) -> Change:
    """A change of one row of a small table."""
    schema = Schema("shop", stream, COLUMNS)
    if op is Op.TRUNCATE:
        return Change(schema, op, (), Position("0001"), Microseconds(1))
    text = str(key)
    before: Row | None = (text, None) if op is Op.DELETE else None
    after: Row | None = None if op is Op.DELETE else (text, name)
    return Change(schema, op, (text,), Position(f"{text:0>8}"), Microseconds(1), after, before)


async def read_all(
    log: Log,
    topic: str,
    partition: int = 0,
    after: LogPosition = BEGINNING,
    *,
    max_changes: int = 5000,
    streams: frozenset[str] | None = None,
) -> list[Batch]:
    """All batches after a position, until there is no more."""
    batches = []
    while batch := await log.read(
        topic, partition, after, max_changes=max_changes, streams=streams
    ):
        batches.append(batch)
        after = batch.last
    return batches


async def changes_of(log: Log, topic: str, partition: int = 0) -> list[Change]:
    """All changes of a partition."""
    return [each for batch in await read_all(log, topic, partition) for each in batch.changes]


def keys(changes: Sequence[Change]) -> list[str]:
    """The first part of each key."""
    return [each.key[0] or "" for each in changes]


def present_time() -> Microseconds:
    """A time after everything that happened and before everything that will, for logs that know
    milliseconds."""
    now = time.time_ns() // 1000
    while time.time_ns() // 1000 <= now + 4000:
        pass
    return Microseconds(now + 2000)


class LogSuite:
    """What every log does."""

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

    # ------------------------------------------------------------------ L1, L2: positions

    async def test_l1_positions_ascend_in_the_order_of_appending(self, log: Log) -> None:
        """A batch says the first and the last of its own; the next begins right after."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        await producer.append("t", [change(1), change(2)])
        await producer.append("t", [change(3)])
        batch = await log.read("t", 0, BEGINNING)
        assert batch is not None
        assert (keys(batch.changes), batch.first) == (["1", "2", "3"], 1)
        assert batch.last == 3 or not self.counts_records
        assert await log.read("t", 0, batch.last) is None
        await producer.append("t", [change(4)])
        after = await log.read("t", 0, batch.last)
        assert after is not None
        assert (keys(after.changes), after.first) == (["4"], batch.last + 1)
        assert after.last >= after.first

    async def test_an_empty_topic_has_nothing_to_read(self, log: Log, other: Log) -> None:
        """Reading never waits."""
        await log.create_topic("t")
        assert await log.read("t", 0, BEGINNING) is None
        assert await other.read("t", 0, BEGINNING) is None

    async def test_an_append_is_read_whole(self, log: Log, other: Log) -> None:
        """At least one append, however large; more of them only up to what was asked for."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        await producer.append("t", [change(i) for i in range(2500)])
        for i in range(10):
            await producer.append("t", [change(i), change(i)])
        for each in (log, other):
            sizes = [len(b.changes) for b in await read_all(each, "t", max_changes=5)]
            assert sizes[0] == 2500
            assert sum(sizes) == 2520
            assert all(size in (2, 4, 6) for size in sizes[1:])
            assert len(sizes) > 3

    async def test_reading_goes_on_inside_an_append(self, log: Log, other: Log) -> None:
        """A position in the middle of an append resumes after exactly that record."""
        if not self.counts_records:
            pytest.skip("there are no positions inside an append")
        await log.create_topic("t")
        await (await log.open_producer("p")).append("t", [change(i) for i in range(1, 6)])
        for each in (other, log):
            batch = await each.read("t", 0, LogPosition(3))
            assert batch is not None
            assert (keys(batch.changes), batch.first, batch.last) == (["4", "5"], 4, 5)

    async def test_l2_racing_writers_hide_nothing_from_a_reader(self, log: Log, other: Log) -> None:
        """Two producers append to one partition; who resumes from what was seen misses nothing."""
        await log.create_topic("t")

        async def write(producer: Producer, name: str) -> None:
            for i in range(60):
                await producer.append("t", [change(f"{name}{i}"), change(f"{name}{i}+")])

        writing = asyncio.gather(
            write(await log.open_producer("a"), "a"), write(await other.open_producer("b"), "b")
        )
        seen: list[str] = []
        at = BEGINNING
        async with asyncio.timeout(DEADLINE_S):
            while len(seen) < 240:
                batch = await other.read("t", 0, at, max_changes=3)
                if batch is None:
                    await other.wait("t", 0, at)
                    continue
                assert batch.first == at + 1
                assert len(batch.changes) == batch.last - at or not self.counts_records
                seen.extend(keys(batch.changes))
                at = batch.last
            await writing
        for name in "ab":
            mine = [key for key in seen if key.startswith(name)]
            assert mine == [f"{name}{i}{end}" for i in range(60) for end in ("", "+")]
        assert await changes_of(log, "t") == await changes_of(other, "t")

    # ------------------------------------------------------------------ L3: one step

    async def test_l3_state_is_merged_and_removed_with_the_changes(
        self, log: Log, other: Log
    ) -> None:
        """A producer that is opened again finds what all appends left."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        assert dict(producer.state) == {}
        await producer.append("t", [change(1)], state={"a": "1", "b": "2", "c": ""})
        await producer.append("t", [change(2)], state={"a": "3", "b": None, "absent": None})
        await producer.append("t", [], state={"d": "é \U0001f600"})
        assert dict((await other.open_producer("p")).state) == {
            "a": "3",
            "c": "",
            "d": "é \U0001f600",
        }
        assert dict((await other.open_producer("q")).state) == {}
        assert keys(await changes_of(other, "t")) == ["1", "2"]

    async def test_l3_many_names_of_state_at_once(self, log: Log, other: Log) -> None:
        """A folder's worth of fingerprints is one step."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        state = {f"dir/{i}": f"sha-{i}" for i in range(1000)}
        await producer.append("t", [change(1)], state=state)
        await producer.append("t", [], state=dict.fromkeys(list(state)[:500]))
        left = dict(list(state.items())[500:])
        assert dict((await other.open_producer("p")).state) == left

    async def test_l3_a_refused_append_leaves_nothing(self, log: Log, other: Log) -> None:
        """Neither changes nor state of an append that was fenced, or went to no topic."""
        await log.create_topic("t")
        old = await log.open_producer("p")
        new = await other.open_producer("p")
        with pytest.raises(FencedError):
            await old.append("t", [change(1)], state={"a": "old"}, as_of=Microseconds(9))
        with pytest.raises(FatalError):
            await new.append("absent", [change(1)], state={"a": "lost"})
        assert await changes_of(log, "t") == []
        assert dict((await log.open_producer("p")).state) == {}

    async def test_l3_time_alone_is_readable_everywhere(self, log: Log, other: Log) -> None:
        """With no changes only time is stored; every partition's readers see it."""
        await log.create_topic("t", 3)
        producer = await log.open_producer("p")
        await producer.append("t", [], as_of=Microseconds(70))
        await producer.append("t", [change(1)], as_of=Microseconds(80))
        for partition in range(3):
            batches = await read_all(other, "t", partition)
            assert batches[-1].as_of == 80
        await producer.append("t", [], state={"only": "state"})
        assert await read_all(other, "t", 0, batches[-1].last) == []

    # ------------------------------------------------------------------ L4: fencing

    async def test_l4_opening_again_fences_the_one_before(self, log: Log, other: Log) -> None:
        """The older producer of a name is refused, for good; others are not concerned."""
        await log.create_topic("t")
        bystander = await log.open_producer("q")
        old = await log.open_producer("p")
        await old.append("t", [change(1)])
        new = await other.open_producer("p")
        for _ in range(2):
            with pytest.raises(FencedError):
                await old.append("t", [change(2)])
        await new.append("t", [change(3)])
        await bystander.append("t", [change(4)])
        assert keys(await changes_of(log, "t")) == ["1", "3", "4"]

    # ------------------------------------------------------------------ L5: partitions

    async def test_l5_a_key_stays_in_one_partition(self, log: Log, other: Log) -> None:
        """Whichever instance appends, in the order of appending, and keys are spread."""
        await log.create_topic("t", 4)
        for instance, name in ((log, "a"), (other, "b"), (log, "c")):
            producer = await instance.open_producer(name)
            await producer.append("t", [change(i, name) for i in range(40)])
        where: dict[str, set[int]] = {}
        for partition in range(4):
            found = await changes_of(other, "t", partition)
            assert found
            for key in set(keys(found)):
                where.setdefault(key, set()).add(partition)
                names = [each.value("name") for each in found if each.key == (key,)]
                assert names == ["a", "b", "c"]
        assert len(where) == 40
        assert all(len(partitions) == 1 for partitions in where.values())

    async def test_l5_a_truncate_is_in_all_partitions(self, log: Log, other: Log) -> None:
        """In each of them after what was appended before it."""
        await log.create_topic("t", 3)
        producer = await log.open_producer("p")
        batch = [*(change(i) for i in range(20)), change(None, op=Op.TRUNCATE), change(99)]
        await producer.append("t", batch)
        for partition in range(3):
            ops = [each.op for each in await changes_of(other, "t", partition)]
            assert ops.count(Op.TRUNCATE) == 1
            assert Op.TRUNCATE in ops[-2:]

    async def test_l5_a_moved_key_is_in_the_partitions_of_both(self, log: Log) -> None:
        """So the reader of either key sees the move among its changes."""
        await log.create_topic("t", 8)
        producer = await log.open_producer("p")
        await producer.append("t", [change(i) for i in range(50)])
        moves = [change(i + 1)._replace(op=Op.UPDATE, old_key=(str(i),)) for i in range(0, 50, 2)]
        await producer.append("t", moves)
        touched: dict[Key, list[Op]] = {}
        for partition in range(8):
            found = await changes_of(log, "t", partition)
            own = {each.key for each in found if each.op is Op.CREATE}
            for each in found:
                for key in {each.key, each.old_key or each.key} & own:
                    touched.setdefault(key, []).append(each.op)
        assert len(touched) == 50
        assert all(ops == [Op.CREATE, Op.UPDATE] for ops in touched.values())

    # ------------------------------------------------------------------ L6: what is read

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
            batch = await each.read("t", 0, LogPosition(last.first - 1), streams=frozenset({"a"}))
            assert batch is not None
            assert keys(batch.changes) == ["5"]

    # ------------------------------------------------------------------ waiting

    async def test_an_append_wakes_waiting_readers_of_all_instances(
        self, log: Log, other: Log
    ) -> None:
        """Each append is seen by readers that only read after they were woken."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        appended = asyncio.Semaphore(0)

        async def follow(instance: Log) -> list[str]:
            seen: list[str] = []
            at = BEGINNING
            while len(seen) < 30:
                batch = await instance.read("t", 0, at)
                if batch is None:
                    await instance.wait("t", 0, at)
                    continue
                seen.extend(keys(batch.changes))
                at = batch.last
                appended.release()
            return seen

        async with asyncio.timeout(DEADLINE_S):
            readers = [asyncio.create_task(follow(each)) for each in (log, other, other)]
            for i in range(30):
                await producer.append("t", [change(i)])
                for _ in readers:
                    await appended.acquire()
            for reader in readers:
                assert await reader == [str(i) for i in range(30)]

    async def test_waiting_for_what_is_there_returns(self, log: Log, other: Log) -> None:
        """A reader that comes late is not left waiting for the next append."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        at = BEGINNING
        async with asyncio.timeout(DEADLINE_S):
            for i in range(5):
                await producer.append("t", [change(i)])
                await other.wait("t", 0, at)
                await log.wait("t", 0, at)
                batch = await log.read("t", 0, at)
                assert batch is not None
                at = batch.last

    async def test_a_wait_can_be_cancelled(self, log: Log) -> None:
        """And what is appended later is read as if there had been no wait."""
        await log.create_topic("t")

        async def wait_for_ever() -> None:
            while True:
                await log.wait("t", 0, BEGINNING)

        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(wait_for_ever(), 0.05)
        await (await log.open_producer("p")).append("t", [change(1)])
        assert keys(await changes_of(log, "t")) == ["1"]

    async def test_closing_ends_waits_with_an_error(self, log: Log) -> None:
        """Nobody waits on a closed log for ever."""
        await log.create_topic("t")

        async def wait_for_ever() -> None:
            while True:
                await log.wait("t", 0, BEGINNING)

        waiting = asyncio.create_task(wait_for_ever())
        await asyncio.sleep(0)
        await log.close()
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(FatalError, match="closed"):
                await waiting
        await log.close()

    async def test_tail_follows_all_partitions(self, log: Log, other: Log) -> None:
        """From a position what is there, then what comes; from now on only what comes."""
        assert isinstance(other, TailableLog)
        await log.create_topic("t", 2)
        producer = await log.open_producer("p")
        await producer.append("t", [change(i) for i in range(10)])
        from_now = other.tail("t")
        first = asyncio.ensure_future(anext(from_now))
        from_start = other.tail("t", BEGINNING)
        seen: list[str] = []
        async with asyncio.timeout(DEADLINE_S):
            while len(seen) < 10:
                seen.extend(keys((await anext(from_start)).changes))
            assert sorted(seen, key=int) == [str(i) for i in range(10)]
            await producer.append("t", [change(99)])
            assert keys((await first).changes) == ["99"]
            assert keys((await anext(from_start)).changes) == ["99"]
        for following in (from_now, from_start):
            if isinstance(following, AsyncGenerator):
                await following.aclose()

    # ------------------------------------------------------------------ time and retention

    async def test_seek_finds_what_was_appended_since(self, log: Log, other: Log) -> None:
        """The position after which everything was appended at that time or later."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        start = present_time()
        await producer.append("t", [change(1), change(2)])
        middle = present_time()
        await producer.append("t", [change(3)])
        end = present_time()
        for each in (log, other):
            found = [await each.seek("t", 0, when) for when in (start, middle, end)]
            assert found == sorted(found)
            assert found == [0, 2, 3] or not self.counts_records
            after = [
                [c for b in await read_all(each, "t", 0, at) for c in b.changes] for at in found
            ]
            assert [keys(changes) for changes in after] == [["1", "2", "3"], ["3"], []]

    async def test_trim_by_time_removes_whole_appends(self, log: Log, other: Log) -> None:
        """What is older goes, positions stay, and reading what is gone says what is left."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        await producer.append("t", [change(1), change(2)])
        await producer.append("t", [], as_of=Microseconds(5))
        middle = present_time()
        await producer.append("t", [change(3)])
        assert await log.trim("t", before=middle) == 2
        assert await log.trim("t", before=middle) == 0
        (kept,) = await log.describe("t")
        assert (kept.first, kept.last) == (4, 4) or not self.counts_records
        for each in (log, other):
            with pytest.raises(FatalError, match=f"{kept.first} is the oldest"):
                await each.read("t", 0, BEGINNING)
            left = await read_all(each, "t", 0, LogPosition(kept.first - 1))
            assert keys([c for b in left for c in b.changes]) == ["3"]
            (info,) = await each.describe("t")
            assert (info.first, info.last, info.records) == (kept.first, kept.last, 1)
        assert await log.trim("t", before=present_time()) == 1
        assert await log.read("t", 0, kept.last) is None
        await producer.append("t", [change(4)])
        batch = await other.read("t", 0, kept.last)
        assert batch is not None
        assert (batch.first, keys(batch.changes)) == (kept.last + 1, ["4"])

    async def test_trim_by_size_keeps_the_newest(self, log: Log) -> None:
        """As much as fits is kept; without limits nothing is removed."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        for i in range(10):
            await producer.append("t", [change(i, "x" * 100)])
            present_time()
        (info,) = await log.describe("t")
        assert await log.trim("t") == 0
        assert await log.trim("t", max_bytes=info.size_bytes) == 0
        assert await log.trim("t", max_bytes=info.size_bytes // 2) == 5
        (left,) = await log.describe("t")
        assert left.size_bytes <= info.size_bytes // 2
        assert (left.first, left.last) == (6, 10) or not self.counts_records
        kept = await read_all(log, "t", 0, LogPosition(left.first - 1))
        assert keys([c for b in kept for c in b.changes]) == ["5", "6", "7", "8", "9"]
        assert await log.trim("t", max_bytes=0) == 5
        (empty,) = await log.describe("t")
        assert (empty.first, empty.last, empty.records) == (left.last + 1, left.last, 0)
        assert await log.read("t", 0, empty.last) is None

    async def test_trim_waits_for_the_slowest_consumer(self, log: Log) -> None:
        """What a registered consumer has not processed stays, however old or large."""
        await log.create_topic("t")
        await log.create_topic("u")
        await self.register(log, "elsewhere", "u", 0, BEGINNING)
        producer = await log.open_producer("p")
        for i in range(3):
            await producer.append("t", [change(i), change(i)])
            present_time()
        ends = [batch.last for batch in await read_all(log, "t", max_changes=1)]
        await self.register(log, "quick", "t", 0, ends[2])
        await self.register(log, "slow", "t", 0, ends[0])
        assert await log.trim("t", max_bytes=0, before=present_time()) == 2
        await self.register(log, "slow", "t", 0, ends[2])
        assert await log.trim("t", before=present_time()) == 4

    # ------------------------------------------------------------------ topics

    async def test_topics_are_made_once(self, log: Log, other: Log) -> None:
        """Making one again changes nothing; another number of partitions is refused."""
        await log.create_topic("t", 2)
        await (await log.open_producer("p")).append("t", [change(1)])
        await other.create_topic("t", 2)
        for each in (log, other):
            with pytest.raises(ConfigError, match="2"):
                await each.create_topic("t", 3)
        assert sum(info.records for info in await other.describe("t")) == 1

    async def test_topics_are_described_in_order(self, log: Log, other: Log) -> None:
        """By name and partition; one topic alone when asked."""
        for name, partitions in (("b", 1), ("a", 2), ("C:x", 1)):
            await log.create_topic(name, partitions)
        described = [(info.topic, info.partition) for info in await other.describe()]
        assert described == [("C:x", 0), ("a", 0), ("a", 1), ("b", 0)]
        assert [info.partition for info in await other.describe("a")] == [0, 1]
        assert list(await other.describe("absent")) == []

    async def test_what_is_not_there_is_refused(self, log: Log) -> None:
        """Unknown topics and partitions, and positions that the log never reached."""
        await log.create_topic("t")
        with pytest.raises(FatalError, match="absent"):
            await log.read("absent", 0, BEGINNING)
        with pytest.raises(FatalError, match="partition 1"):
            await log.read("t", 1, BEGINNING)
        with pytest.raises(FatalError, match="made anew"):
            await log.read("t", 0, LogPosition(1))

    async def test_a_dropped_topic_is_gone(self, log: Log, other: Log) -> None:
        """With all it held; made again it begins anew, for all instances."""
        await log.create_topic("t")
        producer = await log.open_producer("p")
        await producer.append("t", [change(1), change(2)])
        assert keys(await changes_of(other, "t")) == ["1", "2"]
        await log.drop_topic("t")
        await log.drop_topic("t")
        with pytest.raises(FatalError, match="'t'"):
            await log.read("t", 0, BEGINNING)
        await log.create_topic("t", 2)
        producer = await log.open_producer("p")
        await producer.append("t", [change(i) for i in range(20, 30)])
        assert sum(info.records for info in await log.describe("t")) == 10
        assert {"1", "2"}.isdisjoint(keys(await changes_of(log, "t")))
