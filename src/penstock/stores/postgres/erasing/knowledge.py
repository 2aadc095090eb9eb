"""Documents and texts of rows, with their chunks, vectors and posting lists."""

from __future__ import annotations

import json
from typing import Final

from penstock.records import DOCUMENTS
from penstock.stores.postgres.arrays import bytes_literal, numbers_literal
from penstock.stores.postgres.document_writer import run
from penstock.stores.postgres.erasing.base import Connection, Work
from penstock.stores.postgres.merging import MergeSettings, merge_postings

_ALL: Final = MergeSettings(fresh_blocks=1, fresh_small=0, fresh_bytes=64_000_000)


async def documents_of(work: Work) -> list[tuple[int, list[int]]]:
    """The subject's documents, with their chunks; those that are tombstones too."""
    found: list[tuple[int, list[int]]] = []
    for source, stream in work.subject.streams:
        keys = work.subject.of(source, stream)
        of_documents = stream == DOCUMENTS
        rows = [] if of_documents else keys
        cursor = await work.connection.execute(
            "SELECT d.id, ARRAY(SELECT c.id FROM penstock.chunks c WHERE c.document_id = d.id) "
            "FROM penstock.documents d WHERE d.tenant = %(tenant)s AND d.source = %(source)s AND ("
            "d.stream IS NULL AND d.key = ANY (%(keys)s) "
            "OR d.stream = %(stream)s AND d.row_key = ANY (%(rows)s::jsonb[]))",
            {
                "tenant": work.tenant,
                "source": source,
                "stream": stream,
                "keys": keys if of_documents else [],
                "rows": [key if key.startswith("[") else json.dumps([key]) for key in rows],
            },
        )
        found += await cursor.fetchall()
    return found


async def erase_documents(work: Work) -> int:
    """Take away the subject's documents with their chunks, and the vectors that nothing else uses;
    second stores are told by the triggers that follow every document."""
    documents = await documents_of(work)
    if not documents:
        return 0
    chunks = [chunk for _, own in documents for chunk in own]
    cursor = await work.connection.execute(
        "SELECT DISTINCT hash FROM penstock.chunks WHERE id = ANY (%s)", [chunks]
    )
    hashes = [bytes(row[0]) for row in await cursor.fetchall()]
    await run(
        work.connection,
        "remove_chunks",
        tenant=work.tenant,
        writer="erasure",
        gone=numbers_literal(chunks),
        chunks=0,
        terms=0,
    )
    await work.connection.execute(
        "DELETE FROM penstock.documents WHERE id = ANY (%s)", [[id_ for id_, _ in documents]]
    )
    await _remove_vectors(work.connection, work.tenant, hashes)
    return len(documents) + len(chunks)


async def _remove_vectors(connection: Connection, tenant: str, hashes: list[bytes]) -> None:
    wanted = {"tenant": tenant, "hashes": bytes_literal(hashes)}
    for table in ("vectors", "loose_vectors"):
        await connection.execute(
            f"DELETE FROM penstock.{table} v USING unnest(%(hashes)s::bytea[]) w (hash) "  # noqa: S608 - one of two names
            "WHERE v.tenant = %(tenant)s AND v.hash = w.hash AND NOT EXISTS (SELECT FROM "
            "penstock.chunks c WHERE c.tenant = v.tenant AND c.hash = v.hash)",
            wanted,
        )


async def erase_loose(work: Work) -> int:
    """Vectors that lost their last chunk are kept a while for renames: of whom they were is not
    known any more, so all go now."""
    cursor = await work.connection.execute(
        "WITH loose AS (DELETE FROM penstock.loose_vectors l WHERE l.tenant = %(tenant)s "
        "RETURNING l.tenant, l.model, l.hash) DELETE FROM penstock.vectors v USING loose l "
        "WHERE v.tenant = l.tenant AND v.model = l.model AND v.hash = l.hash AND NOT EXISTS ("
        "SELECT FROM penstock.chunks c WHERE c.tenant = v.tenant AND c.hash = v.hash)",
        {"tenant": work.tenant},
    )
    return cursor.rowcount


async def erase_postings(work: Work) -> int:
    """Rewrite the posting lists without chunks that are gone: lists are named by words of texts.
    Returns how many words are not in any text any more."""
    before = await _words(work)
    after = ""
    while True:
        done = await merge_postings(
            work.connection, tenant=work.tenant, after=after, settings=_ALL, compact=True
        )
        after = done.after
        if not done.blocks and not after:
            break
    return max(0, before - await _words(work))


async def _words(work: Work) -> int:
    cursor = await work.connection.execute(
        "SELECT count(DISTINCT term) FROM penstock.postings WHERE tenant = %s", [work.tenant]
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])
