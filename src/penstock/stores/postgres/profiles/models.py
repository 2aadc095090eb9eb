"""Models of fuzzy matching in the store: kept, prepared beside the one in use, used, and left.

A model is *preparing* first: the stream keeps its blocks and matches as it keeps those of the model
in use, and `Models.prepare` goes through the records that are there already, some thousands at a
time, each lot in its own transaction: nothing waits for long, and a kill costs one lot. Then
`Models.use` changes over in one transaction: what either model ties is worked out again.

Weights hold values of records in clear text: `forget_in_models` takes them out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, LiteralString, NamedTuple

import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.errors import ConfigError
from penstock.identity.evidence import Record
from penstock.identity.fuzzy.forgetting import forget_values
from penstock.identity.fuzzy.matcher import FuzzyMatcher
from penstock.identity.fuzzy.model import Model, from_json
from penstock.identity.graph import resettle
from penstock.identity.rules import Rules
from penstock.records import Microseconds
from penstock.stores.postgres.profiles.facts import Evidence
from penstock.stores.postgres.profiles.graph import PostgresGraph
from penstock.stores.postgres.profiles.kinds import declared, rules_json
from penstock.stores.postgres.profiles.matching import Matchers
from penstock.stores.postgres.profiles.rows import stored_of

SQL: Final = load_queries(Path(__file__).with_name("models.sql"))
_LOT: Final = 2000

Connection = psycopg.AsyncConnection[Any]
Pool = AsyncConnectionPool[Connection]


class StoredModel(NamedTuple):
    """A model as it is kept, without its weights."""

    number: int
    state: str
    version: str
    learned: Mapping[str, Any]
    trained_by: str
    trained_at: Microseconds


class Waiting(NamedTuple):
    """Two records that might be one person, with their profiles."""

    number: int
    weight: float
    since: Microseconds
    left_profile: str
    right_profile: str
    left: Record
    right: Record


class Models:
    """The models of one kind of profile."""

    def __init__(self, pool: Pool, tenant: str, kind: str, rules: Rules) -> None:
        self._pool = pool
        self._names: dict[str, Any] = {"tenant": tenant, "kind": kind}
        self._tenant = tenant
        self._kind = kind
        self._rules = rules
        self._matchers = Matchers()

    async def all(self) -> list[StoredModel]:
        """The model in use, the one being prepared and the former one, as far as there are; by
        number."""
        with translated():
            async with self._pool.connection() as connection:
                cursor = await self._run(connection, "all")
                return [StoredModel(*row) for row in await cursor.fetchall()]

    async def records(self, most: int, seed: int = 1) -> list[Record]:
        """The records of the kind, or so many drawn at random (always the same for a seed).

        `ConfigError` where they were not read by the rules of today.
        """
        with translated():
            async with self._pool.connection() as connection:
                if await declared(connection, self._tenant, self._kind) != rules_json(self._rules):
                    raise ConfigError(
                        f"expected the records of {self._kind!r} to be read by the rules that the "
                        "project file has now, they are not: start `penstock run` once"
                    )
                cursor = await self._run(connection, "records", most=most, seed=seed)
                found = [stored_of(row, self._rules).record for row in await cursor.fetchall()]
        return sorted(found, key=lambda record: record.key)

    async def keep(self, model: Model, learned: Mapping[str, Any], by: str) -> int:
        """Keep a model that is to be prepared, instead of any that was; returns its number."""
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                await self._opened(connection)
                await self._drop_preparing(connection)
                cursor = await self._run(
                    connection,
                    "keep",
                    version=model.version,
                    weights=model.to_json(),
                    learned=Jsonb(learned),
                    by=by,
                )
                [(number,)] = await cursor.fetchall()
        return int(number)

    async def take_up(self, number: int) -> None:
        """Prepare a former model again, instead of any that was being prepared."""
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                await self._opened(connection)
                await self._drop_preparing(connection)
                await self._run(connection, "take_up", model=number)

    async def drop_preparing(self) -> None:
        """Forget the model that is being prepared, if there is one."""
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                await self._opened(connection)
                await self._drop_preparing(connection)

    async def _drop_preparing(self, connection: Connection) -> None:
        cursor = await self._run(connection, "preparing")
        for (number,) in await cursor.fetchall():
            await self._run(connection, "no_blocks", model=number)
            await self._run(connection, "no_matches", model=number)
            await self._run(connection, "drop", model=number)

    async def prepare(self, number: int, tell: Callable[[int], None] = lambda _: None) -> int:
        """Work out blocks and matches of all records under a model that is being prepared, from
        where it was interrupted; returns how many records that were."""
        count = 0
        with translated():
            while True:
                async with self._pool.connection() as connection, connection.transaction():
                    done = await self._prepare_some(connection, number)
                if not done:
                    return count
                count += done
                tell(count)

    async def _prepare_some(self, connection: Connection, number: int) -> int:
        graph = await self._opened(connection)
        matching = graph.matching(number)
        if matching is None:
            raise ConfigError(
                f"expected model {number} to be prepared, it is no longer: another "
                "`penstock profiles train` has put a newer one in its place"
            )
        cursor = await self._run(connection, "some", model=number, count=_LOT)
        numbers = [record for (record,) in await cursor.fetchall()]
        if numbers:
            records = await graph.load(numbers)
            await matching.rematch(records, (), graph.known_record)
            await self._run(connection, "prepared_to", model=number, record=numbers[-1])
        return len(numbers)

    async def use(self, number: int | None) -> int:
        """Change over to a prepared model, or to none, in one transaction; returns how many records
        were worked out again."""
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                graph = await self._opened(connection)
                before, after = graph.used, graph.matching(number or 0)
                if number is not None and (after is None or after is before):
                    raise ConfigError(
                        f"expected model {number} to be prepared, it is not: another "
                        "`penstock profiles train` has put a newer one in its place"
                    )
                touched: set[int] = set()
                for one in (before, after):
                    if one is not None:
                        cursor = await self._run(
                            connection, "tied", model=one.number, link=one.matcher.link
                        )
                        touched |= {record for (record,) in await cursor.fetchall()}
                await self._run(connection, "leave")
                if after is not None:
                    await self._run(connection, "use", model=after.number)
                count = await self._resettle(connection, touched)
                if before is not None:
                    await self._run(connection, "no_blocks", model=before.number)
                    await self._run(connection, "no_matches", model=before.number)
                await self._run(connection, "forget_old")
        return count

    async def waiting(
        self, limit: int, number: int | None = None
    ) -> tuple[FuzzyMatcher | None, list[Waiting]]:
        """Pairs that wait for a person (or the one with this number), the likeliest first, and what
        explains them. Those that are one profile already, or of which a decision says that they
        are two, wait no longer."""
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                used = (await self._opened(connection)).used
                if used is None:
                    return None, []
                cursor = await self._run(
                    connection,
                    "waiting",
                    model=used.number,
                    link=used.matcher.link,
                    count=limit,
                    number=number,
                )
                found = [
                    Waiting(
                        number,
                        weight,
                        since,
                        left,
                        right,
                        stored_of(columns[:10], self._rules).record,
                        stored_of(columns[10:], self._rules).record,
                    )
                    for number, weight, since, left, right, *columns in await cursor.fetchall()
                ]
        return used.matcher, found

    async def _resettle(self, connection: Connection, touched: set[int]) -> int:
        graph = await self._opened(connection)
        left, done = sorted(touched, reverse=True), set[Any]()
        while left:
            lot = [left.pop() for _ in range(min(_LOT, len(left)))]
            keys = {record.key for record in (await graph.load(lot)).values()} - done
            if keys:
                done.update(await resettle(graph, graph.rules, keys, "model"))
            await graph.flush()
        await Evidence(connection, self._tenant, self._kind, self._rules, graph).note(())
        return len(done)

    async def _opened(self, connection: Connection) -> PostgresGraph:
        graph = PostgresGraph(connection, self._tenant, self._kind, self._rules, self._matchers)
        await graph.open()
        return graph

    async def _run(
        self, connection: Connection, statement: LiteralString, **parameters: Any
    ) -> psycopg.AsyncCursor[Any]:
        return await connection.execute(SQL[statement], {**self._names, **parameters})


async def forget_in_models(
    connection: Connection, tenant: str, texts: Collection[str]
) -> list[str]:
    """Take these values out of all stored weights of a tenant, for erasure; in the caller's
    transaction. Returns the kinds of profiles whose weights held one: `penstock profiles train`
    makes their matches those of a model that never saw them. Blocks (hashes) and matches (numbers)
    go with the records that they are of."""
    cursor = await connection.execute(SQL["all_weights"], {"tenant": tenant})
    found: dict[str, None] = {}
    for kind, number, weights in await cursor.fetchall():
        before = from_json(weights)
        after = forget_values(before, texts)
        if after is not before:
            found[kind] = None
            await connection.execute(
                SQL["reweigh"],
                {
                    "tenant": tenant,
                    "kind": kind,
                    "model": number,
                    "version": after.version,
                    "weights": after.to_json(),
                },
            )
    return list(found)
