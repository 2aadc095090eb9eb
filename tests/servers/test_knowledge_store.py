"""The write side of the knowledge base, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from hashlib import blake2b
from typing import Any

import numpy as np
import psycopg
import pytest

from penstock.errors import FatalError, RetryableError
from penstock.records import Microseconds, Position
from penstock.stores.base import (
    ChunkText,
    DocumentVersion,
    Effect,
    ReplaceDocuments,
    TruncateDocuments,
)
from penstock.stores.postgres.knowledge import (
    collect_garbage,
    known_vectors,
    replace_documents,
    stored_metadata,
    truncate_documents,
)
from penstock.stores.postgres.lexical import analyse, find_in_blocks, unpack
from penstock.stores.postgres.merging import MergeSettings, choose, merge_postings

Connection = psycopg.AsyncConnection[Any]
EVERYTHING = MergeSettings(fresh_blocks=1, lists_per_term=2)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as opened:
        yield opened


def chunk(text: str, start: int = 0) -> ChunkText:
    embedded = f"Title\n{text}"
    digest = blake2b(embedded.encode(), digest_size=16).digest()
    return ChunkText(text, embedded, digest, start, start + len(text), "Heading", 5)


def version(
    key: str, position: int, texts: Sequence[str] | None, source: str = "docs", **more: Any
) -> DocumentVersion:
    chunks = None if texts is None else [chunk(text, 100 * i) for i, text in enumerate(texts)]
    return DocumentVersion(
        source, key, Position(f"{position:06}"), Microseconds(position), chunks, **more
    )


def replacing(*versions: DocumentVersion, model: str = "model") -> ReplaceDocuments:
    hashes = dict.fromkeys(c.hash for v in versions for c in v.chunks or ())
    matrix = np.asarray(
        [[1.0, *(byte / 255 for byte in hash_[:3])] for hash_ in hashes], np.float32
    ).reshape(-1, 4)
    return ReplaceDocuments(versions, model, {h: i for i, h in enumerate(hashes)}, matrix)


async def apply(connection: Connection, *effects: Effect, writer: str = "lane") -> None:
    async with connection.transaction():
        for effect in effects:
            if isinstance(effect, ReplaceDocuments):
                await replace_documents(connection, effect, writer=writer)
            elif isinstance(effect, TruncateDocuments):
                await truncate_documents(connection, effect, writer=writer)


async def rows(connection: Connection, query: str, *values: Any) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query, values or None)).fetchall()


async def visible(connection: Connection) -> dict[tuple[str, str], list[str]]:
    """The texts of every document that is not deleted, by its layout."""
    found = await rows(
        connection,
        """
        SELECT source, key, ARRAY(
            SELECT c.text FROM unnest(layout) WITH ORDINALITY l (id, place)
            JOIN penstock.chunks c USING (id) ORDER BY place)
        FROM penstock.documents WHERE deleted_at IS NULL""",
    )
    return {(source, key): texts for source, key, texts in found}


async def expect_whole(connection: Connection) -> None:
    """Layouts, chunks, vectors, postings and statistics agree."""
    assert not await rows(
        connection,
        """
        SELECT id FROM penstock.documents d
        WHERE (SELECT array_agg(id ORDER BY id) FROM penstock.chunks WHERE document_id = d.id)
              IS DISTINCT FROM (SELECT array_agg(DISTINCT l ORDER BY l) FROM unnest(layout) l)
           OR cardinality(starts) <> cardinality(layout)
           OR cardinality(ends) <> cardinality(layout)
           OR (deleted_at IS NOT NULL AND layout <> '{}')""",
    )
    assert not await rows(
        connection,
        "SELECT id FROM penstock.chunks c WHERE NOT EXISTS (SELECT FROM penstock.vectors v"
        " WHERE (v.tenant, v.model, v.hash) = (c.tenant, c.model, c.hash))",
    )
    chunks = await rows(connection, "SELECT id, text, terms FROM penstock.chunks")
    expected = {id_: Counter(analyse(f"Title\n{text}")) for id_, text, _ in chunks}
    assert await postings(connection, set(expected)) == expected
    assert all(terms == sum(expected[id_].values()) for id_, _, terms in chunks)
    [(count, terms)] = await rows(
        connection,
        "SELECT coalesce(sum(chunks), 0), coalesce(sum(terms), 0) FROM penstock.text_statistics",
    )
    assert (count, terms) == (len(chunks), sum(row[2] for row in chunks))


async def postings(connection: Connection, alive: set[int]) -> dict[int, Counter[str]]:
    """What the text index holds of living chunks; each posting is there once."""
    stored = await rows(
        connection, "SELECT term, chunk_ids, frequencies, lengths FROM penstock.postings"
    )
    fresh = [
        row[0] for row in await rows(connection, "SELECT payload FROM penstock.fresh_postings")
    ]
    terms = {
        term
        for (text,) in await rows(connection, "SELECT text FROM penstock.chunks")
        for term in analyse(f"Title\n{text}")
    }
    found: dict[int, Counter[str]] = {id_: Counter() for id_ in alive}
    for term, *packed in [*stored, *find_in_blocks(fresh, terms)]:
        lists = unpack(*packed)
        for id_, frequency in zip(
            lists.chunk_ids.tolist(), lists.frequencies.tolist(), strict=True
        ):
            if id_ in alive:
                assert term not in found[id_]
                found[id_][term] = frequency
    return found


async def test_g3_a_document_is_stored_with_chunks_vectors_and_words(
    connection: Connection,
) -> None:
    """All parts of a version are there after one commit."""
    await apply(connection, replacing(version("a", 1, ["one river", "two rivers"], title="A")))
    assert await visible(connection) == {("docs", "a"): ["one river", "two rivers"]}
    await expect_whole(connection)
    assert await rows(connection, "SELECT title, starts, ends FROM penstock.documents") == [
        ("A", [0, 100], [9, 110])
    ]
    [(embedding,)] = await rows(
        connection,
        "SELECT embedding::text FROM penstock.vectors WHERE hash = %s",
        chunk("one river").hash,
    )
    assert embedding.startswith("[1,")


async def test_g3_g5_a_new_version_touches_only_what_changed(connection: Connection) -> None:
    """Unchanged chunks keep their rows; the others come and go in the same commit."""
    await apply(connection, replacing(version("a", 1, ["one", "two", "three"])))
    before = dict(await rows(connection, "SELECT text, (id, xmin)::text FROM penstock.chunks"))
    await apply(connection, replacing(version("a", 2, ["one", "new", "three", "one"])))
    after = dict(await rows(connection, "SELECT text, (id, xmin)::text FROM penstock.chunks"))
    assert await visible(connection) == {("docs", "a"): ["one", "new", "three", "one"]}
    assert {text: after[text] for text in ("one", "three")} == {
        text: before[text] for text in ("one", "three")
    }
    assert set(after) == {"one", "new", "three"}
    await expect_whole(connection)


async def test_g5_an_equal_version_rewrites_no_chunk(connection: Connection) -> None:
    """Only the document's row says that there was a newer one."""
    await apply(connection, replacing(version("a", 1, ["one"])))
    empty = ReplaceDocuments([version("a", 2, ["one"])], "model", {}, np.empty((0, 4), np.float32))
    before = await rows(connection, "SELECT xmin::text FROM penstock.chunks")
    await apply(connection, empty)
    assert await rows(connection, "SELECT xmin::text FROM penstock.chunks") == before
    assert await rows(connection, "SELECT count(*) FROM penstock.fresh_postings") == [(1,)]
    assert await rows(connection, "SELECT position FROM penstock.documents") == [("000002",)]


async def test_g5_a_heading_written_differently_is_shown_and_not_embedded_again(
    connection: Connection,
) -> None:
    """What the model reads is the same: the vector stays, what is shown is the new version's."""

    def version(position: int, shown: str) -> DocumentVersion:
        chunk = ChunkText(shown, "Bags\nOne bag.", b"h" * 16, 0, len(shown), "Bags", 4)
        return DocumentVersion("docs", "a", Position(f"{position:016x}"), Microseconds(1), [chunk])

    matrix = np.eye(1, 4, dtype=np.float32)
    first = ReplaceDocuments([version(1, "Bags\n====\n\nOne bag.")], "m", {b"h" * 16: 0}, matrix)
    again = ReplaceDocuments([version(2, "# Bags\n\nOne bag.")], "m", {}, matrix[:0])
    for effect in (first, again):
        async with connection.transaction():
            await replace_documents(connection, effect)
    cursor = await connection.execute("SELECT text FROM penstock.chunks")
    assert await cursor.fetchall() == [("# Bags\n\nOne bag.",)]


async def test_g1_an_older_version_is_ignored(connection: Connection) -> None:
    """In another call or in the same one, and the same position again as well."""
    await apply(connection, replacing(version("a", 5, ["new"])))
    await apply(connection, replacing(version("a", 4, ["old"])))
    await apply(connection, replacing(version("a", 5, ["other"])))
    await apply(connection, replacing(version("b", 5, ["new"]), version("b", 4, ["old"])))
    assert await visible(connection) == {("docs", "a"): ["new"], ("docs", "b"): ["new"]}
    await expect_whole(connection)


async def test_a_replay_cuts_the_same_version_again(connection: Connection) -> None:
    """When the chunker or the model was changed: the same content at the same position."""
    await apply(connection, replacing(version("a", 5, ["one two"], content_hash="h")))
    await apply(connection, replacing(version("a", 5, ["one", "two"], content_hash="h")))
    assert await visible(connection) == {("docs", "a"): ["one", "two"]}
    await connection.execute("INSERT INTO penstock.models (name, dimensions) VALUES ('other', 4)")
    await connection.execute(
        "UPDATE penstock.serving_models SET model = (SELECT max(id) FROM penstock.models)"
    )
    await apply(
        connection, replacing(version("a", 5, ["one", "two"], content_hash="h"), model="other")
    )
    models = await rows(
        connection,
        "SELECT DISTINCT m.name FROM penstock.chunks c JOIN penstock.models m ON m.id = c.model",
    )
    assert models == [("other",)]
    await expect_whole(connection)


async def test_g4_a_deleted_document_stays_deleted_for_what_is_older(
    connection: Connection,
) -> None:
    """Its chunks are gone; a newer version brings it back."""
    await apply(connection, replacing(version("a", 1, ["one"])), replacing(version("b", 1, None)))
    await apply(connection, replacing(version("a", 3, None)))
    await apply(connection, replacing(version("a", 2, ["late"])))
    assert await visible(connection) == {}
    await expect_whole(connection)
    await apply(connection, replacing(version("a", 4, ["again"])))
    assert await visible(connection) == {("docs", "a"): ["again"]}
    await expect_whole(connection)


async def test_g4_a_truncate_reaches_the_documents_of_one_stream(connection: Connection) -> None:
    """Older ones only, and nothing older comes back."""
    row: dict[str, Any] = {"source": "shop", "stream": "public.t", "row_key": ["1"]}
    await apply(
        connection,
        replacing(
            version("t/1", 1, ["one"], **row),
            version("t/2", 9, ["two"], **row),
            version("u/1", 1, ["three"], source="shop", stream="public.u", row_key=["1"]),
        ),
    )
    await apply(connection, TruncateDocuments("shop", "public.t", Position("000005")))
    await apply(connection, replacing(version("t/1", 4, ["late"], **row)))
    assert await visible(connection) == {("shop", "t/2"): ["two"], ("shop", "u/1"): ["three"]}
    await expect_whole(connection)


async def test_g3_a_failure_in_the_middle_leaves_the_old_version(connection: Connection) -> None:
    """A version without its vectors is refused, and everything of its transaction with it."""
    await apply(connection, replacing(version("a", 1, ["one"])))
    nothing = np.empty((0, 4), np.float32)
    with pytest.raises(FatalError, match="a vector is expected for every chunk"):
        await apply(
            connection,
            replacing(version("b", 2, ["two"])),
            ReplaceDocuments([version("a", 2, ["lost"])], "model", {}, nothing),
        )
    assert await visible(connection) == {("docs", "a"): ["one"]}
    await expect_whole(connection)


@pytest.mark.parametrize("count", [3, 200])
async def test_few_and_many_chunks_are_stored_alike(connection: Connection, count: int) -> None:
    """Whichever way they go, with all kinds of characters."""
    texts = [f'text {i} "quoted" \\ {{brace}} naïve 東京 {i % 7}' for i in range(count)]
    await apply(
        connection,
        replacing(
            version(
                "a", 1, texts, title='t "x" \\', metadata={"k": [1, "zwei"]}, allow=["a,b", 'c"']
            ),
            version("b", 1, texts[:2]),
        ),
    )
    assert (await visible(connection))["docs", "a"] == texts
    await expect_whole(connection)
    assert await rows(
        connection,
        "SELECT title, metadata, l.allow FROM penstock.documents d"
        " JOIN penstock.lists l ON l.id = d.list_id WHERE key = 'a'",
    ) == [('t "x" \\', {"k": [1, "zwei"]}, ["a,b", 'c"'])]
    assert await rows(connection, "SELECT count(*) FROM penstock.vectors") == [(count,)]


@pytest.mark.parametrize("seed", range(8))
async def test_g1_g4_any_order_of_arrival_ends_with_the_same_state(
    connection: Connection, seed: int
) -> None:
    """Versions and deletions, mixed, late and repeated, are as good as in order."""
    chance = random.Random(seed)
    words = [f"word{i}" for i in range(12)]
    history = []
    for position in range(1, 60):
        key = chance.choice("abcde")
        texts = None
        if chance.random() < 0.75:
            texts = [" ".join(chance.sample(words, 3)) for _ in range(chance.randrange(6))]
        history.append(version(key, position, texts))
    last = {v.key: v for v in history}
    arriving = history + chance.sample(history, 20)
    chance.shuffle(arriving)
    while arriving:
        size = chance.randrange(1, 9)
        await apply(connection, replacing(*arriving[:size]), writer=chance.choice("xy"))
        arriving = arriving[size:]
        if chance.random() < 0.3:
            await merge_postings(connection, settings=EVERYTHING, compact=chance.random() < 0.5)
    assert await visible(connection) == {
        ("docs", key): [c.text for c in v.chunks] for key, v in last.items() if v.chunks is not None
    }
    await expect_whole(connection)


async def test_two_lanes_store_the_same_texts_at_the_same_time(
    connection: Connection, database_url: str
) -> None:
    """Neither waits for ever, neither breaks the other's chunks."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as other:

        async def lane(on: Connection, name: str) -> None:
            chance = random.Random(name)
            for position in range(1, 30):
                texts = [f"shared {chance.randrange(15)}" for _ in range(4)]
                versions = [version(f"{name}{chance.randrange(3)}", position, texts)]
                versions.append(version("both", position * 2 + (name == "x"), texts))
                while True:
                    try:
                        await apply(on, replacing(*versions), writer=name)
                        break
                    except (RetryableError, psycopg.errors.DeadlockDetected):
                        continue

        await asyncio.gather(lane(connection, "x"), lane(other, "y"))
    await expect_whole(connection)


async def test_two_versions_of_one_document_wait_for_each_other(
    connection: Connection, database_url: str
) -> None:
    """The second compares with what the first has stored, not with what was there before."""
    await apply(connection, replacing(version("a", 1, ["one", "two"])))
    async with (
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as other,
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as watching,
    ):
        async with connection.transaction():
            await replace_documents(connection, replacing(version("a", 3, ["one", "three"])))
            second = asyncio.create_task(apply(other, replacing(version("a", 2, ["two", "four"]))))
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            async with asyncio.timeout(10):
                while await rows(watching, waits) == [(0,)] and not second.done():
                    await asyncio.sleep(0)
            assert not second.done()
        await second
    assert await visible(connection) == {("docs", "a"): ["one", "three"]}
    await expect_whole(connection)


async def test_a_version_whose_base_has_changed_is_made_again(connection: Connection) -> None:
    """Values taken from a stored version must be those of the version that is replaced."""
    await apply(connection, replacing(version("a", 1, ["one"], metadata={"notes": "n"})))
    assert await stored_metadata(connection, "docs", ["a", "b"]) == {
        "a": ("000001", {"notes": "n"})
    }
    await apply(connection, replacing(version("a", 2, ["two"], based_on="000001")))
    for base in ("000001", ""):
        with pytest.raises(RetryableError, match="made again"):
            await apply(connection, replacing(version("a", 3, ["three"], based_on=base)))
    await apply(connection, replacing(version("b", 3, ["three"], based_on="")))
    assert await visible(connection) == {("docs", "a"): ["two"], ("docs", "b"): ["three"]}


async def test_another_length_of_vectors_under_a_models_name_is_refused(
    connection: Connection,
) -> None:
    """Vectors of one name must be comparable."""
    await apply(connection, replacing(version("a", 1, ["one"])))
    with pytest.raises(FatalError, match="to give 4 numbers a text"):
        await apply(
            connection,
            ReplaceDocuments([version("a", 2, ["x"])], "model", {}, np.ones((1, 3), np.float32)),
        )


async def test_vectors_without_chunks_are_kept_a_while_and_then_collected(
    connection: Connection,
) -> None:
    """A rename finds its vectors again; after the time they are gone."""
    await apply(connection, replacing(version("old", 1, ["one", "two"])))
    await apply(connection, replacing(version("old", 2, None)))
    hashes = [chunk(text).hash for text in ("one", "two", "three")]
    assert await known_vectors(connection, "model", hashes) == set(hashes[:2])
    assert await collect_garbage(connection) == 0
    nothing = np.empty((0, 4), np.float32)
    await apply(connection, ReplaceDocuments([version("new", 3, ["one"])], "model", {}, nothing))
    assert await collect_garbage(connection, keep=timedelta(0)) == 2
    assert await known_vectors(connection, "model", hashes) == {hashes[0]}
    await expect_whole(connection)


@pytest.mark.parametrize("count", [2, 80])
async def test_g3_g5_tokens_live_and_go_with_their_text(connection: Connection, count: int) -> None:
    """Stored in the transaction of the chunk, kept while its text is, collected with its vector;
    whether few or many come."""
    texts = [f"text {i}" for i in range(count)]
    first = replacing(version("a", 1, texts))
    tokens = [hash_[:5] for hash_ in first.vectors]
    await apply(connection, replace(first, tokens=tokens, head="head-1"))
    stored = "SELECT hash, head, v.tokens FROM penstock.vectors v JOIN penstock.chunks USING (hash)"
    assert set(await rows(connection, stored)) == {
        (hash_, "head-1", hash_[:5]) for hash_ in first.vectors
    }
    kept = replacing(version("a", 2, texts[:1]))
    await apply(connection, ReplaceDocuments(kept.documents, "model", {}, kept.matrix[:0]))
    [(hash_, head, packed)] = await rows(connection, stored)
    assert (head, packed) == ("head-1", hash_[:5])
    await collect_garbage(connection, keep=timedelta(0))
    assert await rows(connection, "SELECT count(*) FROM penstock.vectors") == [(1,)]
    # A text without tokens is stored beside one that has some.
    await apply(connection, replacing(version("b", 1, ["plain"])))
    assert len(await rows(connection, "SELECT FROM penstock.vectors WHERE head IS NULL")) == 1


@pytest.mark.parametrize("count", [2, 80])
async def test_texts_without_tokens_get_them_when_they_come_again(
    connection: Connection, count: int
) -> None:
    """By a replay of the same version, by a new version, and by another document with the same
    text; a text is not known under a head before its tokens are there."""
    texts = [f"text {i}" for i in range(count)]

    def tokened(position: int, head: str, key: str = "a") -> ReplaceDocuments:
        effect = replacing(version(key, position, texts))
        tokens = [head.encode() + hash_[:3] for hash_ in effect.vectors]
        return replace(effect, tokens=tokens, head=head)

    plain = replacing(version("a", 1, texts))
    hashes = list(plain.vectors)
    await apply(connection, plain)
    heads = "SELECT DISTINCT head, substr(tokens, 1, 1) FROM penstock.vectors"
    for effect, head in (
        (tokened(1, "1"), "1"),
        (tokened(2, "2"), "2"),
        (tokened(1, "3", key="b"), "3"),
        (tokened(1, "4"), "4"),  # older than what is stored
    ):
        assert await known_vectors(connection, "model", hashes, head) == set()
        await apply(connection, effect)
        assert await rows(connection, heads) == [(head, head.encode())]
        assert await known_vectors(connection, "model", hashes, head) == set(hashes)
    assert await known_vectors(connection, "model", hashes) == set(hashes)


async def test_merging_keeps_every_posting_and_drops_dead_ones(connection: Connection) -> None:
    """In pieces as small as one likes, readers find the same before and after."""
    for position in range(1, 30):
        await apply(
            connection,
            replacing(version(f"d{position % 6}", position, [f"river stone {position}", "bridge"])),
        )
        if position % 3 == 0:
            await merge_postings(connection, settings=MergeSettings(fresh_blocks=2, window=7))
            await expect_whole(connection)
    after, calls = "", 0
    while True:
        merged = await merge_postings(
            connection,
            after=after,
            settings=MergeSettings(fresh_blocks=1, window=9, list_bytes=40),
            compact=True,
        )
        after, calls = merged.after, calls + 1
        await expect_whole(connection)
        if not after:
            break
    assert calls > 2
    assert await rows(connection, "SELECT count(*) FROM penstock.fresh_postings") == [(0,)]
    listed = await rows(
        connection, "SELECT sum(octet_length(chunk_ids)) / 8 FROM penstock.postings"
    )
    chunks = await rows(connection, "SELECT text FROM penstock.chunks")
    assert listed == [(sum(len(set(analyse(f"Title\n{text}"))) for (text,) in chunks),)]


async def test_only_one_process_merges_at_a_time(connection: Connection, database_url: str) -> None:
    """The other one does nothing and does not wait."""
    await apply(connection, replacing(version("a", 1, ["one"])))
    async with (
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as other,
        other.transaction(),
    ):
        assert not (await merge_postings(other, settings=EVERYTHING)).idle
        assert (await merge_postings(connection, settings=EVERYTHING)).idle


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([8, 8, 8], []),
        ([8, 8, 8, 8], [0, 1, 2, 3]),
        ([8, 8, 8, 8000, 8], [0, 1, 2, 4]),
        ([8, 8, 8, 64, 8, 9000], [0, 1, 2, 4, 3]),
    ],
)
def test_lists_are_merged_when_they_are_of_a_size(sizes: list[int], chosen: list[int]) -> None:
    """A long list is not rewritten for every few postings."""
    assert choose([(size, block) for block, size in enumerate(sizes)], 4) == chosen
