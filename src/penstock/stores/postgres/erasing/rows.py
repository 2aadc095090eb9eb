"""Live tables, the marks of their deleted rows, and dead letters."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import orjson
from psycopg import sql

from penstock.records import UNREADABLE, Change
from penstock.stores.postgres import live_names
from penstock.stores.postgres.dead_letters import decode
from penstock.stores.postgres.erasing.base import Connection, Work
from penstock.stores.postgres.live_tables import LiveTable, all_tables
from penstock.subjects import RecordName, Subject, key_name

_AT_ONCE: Final = 2000


def key_parts(name: str, columns: int) -> list[str | None] | None:
    """The values of a key that `key_name` wrote as one text; None for a digest."""
    if name.startswith("sha256:"):
        return None
    if columns == 1:
        return [name]
    try:
        parts = json.loads(name)
    except ValueError:
        return None
    return parts if isinstance(parts, list) and len(parts) == columns else None


async def live_rows(
    connection: Connection, tenant: str, table: LiveTable
) -> AsyncIterator[tuple[RecordName, Sequence[str | None]]]:
    """All rows of a live table as texts, with their names; in the caller's transaction, which may
    then take its time between one and the next."""
    await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    columns = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(name)) for name in table.names
    )
    keys = table.schema.key_indexes
    async with connection.cursor("penstock_erasing_rows") as cursor:
        await cursor.execute(
            sql.SQL("SELECT {} FROM {} WHERE {} = %s").format(
                columns, table.identifier, sql.Identifier(live_names.TENANT)
            ),
            [tenant],
        )
        while rows := await cursor.fetchmany(_AT_ONCE):
            for row in rows:
                key = tuple(row[index] for index in keys)
                yield RecordName(table.source, table.stream, key_name(key)), row


async def bearing(connection: Connection, tenant: str, subject: Subject) -> list[RecordName]:
    """Rows of any live table that bear a value which only the subject has."""
    found = []
    if not subject.values:
        return []
    for table in await all_tables(connection):
        async for name, row in live_rows(connection, tenant, table):
            if subject.borne(row):
                found.append(name)
    return found


async def erase_rows(work: Work) -> int:
    """Delete the subject's rows; what their tables say of groups and permissions goes with them."""
    found = 0
    for table in await all_tables(work.connection):
        wanted = work.subject.of(table.source, table.stream)
        if wanted:
            found += await _delete_rows(work, table, wanted)
    return found


async def _delete_rows(work: Work, table: LiveTable, wanted: Sequence[str]) -> int:
    names = [table.names[index] for index in table.schema.key_indexes]
    keys = [parts for name in wanted if (parts := key_parts(name, len(names))) is not None]
    if len(keys) < len(wanted):  # a digest stands for a long key: the rows themselves tell
        return await _delete_by_looking(work, table, frozenset(wanted))
    same = sql.SQL(" AND ").join(
        sql.SQL("{}::text IS NOT DISTINCT FROM w.{}").format(
            sql.Identifier("t", name), sql.Identifier(f"k{place}")
        )
        for place, name in enumerate(names)
    )
    aliases = sql.SQL(", ").join(sql.Identifier(f"k{place}") for place in range(len(names)))
    arrays = sql.SQL(", ").join([sql.SQL("%s::text[]")] * len(names))
    statement = sql.SQL(
        "DELETE FROM {table} t USING unnest({arrays}) w ({aliases}) WHERE {same} AND {of} = %s"
    ).format(
        table=table.identifier,
        arrays=arrays,
        aliases=aliases,
        same=same,
        of=sql.Identifier("t", live_names.TENANT),
    )
    values = [*(list(column) for column in zip(*keys, strict=True)), work.tenant]
    return (await work.connection.execute(statement, values)).rowcount


async def _delete_by_looking(work: Work, table: LiveTable, wanted: frozenset[str]) -> int:
    found = []
    columns = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(table.names[index]))
        for index in table.schema.key_indexes
    )
    cursor = await work.connection.execute(
        sql.SQL("SELECT ctid::text, {} FROM {}").format(columns, table.identifier)
    )
    for place, *key in await cursor.fetchall():
        if key_name(tuple(key)) in wanted:
            found.append(place)
    done = await work.connection.execute(
        sql.SQL("DELETE FROM {} WHERE ctid = ANY (%s::tid[])").format(table.identifier), [found]
    )
    return done.rowcount


async def erase_tombstones(work: Work) -> int:
    """Forget the keys of deleted rows: the suppression keeps older versions away instead."""
    found = 0
    for source, stream in work.subject.streams:
        keys = work.subject.of(source, stream)
        # Composite keys are written here without blanks.
        keys += [orjson.dumps(json.loads(key)).decode() for key in keys if key.startswith("[")]
        cursor = await work.connection.execute(
            "DELETE FROM penstock.tombstones WHERE source = %s AND stream = %s AND key = ANY (%s)",
            [source, stream, keys],
        )
        found += cursor.rowcount
    return found


async def erase_letters(work: Work) -> int:
    """Throw away dead letters that are about the subject, or say something of theirs."""
    cursor = await work.connection.execute(
        "SELECT id, payload, reason FROM penstock.dead_letters WHERE tenant = %s", [work.tenant]
    )
    gone = [
        id_
        for id_, payload, reason in await cursor.fetchall()
        if _is_about(decode(bytes(payload)), reason, work.subject)
    ]
    done = await work.connection.execute(
        "DELETE FROM penstock.dead_letters WHERE id = ANY (%s)", [gone]
    )
    return done.rowcount


def _is_about(change: Change, reason: str, subject: Subject) -> bool:
    if subject.holds(change) or subject.says(reason):
        return True
    if change.schema.stream != UNREADABLE:
        return False
    return any(subject.says(text) for text in _unreadable_texts(change))


def _unreadable_texts(change: Change) -> list[str]:
    texts = []
    for name in ("key", "value", "headers"):
        said: Any = change.value(name)
        if isinstance(said, str):
            texts.append(said)
            try:
                texts.append(base64.b64decode(said, validate=True).decode("utf-8", "replace"))
            except (binascii.Error, ValueError):
                continue
    return texts
