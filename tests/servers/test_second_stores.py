"""A second store follows the knowledge base in PostgreSQL; LanceDB stands for any of them, and
OpenSearch does the same where it can be had."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import open_pool
from penstock.errors import UnavailableError
from penstock.principals import Principal
from penstock.records import Position
from penstock.stores.base import Filter, TruncateDocuments
from penstock.stores.chunk_index import ChunkIndex, ChunkRow, Gone
from penstock.stores.lancedb import LanceDBIndex
from penstock.stores.opensearch import OpenSearchIndex
from penstock.stores.postgres.search import PostgresSnapshotStore
from penstock.stores.postgres.store import PostgresStore
from penstock.stores.second.comparing import compare
from penstock.stores.second.following import Follower
from penstock.stores.second.search import FollowedSnapshots
from penstock.testing.chunk_indexes import row
from penstock.testing.knowledge import MODEL, Doc, replacing, store, vector_of

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    opened = await open_pool(database_url, max_size=4)
    yield opened
    await opened.close()


@pytest.fixture(
    params=[
        pytest.param("lancedb", marks=pytest.mark.package("lancedb")),
        pytest.param("opensearch", marks=pytest.mark.servers),
    ]
)
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ChunkIndex]:
    made: ChunkIndex
    if request.param == "lancedb":
        made = LanceDBIndex(str(tmp_path / "lance"), "chunks")
    else:
        url = request.getfixturevalue("opensearch")
        made = OpenSearchIndex(url, f"chunks-{uuid.uuid4().hex}")
    yield made
    await made.close()


class CutOff:
    """A second store whose connection breaks at a named step, before or after the step is done."""

    def __init__(self, inner: ChunkIndex, step: str, *, after: bool) -> None:
        self._inner = inner
        self._step = step
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def write(self, rows: Sequence[ChunkRow], gone: Sequence[Gone]) -> None:
        if self._step == "write" and not self._after:
            await self._inner.write(rows[: len(rows) // 2], gone)
            raise UnavailableError("cut")
        await self._inner.write(rows, gone)
        if self._step == "write":
            raise UnavailableError("cut")

    async def refresh(self) -> None:
        if self._step == "refresh" and not self._after:
            raise UnavailableError("cut")
        await self._inner.refresh()
        if self._step == "refresh":
            raise UnavailableError("cut")


def follower_of(pool: Pool, index: ChunkIndex) -> Follower:
    return Follower(pool, index, name="second", model=MODEL)


async def equal(pool: Pool, index: ChunkIndex) -> bool:
    report = await compare(pool, follower_of(pool, index))
    return not report.differences


async def texts(snapshots: FollowedSnapshots, question: str, **options: Any) -> list[str]:
    where = options.pop("where", Filter())
    async with snapshots.snapshot(Principal(options.pop("user", None))) as snapshot:
        hits = await snapshot.candidates(
            vector_of(question), None, limit=3, where=where, model=MODEL
        )
        best = sorted(hits, key=lambda hit: -hit.similarity)
        return [p.text for p in await snapshot.passages([hit.chunk for hit in best])]


async def test_g2_what_is_written_changed_and_removed_is_followed(
    pool: Pool, index: ChunkIndex
) -> None:
    writer = PostgresStore(pool)
    follower = follower_of(pool, index)
    await store(writer, replacing(Doc("before", "one\n\ntwo")))
    assert await follower.attach()
    assert not await follower.attach()
    assert await follower.follow() == 1
    await store(writer, replacing(Doc("a", "three\n\nfour"), Doc("b", "five")))
    await store(writer, replacing(Doc("a", "three\n\nsix", position=2)))
    assert await follower.follow() == 2
    assert await equal(pool, index)
    await store(writer, replacing(Doc("b", "", position=3, deleted=True)))
    await store(writer, TruncateDocuments("docs", "documents", Position("0" * 16)))
    await follower.follow()
    assert await follower.follow() == 0
    assert await equal(pool, index)
    snapshots = FollowedSnapshots(PostgresSnapshotStore(pool), follower)
    assert (await texts(snapshots, "six"))[0] == "six"
    assert set(await texts(snapshots, "one", where=Filter(path="before"))) == {"one", "two"}


@pytest.mark.parametrize("step", ["write", "refresh"])
@pytest.mark.parametrize("after", [False, True])
async def test_g2_cut_off_anywhere_it_comes_to_the_same(
    pool: Pool, index: ChunkIndex, step: str, after: bool
) -> None:
    """What was not settled is done again, also when it had changed meanwhile."""
    writer = PostgresStore(pool)
    await store(writer, replacing(Doc("a", "one\n\ntwo"), Doc("b", "three")))
    broken = Follower(pool, CutOff(index, step, after=after), name="second", model=MODEL)
    await broken.attach()
    with pytest.raises(UnavailableError):
        await broken.follow()
    await store(writer, replacing(Doc("a", "two", position=2)))
    assert await follower_of(pool, index).follow() == 2
    assert await equal(pool, index)


async def test_a_follower_that_slept_puts_nothing_old_in_place(
    pool: Pool, index: ChunkIndex
) -> None:
    """Two follow at once after a take-over: the one that read earlier writes later."""
    writer = PostgresStore(pool)
    slow = follower_of(pool, index)
    await store(writer, replacing(Doc("a", "one\n\ntwo", title="old")))
    await slow.attach()
    async with pool.connection() as connection:
        found = await slow.model(connection)
        assert found is not None
        await index.prepare(found[1])
        rows, gone, _ = await slow._read(connection, [1], found[0])
    await store(writer, replacing(Doc("a", "two", title="new", position=2)))
    await follower_of(pool, index).follow()
    await index.write(rows, gone)
    await index.refresh()
    assert await equal(pool, index)


async def test_g7_what_a_second_store_proposes_is_checked(pool: Pool, index: ChunkIndex) -> None:
    """Forbidden since, or removed since, and not followed yet: it does not come out."""
    writer = PostgresStore(pool)
    follower = follower_of(pool, index)
    await store(
        writer,
        replacing(
            Doc("a", "secret"), Doc("b", "gone"), *(Doc(f"c{n}", f"t {n}") for n in range(9))
        ),
    )
    await follower.attach()
    await follower.follow()
    snapshots = FollowedSnapshots(PostgresSnapshotStore(pool), follower)
    assert (await texts(snapshots, "secret"))[0] == "secret"
    await store(writer, replacing(Doc("a", "secret", allow=["user:ann"], position=2)))
    await store(writer, replacing(Doc("b", "", deleted=True, position=2)))
    for question in ("secret", "gone"):
        found = await texts(snapshots, question)
        assert question not in found
        assert len(found) == 3
    assert (await texts(snapshots, "secret", user="ann"))[0] == "secret"


async def test_g6_ages_say_what_can_be_found(pool: Pool, index: ChunkIndex) -> None:
    """With work to do, as of the moment that was followed; without, as of now."""
    writer = PostgresStore(pool)
    follower = follower_of(pool, index)
    snapshots = FollowedSnapshots(PostgresSnapshotStore(pool), follower)

    async def moved_to(as_of: int) -> None:
        async with pool.connection() as connection:
            await connection.execute(
                "INSERT INTO penstock.log_topics (topic, partitions) VALUES ('docs', 1)"
                " ON CONFLICT DO NOTHING"
            )
            await connection.execute(
                "INSERT INTO penstock.log_partitions (topic, partition) VALUES ('docs', 0)"
                " ON CONFLICT DO NOTHING"
            )
            await connection.execute(
                "INSERT INTO penstock.consumers (consumer, topic, partition, source, as_of)"
                " VALUES ('knowledge', 'docs', 0, 'docs', %s)"
                " ON CONFLICT (consumer, topic, partition) DO UPDATE SET as_of = excluded.as_of",
                [as_of],
            )

    async def age() -> tuple[int | None, bool]:
        async with snapshots.snapshot(Principal()) as snapshot:
            [found] = await snapshot.ages()
            return found.as_of, found.loading

    await moved_to(100)
    await store(writer, replacing(Doc("a", "one")))
    await follower.attach()
    assert await age() == (None, True)
    await follower.follow()
    assert await age() == (100, False)
    await moved_to(200)
    assert await age() == (200, False)
    await store(writer, replacing(Doc("a", "two", position=2)))
    await moved_to(300)
    assert await age() == (100, False)
    await follower.follow()
    assert await age() == (300, False)


async def test_a_second_store_that_is_away_makes_no_answer_wrong(pool: Pool) -> None:
    writer = PostgresStore(pool)
    await store(writer, replacing(Doc("a", "one"), Doc("b", "two")))
    away = OpenSearchIndex("http://127.0.0.1:9", "chunks")
    snapshots = FollowedSnapshots(PostgresSnapshotStore(pool), follower_of(pool, away))
    assert (await texts(snapshots, "two"))[0] == "two"
    await snapshots.close()


async def test_reconcile_finds_and_mends_what_happened_behind_our_back(
    pool: Pool, index: ChunkIndex
) -> None:
    """Lost, stale and superfluous rows, through the store's own interface."""
    writer = PostgresStore(pool)
    follower = follower_of(pool, index)
    await store(writer, replacing(*(Doc(f"d{n}", f"text {n}") for n in range(30))))
    await follower.attach()
    await follower.follow()
    assert await equal(pool, index)
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT min(id) FROM penstock.chunks")
        [(first,)] = await cursor.fetchall()
    stale = row(first + 1, version=10**6, digest=1)._replace(vector=vector_of("x"))
    extra = row(first + 5000, version=10**6)._replace(vector=vector_of("y"))
    await index.write([stale, extra], [Gone(first, 10**6)])
    await index.refresh()
    report = await compare(pool, follower)
    assert (report.missing, report.stale, report.superfluous) == (1, 1, 1)
    mended = await compare(pool, follower, repair=True)
    assert mended.repaired
    assert await equal(pool, index)
