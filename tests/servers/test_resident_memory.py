"""Memory of who answers: it may be behind, and nothing that is asked shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import open_pool
from penstock.principals import principal as asking
from penstock.stores.base import Filter, Hit
from penstock.stores.postgres.merging import MergeSettings, merge_postings
from penstock.stores.postgres.resident import Content, Near, Resident, Residents
from penstock.stores.postgres.resident_candidates import ResidentCandidates
from penstock.stores.postgres.search import PostgresSnapshot, PostgresSnapshotStore
from penstock.stores.postgres.store import PostgresStore
from penstock.testing.knowledge import DIMENSIONS, MODEL, Doc, replacing, store, vector_of

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]


@dataclass
class World:
    """Both sides of the store, and the memory of the reading one."""

    pool: Pool
    writer: PostgresStore
    reader: PostgresSnapshotStore
    resident: Resident

    async def near(self) -> Near:
        """Memory in step with the database as it is now."""
        near = await self.resident.refreshed(1, DIMENSIONS)
        assert near is not None
        return near

    async def find(self, question: str, *principals: str) -> dict[str, Hit]:
        async with self.reader.snapshot(asking(principals)) as snapshot:
            return await found(snapshot, question)


async def found(snapshot: PostgresSnapshot, question: str) -> dict[str, Hit]:
    """Candidates by their text."""
    hits = await snapshot.candidates(
        vector_of(question), question, limit=10, where=Filter(), model=MODEL
    )
    passages = await snapshot.passages([hit.chunk for hit in hits])
    return {p.text: hit for p, hit in zip(passages, hits, strict=True)}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    pool = await open_pool(database_url, max_size=4)
    residents = Residents(pool, megabytes=16)
    resident = residents.of("default")
    assert resident is not None
    reader = PostgresSnapshotStore(pool, memory=residents)
    yield World(pool, PostgresStore(pool), reader, resident)
    await reader.close()
    await pool.close()


@pytest.fixture(autouse=True)
def by_memory(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How each question was answered: by ``memory``, or by the ``database``."""
    ways: list[str] = []
    whole = ResidentCandidates._complete

    async def told(self: ResidentCandidates, news: Any) -> bool:
        complete = await whole(self, news)
        ways.append("memory" if complete else "database")
        return complete

    monkeypatch.setattr(ResidentCandidates, "_complete", told)
    return ways


async def test_g6_what_memory_lacks_is_found(world: World, by_memory: list[str]) -> None:
    """A document that was stored after memory was read is found by the next question, as near as
    it is; and it is in memory from then on."""
    await store(world.writer, replacing(Doc("a", "old river")))
    near = await world.near()
    await store(world.writer, replacing(Doc("b", "new turbine")))
    hits = await world.find("new turbine")
    assert hits["new turbine"].similarity == pytest.approx(1.0, abs=1e-3)
    assert by_memory == ["memory"]
    assert len(near.index) == 2


async def test_g6_a_snapshot_does_not_see_what_memory_has_of_later(world: World) -> None:
    """Memory that is ahead of a snapshot shows it nothing."""
    await store(world.writer, replacing(Doc("a", "old river")))
    await world.near()
    async with world.reader.snapshot(asking([])) as before:
        assert set(await found(before, "old river")) == {"old river"}
        await store(world.writer, replacing(Doc("b", "new turbine")))
        assert set(await world.find("new turbine")) == {"old river", "new turbine"}
        assert set(await found(before, "new turbine")) == {"old river"}


async def test_g4_what_is_gone_is_not_found(world: World, by_memory: list[str]) -> None:
    """Though its vector and its text are still in memory; swept out, they are not."""
    await store(world.writer, replacing(Doc("a", "old river"), Doc("b", "new turbine")))
    near = await world.near()
    assert set(await world.find("old river")) == {"old river", "new turbine"}
    await store(world.writer, replacing(Doc("a", "old river", position=2, deleted=True)))
    assert set(await world.find("old river")) == {"new turbine"}
    assert (by_memory, len(near.index)) == (["memory"] * 2, 2)
    world.resident._swept = -1e9
    assert len((await world.near()).index) == 1


async def test_g7_who_may_see_it_is_asked_each_time(world: World, by_memory: list[str]) -> None:
    """What one has read, and memory so holds, another does not get; nor the same one any more when
    it was taken away."""
    secret = Doc("a", "secret river", allow=["user:ada"])
    await store(world.writer, replacing(secret))
    await world.near()
    assert set(await world.find("secret river", "ada")) == {"secret river"}
    assert await world.find("secret river", "bo") == {}
    await store(world.writer, replacing(replace(secret, allow=["user:bo"], position=2)))
    assert await world.find("secret river", "ada") == {}
    assert set(await world.find("secret river", "bo")) == {"secret river"}
    assert "memory" in by_memory


async def test_a_chunk_that_commits_late_is_found(world: World) -> None:
    """Its number was drawn before memory was read, and it appears afterwards."""
    await store(world.writer, replacing(Doc("a", "old river")))
    settled = (await world.near()).settled
    async with world.writer.transaction() as slow:
        await slow.apply(replacing(Doc("b", "late turbine")))
        await store(world.writer, replacing(Doc("c", "quick valve")))
        for _ in range(3):
            near = await world.near()
        assert near.settled == settled
        assert set(await world.find("late turbine")) == {"old river", "quick valve"}
    hits = await world.find("late turbine")
    assert hits["late turbine"].similarity == pytest.approx(1.0, abs=1e-3)
    for _ in range(2):
        near = await world.near()
    assert (near.settled, near.recent) == (settled + 2, set())


async def test_numbers_are_drawn_in_transactions_that_have_one(world: World) -> None:
    """What tells when no chunk below a number can appear any more rests on it."""
    from penstock.stores.postgres.document_writer import SQL

    async with world.pool.connection() as connection, connection.transaction():
        cursor = await connection.execute(
            "EXPLAIN " + SQL["allocate"].replace("%(documents)s", "1").replace("%(chunks)s", "1")
        )
        plan = "\n".join(line for (line,) in await cursor.fetchall())
    assert "One-Time Filter: (pg_current_xact_id() IS NOT NULL)" in plan


async def test_posting_lists_in_memory_are_those_of_the_snapshot(world: World) -> None:
    """Lists that were merged into others count once, and what came after counts too."""
    documents = [Doc(f"{n}", f"river {n} " + "turbine " * (n % 3)) for n in range(30)]
    plain = PostgresSnapshotStore(world.pool)

    async def compared() -> None:
        async with plain.snapshot(asking([])) as snapshot:
            expected = await found(snapshot, "turbine river")
        hits = await world.find("turbine river")
        by_words = {text: hit.text_score for text, hit in hits.items() if hit.text_score}
        assert by_words == {t: h.text_score for t, h in expected.items() if h.text_score}

    merging = MergeSettings(fresh_blocks=1, fresh_small=0, lists_per_term=2)
    for first in (0, 10, 20):
        await store(world.writer, replacing(*documents[first : first + 10]))
        await world.near()
        await compared()
        await compared()
        async with world.pool.connection() as connection:
            await merge_postings(connection, settings=merging)
        await compared()
    assert world.resident.lists.get("turbin") is not None


async def test_a_text_of_another_hash_is_not_shown(world: World) -> None:
    """A number that means another chunk, as after a restore, does not show the old one's text."""
    await store(world.writer, replacing(Doc("a", "true river")))
    [chunk] = (await world.near()).index.ids.tolist()
    world.resident.texts.put(chunk, Content(b"another", "", "false river"), 10)
    assert set(await world.find("river")) == {"true river"}
    known = world.resident.texts.get(chunk)
    assert known is not None
    assert known.text == "true river"


async def test_memory_of_another_database_is_let_go_of(world: World, by_memory: list[str]) -> None:
    """The tables were made again under the process: what it knew is of tables that are gone."""
    await store(world.writer, replacing(Doc("a", "true river")))
    near = await world.near()
    world.resident._near = replace(near, incarnation=near.incarnation + 1)
    assert set(await world.find("true river")) == {"true river"}
    assert (by_memory, world.resident.near) == (["database"], None)


async def test_numbers_that_are_given_out_again_empty_memory(world: World) -> None:
    """An older state of the database draws numbers that memory knows already."""
    await store(world.writer, replacing(Doc("a", "true river")))
    near = await world.near()
    world.resident._near = replace(near, settled=near.settled + 1000)
    assert (await world.near()).index is not near.index


async def test_more_than_fits_is_left_to_the_database(world: World) -> None:
    """Memory is bounded."""
    await store(world.writer, replacing(Doc("a", "true river")))
    small = Resident(world.pool, "default", megabytes=1)
    small._most_vectors = 10
    assert await small.refreshed(1, DIMENSIONS) is None


async def test_a_chunk_without_a_vector_leaves_it_to_the_database(
    world: World, by_memory: list[str]
) -> None:
    """While a model is exchanged, some have no vector of the new one yet."""
    await store(world.writer, replacing(Doc("a", "true river")))
    await world.near()
    await store(world.writer, replacing(Doc("b", "bare valve")))
    async with world.pool.connection() as connection:
        await connection.execute(
            "DELETE FROM penstock.vectors v USING penstock.chunks c "
            "WHERE c.hash = v.hash AND c.text = 'bare valve'"
        )
    assert "bare valve" in await world.find("bare valve")
    assert by_memory == ["database"]
    assert await world.resident.refreshed(1, DIMENSIONS) is None
