"""What was told of somebody, and by them: answers, feedback, conversations; and the frequent values
that trained weights of fuzzy matching hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import quote

import orjson
from psycopg_pool import AsyncConnectionPool

from penstock.records import DOCUMENTS, Microseconds
from penstock.stores.ledger import Told
from penstock.stores.postgres.erasing.base import Connection, Work
from penstock.stores.postgres.ledger import PostgresLedger
from penstock.stores.postgres.profiles.models import forget_in_models
from penstock.stores.postgres.sessions import PostgresSessions
from penstock.subjects import RecordName, Subject

_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_KEPT = """
SELECT EXISTS (SELECT FROM penstock.ledger_entries WHERE tenant = %(tenant)s)
    OR EXISTS (SELECT FROM penstock.sessions WHERE tenant = %(tenant)s)
"""


class _Within:
    """A pool of the one connection whose transaction it is."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """The connection, which stays as it is."""
        yield self._connection


async def erase_told(work: Work) -> int:
    """Redact answers that held the subject's records or values, what they asked and rated, and take
    away their conversations. The chain of the ledger goes on to fit."""
    if not await _kept(work.connection, work.tenant):
        return 0
    now = await (await work.connection.execute(_NOW)).fetchone()
    assert now is not None
    pool = _pool(work.connection)
    ledger = PostgresLedger(pool, tenant=work.tenant)
    sessions = PostgresSessions(pool, ledger.key, tenant=work.tenant)
    found = 0
    for told in _told(work.subject):
        forgotten = await ledger.forget(told, Microseconds(now[0]))
        found += forgotten.entries + await sessions.forget(told)
    return found


async def entries_about(
    connection: Connection, tenant: str, subject: Subject
) -> list[tuple[str, str]]:
    """The ids and kinds of what is kept of answers that hold the subject: whoever reads the ledger
    as a source has rows of these."""
    if not await _kept(connection, tenant):
        return []
    ledger = PostgresLedger(_pool(connection), tenant=tenant)
    return [found for told in _told(subject) for found in await ledger.holding(told)]


async def _kept(connection: Connection, tenant: str) -> bool:
    row = await (await connection.execute(_KEPT, {"tenant": tenant})).fetchone()
    return row is not None and bool(row[0])


def _pool(connection: Connection) -> AsyncConnectionPool[Any]:
    return cast("AsyncConnectionPool[Any]", _Within(connection))


async def erase_weights(work: Work) -> int:
    """Take the subject's values out of stored weights; their kinds are to be trained again."""
    return len(await forget_in_models(work.connection, work.tenant, list(_values(work.subject))))


def _told(subject: Subject) -> Iterator[Told]:
    records = [_place(record) for record in sorted(subject.records)]
    records += [("profiles", f"{kind}/{id_}") for kind, id_ in subject.profiles]
    yield Told(records=records, values=_values(subject))
    for value in sorted(subject.values):
        yield Told(user=value)


def _values(subject: Subject) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*subject.values, *subject.canaries)))


def _place(record: RecordName) -> tuple[str, str]:
    """As a context names it: a document by its key, a row by its table and key."""
    if record.stream == DOCUMENTS:
        return record.source, record.key
    parts: list[str | None] = [record.key]
    if record.key.startswith("["):
        try:
            parts = orjson.loads(record.key)
        except orjson.JSONDecodeError:
            parts = [record.key]
    named = ("%00" if part is None else quote(str(part), safe="") for part in parts)
    return record.source, "/".join((quote(record.stream, safe=""), *named))
