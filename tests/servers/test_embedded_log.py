"""The embedded log when connections, processes and the server die under it."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from penstock.bench.waiting import until
from penstock.clock import SystemClock
from penstock.database.connect import open_pool
from penstock.database.embedded import EmbeddedPostgres
from penstock.database.migrate import migrate
from penstock.database.queries import load_queries
from penstock.errors import DamagedError, FatalError, FencedError, UnavailableError
from penstock.log import embedded
from penstock.log.embedded import EmbeddedLog
from penstock.records import BEGINNING, LogPosition
from penstock.testing.logs import change, changes_of, keys, read_all

# A process that appends pairs of changes, and how many pairs as its state, until it is stopped.
WRITER = """
import asyncio, sys
from penstock.clock import SystemClock
from penstock.database.connect import open_pool
from penstock.log.embedded import EmbeddedLog
from penstock.testing.logs import change

async def main(url, name, count):
    pool = await open_pool(url)
    log = EmbeddedLog(pool, url, clock=SystemClock())
    producer = await log.open_producer(name)
    done = int(producer.state.get("pairs", "0"))
    print("ready", flush=True)
    for i in range(done, done + count):
        pair = [change(f"{name}{i}"), change(f"{name}{i}+")]
        await producer.append("t", pair, state={"pairs": str(i + 1)})
    await log.close()
    await pool.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[EmbeddedLog]:
    pool = await open_pool(url, max_size=3)
    log = EmbeddedLog(pool, url, clock=SystemClock())
    try:
        yield log
    finally:
        await log.close()
        await pool.close()


async def writer(url: str, name: str, count: int) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, url, name, str(count), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


class Blocker:
    """Holds the head of a partition, so that appends stop in the middle."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection

    async def hold(self) -> None:
        await self._connection.execute("SELECT FROM penstock.log_partitions FOR UPDATE")

    async def release(self) -> None:
        await self._connection.rollback()

    async def all_blocked(self) -> list[int]:
        """The processes that wait for a lock."""
        cursor = await self._connection.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return [pid for (pid,) in await cursor.fetchall()]

    async def blocked(self) -> int:
        """The process that waits for a lock, as soon as there is one."""
        found: list[int] = []

        async def seen() -> bool:
            found[:] = await self.all_blocked()
            return bool(found)

        await until(seen, limit_s=20)
        return found[0]

    async def kill(self, pid: int) -> None:
        await self._connection.execute("SELECT pg_terminate_backend(%s)", [pid])


@pytest.fixture
async def blocker(database_url: str) -> AsyncIterator[Blocker]:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        yield Blocker(connection)


async def test_l3_a_connection_killed_in_an_append_leaves_nothing(
    database_url: str, blocker: Blocker
) -> None:
    """The caller hears that the log is unavailable, must open the producer again, and finds the
    state of before; the pool has recovered by then."""
    async with opened(database_url) as log:
        await log.create_topic("t")
        producer = await log.open_producer("p")
        await producer.append("t", [change(1)], state={"at": "1"})
        await blocker.hold()
        appending = asyncio.create_task(
            producer.append("t", [change(2)], state={"at": "2", "more": "x"})
        )
        await blocker.kill(await blocker.blocked())
        with pytest.raises(UnavailableError):
            await appending
        await blocker.release()
        with pytest.raises(FatalError, match="open the producer again"):
            await producer.append("t", [change(3)])
        again = await log.open_producer("p")
        assert dict(again.state) == {"at": "1"}
        await again.append("t", [change(4)])
        assert keys(await changes_of(log, "t")) == ["1", "4"]


async def test_l3_a_cancelled_append_must_be_looked_up(database_url: str, blocker: Blocker) -> None:
    """Whoever cancels an append does not know whether it happened; opening again tells."""
    async with opened(database_url) as log:
        await log.create_topic("t")
        producer = await log.open_producer("p")
        await blocker.hold()
        appending = asyncio.create_task(producer.append("t", [change(1)], state={"at": "1"}))
        await blocker.blocked()
        appending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await appending
        await blocker.release()
        with pytest.raises(FatalError, match="open the producer again"):
            await producer.append("t", [change(2)])
        again = await log.open_producer("p")
        happened = dict(again.state) == {"at": "1"}
        assert keys(await changes_of(log, "t")) == (["1"] if happened else [])


async def test_l4_an_opener_waits_for_an_append_under_way(
    database_url: str, blocker: Blocker
) -> None:
    """The new producer's state holds what the old one was just storing."""
    async with opened(database_url) as log, opened(database_url) as other:
        await log.create_topic("t")
        old = await log.open_producer("p")
        await blocker.hold()
        appending = asyncio.create_task(old.append("t", [change(1)], state={"at": "1"}))
        await blocker.blocked()
        opening = asyncio.create_task(other.open_producer("p"))

        async def waiting() -> bool:
            return opening.done() or len(await blocker.all_blocked()) == 2

        await until(waiting)
        await blocker.release()
        await appending
        assert dict((await opening).state) == {"at": "1"}
        with pytest.raises(FencedError):
            await old.append("t", [change(2)])


async def test_l2_racing_processes_hide_nothing_from_a_reader(database_url: str) -> None:
    """Two processes append to one partition while a third reads and only resumes."""
    async with opened(database_url) as log:
        await log.create_topic("t")
        writers = await asyncio.gather(*(writer(database_url, name, 150) for name in "ab"))
        seen: list[str] = []
        at = BEGINNING
        async with asyncio.timeout(40):
            while len(seen) < 600:
                batch = await log.read("t", 0, at)
                if batch is None:
                    await log.wait("t", 0, at)
                    continue
                assert (batch.first, batch.last) == (at + 1, at + len(batch.changes))
                seen.extend(keys(batch.changes))
                at = batch.last
            assert [await process.wait() for process in writers] == [0, 0]
        for name in "ab":
            mine = [key for key in seen if key.startswith(name)]
            assert mine == [f"{name}{i}{end}" for i in range(150) for end in ("", "+")]


async def test_g2_a_killed_process_leaves_whole_appends_and_their_state(database_url: str) -> None:
    """kill -9 at any moment: what is in the log and what the state says are the same."""
    async with opened(database_url) as log:
        await log.create_topic("t")
        for _ in range(3):
            process = await writer(database_url, "w", 1_000_000)
            (before,) = await log.describe("t")
            goal = LogPosition(before.last + random.randrange(40))

            async def grown(goal: LogPosition = goal) -> bool:
                (info,) = await log.describe("t")
                return info.last > goal

            await until(grown)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            state = (await log.open_producer("w")).state
            pairs = int(state["pairs"])
            expected = [f"w{i}{end}" for i in range(pairs) for end in ("", "+")]
            assert keys(await changes_of(log, "t")) == expected


async def test_a_server_that_restarts_wakes_the_waiting() -> None:
    """A reader that waits over a restart of the server gets what is appended afterwards, and a
    producer opened again goes on."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
    folder.chmod(0o755)
    postgres = EmbeddedPostgres(folder / "server", settings={"fsync": "off"})
    try:
        url = await postgres.start()
        await migrate(url)
        async with opened(url) as log, opened(url) as other:
            await log.create_topic("t")
            await (await other.open_producer("p")).append("t", [change(1)])
            reading = asyncio.create_task(follow(log, 2))
            await until(lambda: _listening(url))
            await postgres.stop()
            assert await postgres.start() == url
            await until(lambda: _appended(other))
            async with asyncio.timeout(20):
                assert await reading == ["1", "2"]
            assert await read_all(log, "t", 0, LogPosition(2)) == []
    finally:
        await postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def test_a_lost_listener_is_replaced(database_url: str) -> None:
    """Appends of others wake a reader again after its listening connection was killed."""
    async with opened(database_url) as log, opened(database_url) as other:
        await log.create_topic("t")
        producer = await other.open_producer("p")
        reading = asyncio.create_task(follow(log, 3))
        for i in (1, 2, 3):
            await until(lambda: _listening(database_url))
            await _kill_listeners(database_url)
            await producer.append("t", [change(i)])
        async with asyncio.timeout(20):
            assert await reading == ["1", "2", "3"]


async def test_what_is_too_large_is_refused_before_anything_is_written(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The producer goes on: it knows that nothing happened."""
    monkeypatch.setattr("penstock.log.embedded.MAX_PAYLOAD", 1000)
    async with opened(database_url) as log:
        await log.create_topic("t")
        producer = await log.open_producer("p")
        noise = random.Random(1).randbytes(2000).hex()
        with pytest.raises(FatalError, match="at most 1000 bytes"):
            await producer.append("t", [change(1, noise)], state={"at": "1"})
        await producer.append("t", [change(2)])
        assert keys(await changes_of(log, "t")) == ["2"]
        assert dict((await log.open_producer("p")).state) == {}


async def test_a_state_that_cannot_be_stored_stops_the_source(database_url: str) -> None:
    """With a sentence, and without its changes."""
    async with opened(database_url) as log:
        await log.create_topic("t")
        for value in ("with \x00", "\udcff"):
            producer = await log.open_producer("p")
            with pytest.raises(FatalError, match="state must be text"):
                await producer.append("t", [change(1)], state={"at": value})
        assert await changes_of(log, "t") == []


async def test_reading_finds_its_rows_in_the_index(database_url: str) -> None:
    """However long the backlog: both ends of a read, the place of a time, the head."""
    async with opened(database_url) as log:
        await log.create_topic("t")
        queries = load_queries(Path(embedded.__file__).with_suffix(".sql"))
    values = {
        "topic": "t",
        "partition": 0,
        "after": 50_000,
        "max_changes": 100,
        "streams": ["a"],
        "time": 2**60,
    }
    async with await psycopg.AsyncConnection.connect(
        database_url, autocommit=True, cursor_factory=psycopg.AsyncClientCursor
    ) as connection:
        await connection.execute(
            "INSERT INTO penstock.log_batches (topic, partition, last_position, first_position,"
            " changes, streams) SELECT 't', 0, n, n, 1, '{a}' FROM generate_series(1, 100000) AS n"
        )
        await connection.execute("UPDATE penstock.log_partitions SET last = 100000")
        await connection.execute("ANALYZE penstock.log_batches")
        for name in ("read", "seek"):
            query = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) " + queries[name]
            cursor = await connection.execute(query, values)
            plan = "\n".join(line for (line,) in await cursor.fetchall())
            assert "Seq Scan on log_batches" not in plan, plan
        cursor = await connection.execute(queries["read"], values)
        assert len(await cursor.fetchall()) == 100


async def follow(log: EmbeddedLog, count: int) -> list[str]:
    """The keys of the first ``count`` changes, read as a pipeline does."""
    seen: list[str] = []
    at = BEGINNING
    while len(seen) < count:
        try:
            batch = await log.read("t", 0, at)
            if batch is None:
                await log.wait("t", 0, at)
                continue
        except UnavailableError:
            await asyncio.sleep(0.01)
            continue
        seen.extend(keys(batch.changes))
        at = batch.last
    return seen


async def _appended(log: EmbeddedLog) -> bool:
    with suppress(UnavailableError):
        producer = await log.open_producer("p")
        await producer.append("t", [change(2)])
        return True
    return False


LISTENERS = (
    "SELECT {} FROM pg_stat_activity WHERE application_name = 'penstock log'"
    " AND datname = current_database()"
)


async def _listening(url: str) -> bool:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(LISTENERS.format("query"))
        return any(query.startswith("LISTEN") for (query,) in await cursor.fetchall())


async def _kill_listeners(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(LISTENERS.format("pg_terminate_backend(pid)"))


async def test_g2_a_damaged_byte_is_named_and_other_topics_go_on(database_url: str) -> None:
    """Every byte of a stored batch, one at a time: who reads it is told which positions of which
    topic, and what to do; what is around it, and other topics, are read as before."""
    async with opened(database_url) as log:
        for topic in ("shop", "other"):
            await log.create_topic(topic)
        producer = await log.open_producer("p")
        for i in (1, 3, 5):
            await producer.append("shop", [change(i), change(i + 1)])
        await producer.append("other", [change(9)])
    flip = (
        "UPDATE penstock.log_batches SET payload = set_byte(payload, %(at)s,"
        " get_byte(payload, %(at)s) # 64) WHERE topic = 'shop' AND last_position = 4"
        " RETURNING octet_length(payload)"
    )
    async with (
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection,
        opened(database_url) as log,
    ):
        place, size = 0, 1
        while place < size:
            cursor = await connection.execute(flip, {"at": place})
            ((size,),) = await cursor.fetchall()
            with pytest.raises(DamagedError) as caught:
                await log.read("shop", 0, LogPosition(2), max_changes=2)
            await connection.execute(flip, {"at": place})
            place += 1
        assert (caught.value.facts["first"], caught.value.facts["last"]) == (3, 4)
        assert "--topic shop --position 4" in str(caught.value)
        assert "penstock resync shop" in str(caught.value)
        await connection.execute(flip, {"at": size - 1})
        for after, expected in ((0, ["1", "2"]), (4, ["5", "6"])):
            batch = await log.read("shop", 0, LogPosition(after), max_changes=2)
            assert batch is not None
            assert keys(batch.changes) == expected
        assert keys(await changes_of(log, "other")) == ["9"]


async def test_g2_a_batch_of_another_length_is_named(database_url: str) -> None:
    """A sound batch in the wrong place has a good checksum and the wrong number of changes."""
    async with opened(database_url) as log:
        await log.create_topic("t")
        producer = await log.open_producer("p")
        await producer.append("t", [change(1), change(2)])
        await producer.append("t", [change(3)])
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(
            "UPDATE penstock.log_batches SET payload ="
            " (SELECT payload FROM penstock.log_batches WHERE last_position = 3)"
        )
    async with opened(database_url) as log:
        with pytest.raises(DamagedError, match="changes 1 to 2 of partition 0 of 't'"):
            await log.read("t", 0, BEGINNING)
