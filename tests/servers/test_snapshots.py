"""What a snapshot of the store in PostgreSQL finds, and what it keeps to itself."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.errors import InsufficientPrivilege
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import open_pool
from penstock.errors import ConfigError
from penstock.principals import Principal
from penstock.principals import principal as asking
from penstock.records import Change, Op, Position
from penstock.serving.retrieval import retrieve
from penstock.stores.base import ApplyRows, Filter, Hit
from penstock.stores.postgres.candidates import _NEAREST, K1, B, Candidates, Model
from penstock.stores.postgres.lexical import analyse
from penstock.stores.postgres.permissions import Permitted
from penstock.stores.postgres.resident import Residents
from penstock.stores.postgres.search import PostgresSnapshot, PostgresSnapshotStore
from penstock.stores.postgres.store import PostgresStore
from penstock.testing.knowledge import (
    DIMENSIONS,
    FLIGHTS,
    MODEL,
    Doc,
    flight,
    flight_doc,
    replacing,
    store,
    vector_of,
)

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]
WORDS = ["river", "turbine", "valve", "pressure", "gate", "season", "engineer", "report", "level"]


@dataclass
class World:
    """A project database with both sides of the store."""

    pool: Pool
    writer: PostgresStore
    reader: PostgresSnapshotStore

    async def find(
        self,
        question: str,
        where: Filter | None = None,
        *,
        limit: int = 10,
        vector: bool = True,
        text: bool = True,
        principals: Sequence[str] = (),
        tenant: str = "default",
    ) -> dict[str, Hit]:
        """Candidates by their document's key."""
        async with self.reader.snapshot(asking(principals, tenant)) as snapshot:
            return await by_key(snapshot, question, where, limit=limit, vector=vector, text=text)

    async def execute(self, statement: bytes) -> list[Any]:
        async with self.pool.connection() as connection:
            cursor = await connection.execute(statement)
            return await cursor.fetchall() if cursor.description else []


async def by_key(
    snapshot: PostgresSnapshot,
    question: str,
    where: Filter | None = None,
    *,
    limit: int = 10,
    vector: bool = True,
    text: bool = True,
) -> dict[str, Hit]:
    hits = await snapshot.candidates(
        vector_of(question) if vector else None,
        question if text else None,
        limit=limit,
        where=where or Filter(),
        model=MODEL,
    )
    passages = await snapshot.passages([hit.chunk for hit in hits])
    assert [p.chunk for p in passages] == [hit.chunk for hit in hits]
    return {f"{p.key}#{p.start}": hit for p, hit in zip(passages, hits, strict=True)}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    pool = await open_pool(database_url, max_size=4)
    yield World(pool, PostgresStore(pool), PostgresSnapshotStore(pool))
    await pool.close()


# --------------------------------------------------------------------------- against brute force


def random_docs(chance: random.Random, count: int) -> list[Doc]:
    return [
        Doc(
            f"{chance.choice(['policies', 'manuals'])}/{i}.md",
            "\n\n".join(
                f"{i} {part} " + " ".join(chance.choices(WORDS, k=chance.randrange(3, 12)))
                for part in range(chance.randrange(1, 4))
            ),
            source=chance.choice(["north", "south"]),
            title=chance.choice(["Guide", "Terms"]),
            metadata={"team": chance.choice(["a", "b"]), "tags": [chance.choice(["x", "y"])]},
            allow=chance.choice([None, None, ["user:ada"], ["user:bo", "group:staff"], []]),
            deny=chance.choice([[], [], ["user:ada"]]),
        )
        for i in range(count)
    ]


def visible(doc: Doc, where: Filter, principals: Sequence[str]) -> bool:
    asks = set(asking(principals).names)
    allowed = (doc.allow is None or bool(asks & set(doc.allow))) and not asks & set(doc.deny)
    return (
        allowed
        and (where.sources is None or doc.source in where.sources)
        and (where.path is None or fnmatchcase(doc.key, where.path))
        and (where.title is None or doc.title == where.title)
        and all(doc.metadata.get(name) == value for name, value in where.metadata.items())
        and where.kind != "row"
    )


def brute_scores(docs: Sequence[Doc], question: str) -> Mapping[str, tuple[float, float, Doc]]:
    """Cosine and BM25 share of every chunk, computed the plain way."""
    chunks = {
        f"{doc.key}#{chunk.start}": (chunk.text, doc)
        for doc in docs
        for chunk in doc.version().chunks or ()
    }
    terms = {name: analyse(text) for name, (text, _) in chunks.items()}
    average = sum(map(len, terms.values())) / len(terms)
    asked = analyse(question)
    rarity = {}
    for term in asked:
        holding = sum(term in found for found in terms.values())
        rarity[term] = np.log1p((len(terms) - holding + 0.5) / (holding + 0.5))
    most = sum(rarity[term] for term in asked) * (K1 + 1)

    def bm25(found: list[str]) -> float:
        score = 0.0
        for term in asked:
            often = found.count(term)
            norm = often + K1 * (1 - B + B * len(found) / average)
            score += rarity[term] * often * (K1 + 1) / norm
        return float(score / most)

    near = vector_of(question)
    return {
        name: (float(vector_of(text) @ near), bm25(terms[name]), doc)
        for name, (text, doc) in chunks.items()
    }


SHORT = "-c enable_seqscan=off -c enable_sort=off -c hnsw.max_scan_tuples=1"
"""Makes the planner take the index, and the index end its search early."""

FILTERS = [
    Filter(),
    Filter(sources=["north"]),
    Filter(sources=[]),
    Filter(path="policies/*"),
    Filter(path="manuals/1?.md"),
    Filter(title="Terms", metadata={"team": "a"}),
    Filter(sources=["south"], path="*.md", title="Guide", metadata={"team": "b"}),
    Filter(kind="document"),
    Filter(kind="row"),
]


@pytest.mark.parametrize("way", ["compared", "indexed", "memory"])
async def test_search_equals_comparing_with_everything(
    world: World, database_url: str, way: str
) -> None:
    """For all filters and principals, each kind of search finds exactly the best of what may be
    seen, and never fewer than asked for when so many match: also with an index (then not always the
    very best) that gives up early, and with vectors that are in memory."""
    indexed = way == "indexed"
    chance = random.Random(5)
    docs = random_docs(chance, 120)
    await store(world.writer, replacing(*docs))
    if indexed:
        await world.execute(
            b"CREATE INDEX ON penstock.vectors USING hnsw ((embedding::halfvec(8)) "
            b"halfvec_cosine_ops) WHERE model = 1"
        )
        await world.execute(b"ANALYZE")
    pool = await open_pool(make_conninfo(database_url, options=SHORT if indexed else ""))
    residents = Residents(pool, megabytes=64) if way == "memory" else None
    world.reader = PostgresSnapshotStore(pool, ef_search=1 if indexed else 100, memory=residents)
    if residents is not None:
        resident = residents.of("default")
        assert resident is not None
        near = await resident.refreshed(1, DIMENSIONS)
        assert near is not None
        assert len(near.index) > 120
    for where in FILTERS:
        for principals in ([], ["ada"], ["bo"], ["ada", "group:staff"], ["stranger"]):
            question = " ".join(chance.choices(WORDS, k=3))
            limit = chance.choice([1, 5, 40])
            scores = {
                name: (cosine, share)
                for name, (cosine, share, doc) in brute_scores(docs, question).items()
                if visible(doc, where, principals)
            }
            found = await world.find(question, where, limit=limit, principals=principals)
            assert set(found) <= set(scores)
            for name, hit in found.items():
                assert hit.similarity == pytest.approx(scores[name][0], abs=2e-3)
                assert hit.text_score == pytest.approx(scores[name][1], abs=1e-6)
            for i in (0, 1):
                expected = sorted(s[i] for s in scores.values() if i == 0 or s[i] > 0)[::-1]
                got = sorted((scores[name][i] for name in found), reverse=True)
                if not indexed or i == 1:
                    best = expected[:limit]
                    assert got[: len(best)] == pytest.approx(best, abs=2e-3)
                assert len(got) >= min(limit, len(expected))
    await world.reader.close()
    await pool.close()


async def test_the_vector_index_is_used(world: World, database_url: str) -> None:
    """The statement fits the index that the writer builds, also with a filter on top."""
    rng = np.random.default_rng(1)
    await store(world.writer, replacing(Doc("first", "one chunk")))
    async with world.pool.connection() as connection:
        async with connection.cursor().copy(
            "COPY penstock.vectors (model, hash, embedding) FROM STDIN"
        ) as copy:
            for i in range(6000):
                await copy.write_row((1, i.to_bytes(8, "big"), str(rng.normal(size=8).tolist())))
        await connection.execute(
            "INSERT INTO penstock.documents (id, source, key, position, committed_at, list_id)"
            " SELECT n + 100, 'docs', n::text, '0', 0, 0 FROM generate_series(0, 5999) n"
        )
        await connection.execute(
            "INSERT INTO penstock.chunks (document_id, hash, model, text)"
            " SELECT n + 100, int8send(n), 1, '' FROM generate_series(0, 5999) n"
        )
        await connection.execute(
            "CREATE INDEX nearest ON penstock.vectors USING hnsw ((embedding::halfvec(8))"
            " halfvec_cosine_ops) WITH (m = 16, ef_construction = 64) WHERE model = 1"
        )
        await connection.execute("ANALYZE")
    for where in (Filter(), Filter(sources=["docs"])):
        plan = await explained(world, where)
        assert "nearest" in plan
        assert "Seq Scan" not in plan


async def explained(world: World, where: Filter) -> str:
    """The plan of the nearest neighbours, as the reader's role has it."""
    async with world.reader.snapshot(Principal()) as snapshot:
        search = Candidates(
            snapshot._connection, Model(1, 8), vector=vector_of("x"), terms=(), limit=10,
            where=where, permitted=Permitted([0]),
        )  # fmt: skip
        assert len(await search.find()) == 10
        cursor = await search._execute("EXPLAIN " + _NEAREST, {"limit": 10})
        return "\n".join(row[0] for row in await cursor.fetchall())


# --------------------------------------------------------------------------- who may see what


async def test_g7_unknown_means_no(world: World) -> None:
    """Lists of principals fail closed: an empty list allows nobody, a denial beats a permission,
    and a chunk's number alone shows nothing."""
    await store(
        world.writer,
        replacing(
            Doc("open", "the river is open"),
            Doc("nobody", "the river is nobody's", allow=[]),
            Doc("ada", "the river is ada's", allow=["user:ada"]),
            Doc("not-ada", "the river is not ada's", deny=["user:ada"]),
            Doc("both", "the river is both", allow=["user:ada", "user:bo"], deny=["user:ada"]),
        ),
    )

    async def seen(*principals: str) -> set[str]:
        return {name.split("#")[0] for name in await world.find("river", principals=principals)}

    assert await seen() == {"open", "not-ada"}
    assert await seen("ada") == {"open", "ada"}
    assert await seen("bo") == {"open", "not-ada", "both"}
    assert await seen('ada","bo') == {"open", "not-ada"}
    async with world.reader.snapshot(Principal()) as snapshot:
        assert {p.key for p in await snapshot.passages(range(1, 100))} == {"open", "not-ada"}


async def test_g7_another_tenant_sees_nothing(world: World) -> None:
    """Row-level security: what is there for one tenant is not there for another, or for none."""
    other = PostgresStore(world.pool, tenant="other")
    await store(world.writer, replacing(Doc("mine", "the river is mine")))
    await store(other, replacing(Doc("theirs", "the river is theirs")))
    assert {n.split("#")[0] for n in await world.find("river")} == {"mine"}
    assert {n.split("#")[0] for n in await world.find("river", tenant="other")} == {"theirs"}
    assert await world.find("river", tenant="third") == {}
    assert await world.find("river", tenant="") == {}
    async with world.pool.connection() as connection:
        await connection.execute("BEGIN")
        await connection.execute("SET LOCAL ROLE penstock_reader")
        for table in (b"documents", b"chunks", b"vectors", b"postings", b"fresh_postings"):
            cursor = await connection.execute(b"SELECT count(*) FROM penstock." + table)
            assert await cursor.fetchone() == (0,)
        await connection.execute("ROLLBACK")


async def test_a_snapshot_cannot_write_and_leaves_nothing_behind(world: World) -> None:
    """The role, the tenant and the principals end with the snapshot."""
    async with world.reader.snapshot(Principal("ada", tenant="t")) as snapshot:
        refused = await snapshot._connection.execute("DELETE FROM penstock.documents")
        with pytest.raises((psycopg.errors.ReadOnlySqlTransaction, InsufficientPrivilege)):
            await refused.fetchall()
    for _ in range(4):
        [(role, tenant)] = await world.execute(
            b"SELECT current_user, nullif(current_setting('penstock.tenant', true), '')"
        )
        assert role != "penstock_reader"
        assert tenant is None


async def test_strange_values_find_nothing_and_break_nothing(world: World) -> None:
    """Characters with a meaning in patterns, JSON or SQL stand for themselves in filters."""
    await store(
        world.writer,
        replacing(
            Doc("100%_sure\\.md", "the river", metadata={"a'b": '"; DROP'}), Doc("x", "the river")
        ),
    )
    assert len(await world.find("river", Filter(path="100%_sure\\.*"))) == 1
    assert len(await world.find("river", Filter(path="100?_sure\\.md"))) == 1
    assert len(await world.find("river", Filter(path="%"))) == 0
    assert len(await world.find("river", Filter(metadata={"a'b": '"; DROP'}))) == 1
    for nothing in ("\x00", "'; DROP TABLE penstock.documents; --"):
        assert await world.find("river", Filter(path=nothing)) == {}
        assert await world.find("river", Filter(metadata={"k": [nothing]})) == {}
        assert len(await world.find(nothing + " river")) == 2


# --------------------------------------------------------------------------- one moment


async def test_g6_a_snapshot_sees_nothing_that_commits_later(world: World) -> None:
    """Everything read through one snapshot is as it was when the first of it was read."""
    await store(world.writer, replacing(Doc("a", "the river flows")))
    async with world.reader.snapshot(Principal()) as snapshot:
        before = await by_key(snapshot, "river")
        await store(
            world.writer, replacing(Doc("a", "the gate is shut", position=2), Doc("b", "a river"))
        )
        assert await by_key(snapshot, "river") == before
        [passage] = await snapshot.passages([hit.chunk for hit in before.values()])
        assert passage.text == "the river flows"
    assert {name.split("#")[0] for name in await world.find("river", vector=False)} == {"b"}


async def test_g6_documents_and_rows_are_of_one_moment(world: World) -> None:
    """While a writer moves a document and a row on together, no reader ever sees one without the
    other."""

    def stamped(stamp: int) -> tuple[Any, Any]:
        text = f"the river stands at level {stamp}"
        docs = replacing(
            Doc("river.md", text, position=stamp),
            flight_doc("PS1", "2026-12-01", "flight ps1 river", stamp),
        )
        row = flight("PS1", "2026-12-01", f"{stamp}.00", str(stamp), "2026-12-01 08:00Z", stamp)
        return docs, ApplyRows([row])

    await store(world.writer, *stamped(1))
    stop = asyncio.Event()

    async def write() -> int:
        stamp = 1
        while not stop.is_set():
            stamp += 1
            await store(world.writer, *stamped(stamp))
        return stamp

    async def read() -> set[int]:
        stamps = set()
        for _ in range(40):
            async with world.reader.snapshot(Principal()) as snapshot:
                hits = await by_key(snapshot, "river level")
                passages = await snapshot.passages([hit.chunk for hit in hits.values()])
                [row] = await snapshot.rows([p for p in passages if p.stream])
                [document] = [p for p in passages if p.stream is None]
            seen = {
                int(document.text.split()[-1]),
                int(document.version, 16),
                int(row.values["seats"]),
                int(row.values["price"]),
                int(row.version, 16),
            }
            assert len(seen) == 1
            stamps |= seen
        return stamps

    writing = asyncio.create_task(write())
    stamps = await asyncio.gather(read(), read())
    stop.set()
    assert await writing > 2
    assert len(stamps[0] | stamps[1]) > 1


# --------------------------------------------------------------------------- documents


async def test_g4_deleted_documents_are_not_found(world: World) -> None:
    """A tombstone is no candidate, neither by vector nor by words."""
    await store(world.writer, replacing(Doc("a", "the river"), Doc("b", "the river too")))
    await store(world.writer, replacing(Doc("a", "", position=2, deleted=True)))
    assert {name.split("#")[0] for name in await world.find("river")} == {"b"}


async def test_passages_carry_their_place_in_the_document(world: World) -> None:
    """Offsets are those of the current layout, also of a chunk that an edit has moved; the text
    that stands there is the passage."""
    first = Doc("a", "the river\n\nthe turbine", metadata={"team": "a"}, title="Water")
    await store(world.writer, replacing(first))
    edited = Doc(
        "a", "a new beginning\n\nthe turbine", position=2, title="Water", metadata={"n": 1}
    )
    await store(world.writer, replacing(edited))
    async with world.reader.snapshot(Principal()) as snapshot:
        hits = await by_key(snapshot, "turbine", vector=False)
        [passage] = await snapshot.passages([hit.chunk for hit in hits.values()])
    assert edited.text[passage.start : passage.end] == passage.text == "the turbine"
    assert passage.title == "Water"
    assert passage.metadata == {"n": 1}
    assert passage.committed_at == 2_000_000
    assert passage.row_key is None


async def test_words_alone_and_vectors_alone(world: World) -> None:
    """Each search works without the other; nothing stored is no error."""
    assert await world.find("river") == {}
    await store(world.writer, replacing(Doc("a", "the river"), Doc("b", "the gate")))
    assert [h.similarity for h in (await world.find("river", vector=False)).values()] == [0.0]
    assert {h.text_score for h in (await world.find("river", text=False)).values()} == {0.0}
    assert len(await world.find("river", text=False, limit=1)) == 1
    assert await world.find("unheard of", vector=False) == {}
    assert await world.find("the and of", vector=False) == {}


async def test_the_model_is_named_with_the_vector(world: World) -> None:
    """Another model's vectors are not compared; a wrong length is refused with a reason."""
    await store(world.writer, replacing(Doc("a", "the river")))
    async with world.reader.snapshot(Principal()) as snapshot:
        none = await snapshot.candidates(
            vector_of("x"), None, limit=3, where=Filter(), model="another"
        )
        latest = await snapshot.candidates(vector_of("x"), None, limit=3, where=Filter())
        assert (len(none), len(latest)) == (0, 1)
        with pytest.raises(ConfigError, match="expected a vector of 8 numbers"):
            await snapshot.candidates(
                np.ones(DIMENSIONS + 1, np.float32), None, limit=3, where=Filter(), model=MODEL
            )


# --------------------------------------------------------------------------- rows and ages


async def test_rows_are_found_by_composite_keys_with_their_types(world: World) -> None:
    """Rows come in the order asked for, as Python values; what Python cannot hold stays text; rows
    that are gone are left out."""
    changes = [
        flight("PS1", "2026-12-01", "129.00", "42", "2026-12-01 08:00:00+00", 1),
        flight("PS1", "2026-12-02", "99.50", "0", "infinity", 2),
        flight("PS2", "2026-12-01", "1.00", "1", "2026-12-01 08:00:00+00", 3),
    ]
    docs = [flight_doc(c.key[0] or "", c.key[1] or "", f"flight {c.key}") for c in changes]
    await store(world.writer, ApplyRows(changes), replacing(*docs))
    later = Position(f"{4:016x}")
    gone = Change(FLIGHTS, Op.DELETE, ("PS2", "2026-12-01"), later, changes[2].committed_at)
    await store(world.writer, ApplyRows([gone]))
    async with world.reader.snapshot(Principal()) as snapshot:
        hits = await by_key(snapshot, "flight ps1", Filter(kind="row"))
        passages = await snapshot.passages([hit.chunk for hit in hits.values()])
        passages.sort(key=lambda p: p.key, reverse=True)
        rows = await snapshot.rows(passages)
    assert [row.key for row in rows] == [("PS1", "2026-12-02"), ("PS1", "2026-12-01")]
    assert rows[1].values == {
        "number": "PS1",
        "day": dt.date(2026, 12, 1),
        "price": Decimal("129.00"),
        "seats": 42,
        "departs_at": dt.datetime(2026, 12, 1, 8, tzinfo=dt.UTC),
    }
    assert rows[0].values["departs_at"] == "infinity"
    assert (rows[0].version, rows[0].committed_at) == (changes[1].position, 2_000_000)


async def test_g7_rows_of_another_tenant_stay_hidden(world: World) -> None:
    """A row is shown only to its tenant, even to one who holds its passage."""
    row = flight("PS1", "2026-12-01", "129.00", "42", "2026-12-01 08:00:00+00", 1)
    await store(world.writer, ApplyRows([row]), replacing(flight_doc("PS1", "2026-12-01", "ps1")))
    async with world.reader.snapshot(Principal()) as snapshot:
        passages = await snapshot.passages(range(1, 50))
        assert len(await snapshot.rows(passages)) == 1
    async with world.reader.snapshot(Principal(tenant="other")) as snapshot:
        assert await snapshot.rows(passages) == []


async def test_ages_are_those_of_the_slowest_consumer(world: World) -> None:
    """A source is as old as its slowest consumer; its bulk topic counts only while it loads."""
    await world.execute(
        b"INSERT INTO penstock.log_topics (topic, partitions) VALUES"
        b" ('shop', 1), ('docs', 1), ('docs.bulk', 1), ('new', 1)"
    )
    await world.execute(
        b"INSERT INTO penstock.log_partitions (topic, partition, last) VALUES"
        b" ('shop', 0, 9), ('docs', 0, 5), ('docs.bulk', 0, 7), ('new', 0, 0)"
    )
    await world.execute(
        b"INSERT INTO penstock.consumers"
        b" (consumer, topic, partition, position, source, source_position, as_of) VALUES"
        b" ('tables', 'shop', 0, 9, 'shop', 'b', 300),"
        b" ('knowledge', 'shop', 0, 7, 'shop', 'a', 200),"
        b" ('knowledge', 'docs', 0, 5, 'docs', 'c', 500),"
        b" ('knowledge', 'docs.bulk', 0, 3, 'docs', 'c', 100),"
        b" ('knowledge', 'new', 0, 0, NULL, NULL, NULL)"
    )

    async def ages() -> list[tuple[Any, ...]]:
        async with world.reader.snapshot(Principal()) as snapshot:
            found = await snapshot.ages()
        return [(age.source, age.as_of, age.position, age.loading) for age in found]

    assert await ages() == [
        ("docs", 100, "c", True),
        ("new", None, None, False),
        ("shop", 200, "a", False),
    ]
    await world.execute(b"UPDATE penstock.consumers SET position = 7 WHERE topic = 'docs.bulk'")
    assert (await ages())[0] == ("docs", 500, "c", False)


async def test_stored_vectors_are_read_with_their_tokens(world: World) -> None:
    """Only those of this model and head, and only of who asks."""
    await store(world.writer, replacing(Doc("a", "river gate"), head="head-1"))
    await store(world.writer, replacing(Doc("b", "valve report")))
    async with world.reader.snapshot(Principal()) as snapshot:
        hits = await snapshot.candidates(None, "river valve", limit=5, where=Filter())
        chunks = [hit.chunk for hit in hits]
        assert len(chunks) == 2
        found = await snapshot.vectors(chunks, model=MODEL, head="head-1")
        [(chunk, (vector, tokens))] = found.items()
        assert chunk in chunks
        assert tokens == b"river ga"
        assert np.allclose(vector, vector_of("river gate"), atol=1e-3)
        assert await snapshot.vectors(chunks, model=MODEL, head="head-2") == {}
        assert await snapshot.vectors(chunks, model="another", head="head-1") == {}
        assert await snapshot.vectors([], model=MODEL, head="head-1") == {}
    async with world.reader.snapshot(Principal(tenant="other")) as snapshot:
        assert await snapshot.vectors(chunks, model=MODEL, head="head-1") == {}


async def test_words_weigh_more_the_fewer_chunks_hold_them(world: World) -> None:
    """With their places in the question; function words are not there; what no chunk holds weighs
    most, and the same comes whether or not the question was searched before."""
    docs = [Doc(f"d{i}", f"river report {'valve' if i == 3 else 'gate'} {i}") for i in range(6)]
    await store(world.writer, replacing(*docs))
    question = "Which river has a VALVE, and a dragon?"
    async with world.reader.snapshot(Principal()) as snapshot:
        cold = await snapshot.rarities(question)
    async with world.reader.snapshot(Principal()) as snapshot:
        await snapshot.candidates(vector_of("x"), question, limit=3, where=Filter(), model=MODEL)
        warm = await snapshot.rarities(question)
    assert cold == warm
    weights = {question[word.start : word.end]: word.weight for word in warm.words}
    assert list(weights) == ["river", "VALVE", "dragon"]
    assert 0 < weights["river"] < weights["VALVE"] < weights["dragon"] == warm.most


async def test_a_filter_by_an_unknown_field_is_an_error(world: World) -> None:
    """Told with what was probably meant; a known field without a match is an empty answer. Fields
    of documents that may not be seen are not told."""
    docs = [
        Doc("a", "river gate", metadata={"language": "de", "year": 2026}),
        Doc("b", "river valve", metadata={"secret": 1}, allow=["user:board"]),
    ]
    await store(world.writer, replacing(*docs))
    async with world.reader.snapshot(Principal()) as snapshot:
        assert await snapshot.fields() == ["language", "year"]
        for where, found in (
            ({"language": "de"}, 1),
            ({"language": "fr"}, 0),
            ({"year": 2026}, 1),
            ({"year": "2026"}, 0),
        ):
            result = await retrieve(
                snapshot, "river", None, where=Filter(metadata=where), mode="text"
            )
            assert len(result.passages) == found
        for where, said in (
            ({"langauge": "de"}, "did you mean 'language'"),
            ({"secret": 1}, "no document has 'secret': known: language, year"),
        ):
            with pytest.raises(ConfigError, match=said):
                await retrieve(snapshot, "river", None, where=Filter(metadata=where), mode="text")


async def test_the_chunks_around_are_read_in_their_order(world: World) -> None:
    """As far as the document goes, and only of documents that may be seen."""
    text = "\n\n".join(["zero river", "one", "two valve", "three"])
    await store(world.writer, replacing(Doc("a", text), Doc("b", "gate", allow=["user:board"])))
    async with world.reader.snapshot(Principal("board")) as snapshot:
        hits = await snapshot.candidates(None, "river valve gate", limit=9, where=Filter())
        chunks = {p.text: p.chunk for p in await snapshot.passages([hit.chunk for hit in hits])}
        found = await snapshot.around(list(chunks.values()), 1)
        texts = {name: [part[0] for part in found[chunk]] for name, chunk in chunks.items()}
        assert texts == {
            "zero river": ["zero river", "one"],
            "two valve": ["one", "two valve", "three"],
            "gate": ["gate"],
        }
        assert all(text[start:end] == part for part, start, end in found[chunks["two valve"]])
    async with world.reader.snapshot(Principal()) as snapshot:
        assert await snapshot.around([chunks["gate"]], 1) == {}
        assert await snapshot.around([], 1) == {}


@pytest.mark.parametrize("storage", ["int8", "binary"])
async def test_packed_vectors_are_read_with_their_tokens(world: World, storage: str) -> None:
    """As nearly as they are stored, at length 1; few come as parameters, many by COPY."""
    name = f"{MODEL}#{storage}"
    few = [Doc("a", "river gate")]
    many = [Doc("b", "\n\n".join(f"river number {i}" for i in range(80)))]
    for docs in (few, many):
        await store(world.writer, replace(replacing(*docs, head="head-1"), model=name))
    async with world.reader.snapshot(Principal()) as snapshot:
        hits = await snapshot.candidates(None, "river", limit=100, where=Filter())
        passages = await snapshot.passages([hit.chunk for hit in hits])
        found = await snapshot.vectors([p.chunk for p in passages], model=name, head="head-1")
    assert len(found) == len(passages) == 81
    for passage in passages:
        vector, tokens = found[passage.chunk]
        assert tokens == passage.text.encode()[:8]
        assert np.linalg.norm(vector) == pytest.approx(1)
        assert vector @ vector_of(passage.text) > (0.999 if storage == "int8" else 0.5)
