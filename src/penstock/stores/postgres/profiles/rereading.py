"""When the rules of a kind change: all its rows are read anew, from the live tables.

What the log still holds is not enough (it forgets) and not needed: the live tables hold every row
as it is, with its position. Some thousands are taken at a time, each lot in a transaction of its
own that leaves everything consistent; the new rules are written last, so that what was interrupted
begins again. The consumer goes on from where the live tables are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.identity.evidence import RecordKey
from penstock.identity.graph import RecordChange
from penstock.identity.reading import record_key
from penstock.identity.rules import Rules
from penstock.stores.postgres import live_names
from penstock.stores.postgres.live_tables import LiveTable, all_tables
from penstock.stores.postgres.profiles.facts import SQL as FACTS
from penstock.stores.postgres.profiles.facts import Evidence
from penstock.stores.postgres.profiles.graph import PostgresGraph
from penstock.stores.postgres.profiles.kinds import declare, declared, rules_json
from penstock.stores.postgres.profiles.matching import Matchers

SQL: Final = load_queries(Path(__file__).with_name("rereading.sql"))
_LOT: Final = 5000

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]


async def keep_only(
    pool: Pool, tenant: str, kinds: Collection[str], consumer: str, topics: Collection[str]
) -> list[str]:
    """Take away kinds that the project no longer has, and the consumer's places in topics that it
    no longer reads. Returns the kinds."""
    with translated():
        async with pool.connection() as connection, connection.transaction():
            await connection.execute(
                SQL["consumers_of"], {"consumer": consumer, "topics": sorted(topics)}
            )
            cursor = await connection.execute(
                SQL["kinds_else"], {"tenant": tenant, "kinds": sorted(kinds)}
            )
            gone = [kind for (kind,) in await cursor.fetchall()]
            for kind in gone:
                for statement in SQL:
                    if statement.startswith("take_away_"):
                        await connection.execute(SQL[statement], {"tenant": tenant, "kind": kind})
    return gone


class KindRereading:
    """Brings one kind of profile to its present rules. Only while nothing else writes in it."""

    def __init__(self, pool: Pool, tenant: str, kind: str, rules: Rules, consumer: str) -> None:
        self._pool = pool
        self._tenant = tenant
        self._kind = kind
        self._rules = rules
        self._consumer = consumer
        self._matchers = Matchers()

    async def run(self, *, allow: tuple[str, ...], deny: tuple[str, ...]) -> int | None:
        """Returns how many rows were read anew; None when the rules are as they were."""
        with translated():
            async with self._pool.connection() as connection:
                before = await declared(connection, self._tenant, self._kind)
                if before is not None and before == rules_json(self._rules):
                    await declare(
                        connection, self._tenant, self._kind, self._rules, allow=allow, deny=deny
                    )
                    return None
                if before is None:
                    # Known, so that ids can be given; with no rules, so that it is not done.
                    await declare(connection, self._tenant, self._kind, Rules(), allow=(), deny=())
                since = await _now(connection)
                tables = [
                    table
                    for table in await all_tables(connection)
                    if (table.source, table.stream) in self._rules.tables
                ]
            count = 0
            for table in tables:
                async for lot in self._lots(table):
                    await self._take(lot)
                    count += len(lot)
            await self._forget(since)
            async with self._pool.connection() as connection, connection.transaction():
                topics = sorted({source for source, _ in self._rules.tables})
                await connection.execute(
                    SQL["join_tables"],
                    {"consumer": self._consumer, "topics": topics, "new": before is None},
                )
                await declare(
                    connection, self._tenant, self._kind, self._rules, allow=allow, deny=deny
                )
        return count

    async def _lots(self, table: LiveTable) -> AsyncIterator[list[RecordChange]]:
        """The rows of a live table, as changes of evidence."""
        wanted = set(self._rules.tables[table.source, table.stream].columns())
        places = [i for i, c in enumerate(table.columns) if c.key or c.name in wanted]
        names = [table.columns[i].name for i in places]
        keys = [n for n, i in enumerate(places) if table.columns[i].key]
        own = (live_names.POSITION, live_names.COMMITTED_AT)
        statement = sql.SQL("SELECT {}, {} FROM {}").format(
            sql.SQL(", ").join(sql.Identifier(name) for name in own),
            sql.SQL(", ").join(
                sql.SQL("{}::text").format(sql.Identifier(table.names[i])) for i in places
            ),
            table.identifier,
        )
        async with (
            self._pool.connection() as connection,
            connection.transaction(),
            connection.cursor("rereading") as cursor,
        ):
            await cursor.execute(statement)
            while rows := await cursor.fetchmany(_LOT):
                yield [
                    RecordChange(
                        record_key(table.schema, tuple(values[n] for n in keys)),
                        position,
                        committed_at,
                        dict(zip(names, values, strict=True)),
                    )
                    for position, committed_at, *values in rows
                ]

    async def _take(self, changes: list[RecordChange], *, whole: bool = True) -> None:
        async with self._pool.connection() as connection, connection.transaction():
            graph = PostgresGraph(connection, self._tenant, self._kind, self._rules, self._matchers)
            await graph.open()
            evidence = Evidence(connection, self._tenant, self._kind, self._rules, graph)
            await (evidence.take if whole else evidence.incorporate)(changes, anew=True)

    async def _forget(self, since: Any) -> None:
        """Take away what no live table has (any more), or no rule reads."""
        named = {"tenant": self._tenant, "kind": self._kind, "since": since}
        async with self._pool.connection() as connection:
            await connection.execute(FACTS["forget"], named)
        while True:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(SQL["not_noted_since"], named)
                gone = [
                    RecordChange(RecordKey(source, stream, key), position, committed_at, None)
                    for source, stream, key, position, committed_at in await cursor.fetchall()
                ]
            if not gone:
                return
            await self._take(gone, whole=False)


async def _now(connection: psycopg.AsyncConnection[Any]) -> Any:
    cursor = await connection.execute("SELECT clock_timestamp()")
    row = await cursor.fetchone()
    assert row is not None
    return row[0]
