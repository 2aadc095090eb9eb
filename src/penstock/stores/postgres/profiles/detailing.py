"""Reading what is known of a person beside their traits: computed values, rows of live tables,
consents, and the last events. In the caller's snapshot, as the one who asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, LiteralString

import orjson
import psycopg
from psycopg import errors, sql
from psycopg.types.json import Jsonb

from penstock.database.queries import load_queries
from penstock.errors import RetryableError
from penstock.identity.details import Computed, ConsentRule, Details, NestedList, consents
from penstock.records import Column, Microseconds, Position
from penstock.stores.details import Happened, ListedRow, ListedRows, ProfileDetails
from penstock.stores.postgres.live_names import KEY, POSITION, key_texts, live_columns
from penstock.stores.postgres.live_rows import lenient_cursor
from penstock.stores.postgres.profiles.computing import Computing

Connection = psycopg.AsyncConnection[Any]
Cursor = psycopg.AsyncCursor[Any]

SQL: Final = load_queries(Path(__file__).with_name("details.sql"))

_TABLE: Final = """
SELECT l.schema_name, l.table_name, l.columns FROM penstock.live_tables l
WHERE l.tenant = %s AND l.source = %s AND l.stream = %s
"""
# The record of the table gives each text of a key the type of its column.
_ROWS: Final = """
SELECT w.ordinality, t.{position}, {shown}
FROM jsonb_populate_recordset(NULL::{table}, %(keys)s::jsonb) WITH ORDINALITY w
JOIN {table} t ON {same_key} WHERE {conditions} ORDER BY {order}w.ordinality LIMIT %(limit)s
"""


@lru_cache(maxsize=64)
def _computing(wanted: tuple[tuple[str, Computed], ...]) -> Computing:
    return Computing(dict(wanted))


def computing(details: Details) -> Computing:
    """The composed values of a kind, made once."""
    return _computing(tuple(details.computed.items()))


class Detailing:
    """Details of profiles of one kind."""

    def __init__(self, connection: Connection, tenant: str, kind: str) -> None:
        self._connection = connection
        self._tenant = tenant
        self._kind = kind

    async def read(self, id_: str, wanted: Details, now: Microseconds) -> ProfileDetails:
        """What is known of one profile. Everything is asked for before any of it is read."""
        values, consent = computing(wanted), wanted.consent
        asked = None
        await self._run("planned_once")
        if wanted.computed:
            asked = await values.ask(self._connection, self._tenant, self._kind, [id_], now)
        agreed = None if consent is None else await self._consents(id_, consent)
        latest = await self._latest(id_, wanted, now)
        await self._run("planned_as_ever")
        return ProfileDetails(
            {} if asked is None else (await values.told(asked))[id_],
            {name: await self._listed(id_, one) for name, one in wanted.lists.items()},
            {} if agreed is None else consents(await agreed.fetchall(), now),
            [] if latest is None else _happened(await latest.fetchall(), wanted),
        )

    async def _consents(self, id_: str, rule: ConsentRule) -> Cursor:
        return await self._run(
            "consents",
            id=id_,
            source=rule.source,
            stream=rule.table,
            purpose=rule.purpose,
            granted=rule.granted,
        )

    async def _latest(self, id_: str, wanted: Details, now: Microseconds) -> Cursor | None:
        tables = {(one.source, one.table) for one in wanted.computed.values()}
        tables |= {(one.source, one.table) for one in wanted.lists.values()}
        if not tables or not wanted.latest:
            return None
        named = sorted(tables)
        return await self._run(
            "latest",
            id=id_,
            now=now,
            source=[source for source, _ in named],
            stream=[stream for _, stream in named],
            count=wanted.latest,
        )

    # ------------------------------------------------------------------ lists

    async def _listed(self, id_: str, wanted: NestedList) -> ListedRows:
        nothing = ListedRows((), more=False)
        if not wanted.open_to:
            return nothing
        cursor = await self._run("keys", id=id_, source=wanted.source, stream=wanted.table)
        keys = [key for (key,) in await cursor.fetchall()]
        cursor = await self._connection.execute(
            _TABLE, [self._tenant, wanted.source, wanted.table], prepare=True
        )
        table = await cursor.fetchone()
        if not keys or table is None:
            return nothing
        statement, values, named = _composed(wanted, keys, *table)
        try:
            cursor = await lenient_cursor(self._connection).execute(statement, values)
            rows = await cursor.fetchall()
        except (errors.UndefinedColumn, errors.UndefinedTable) as error:
            raise RetryableError(
                f"expected the live table {wanted.table!r} to keep its columns while it is read, "
                "but it has just changed: ask again"
            ) from error
        return ListedRows(
            [
                ListedRow(
                    dict(zip(wanted.columns, row, strict=True)), named[place - 1], Position(at)
                )
                for place, at, *row in rows[: wanted.limit]
            ],
            len(rows) > wanted.limit,
        )

    async def _run(self, statement: LiteralString, **parameters: Any) -> Cursor:
        return await self._connection.execute(
            SQL[statement],
            {"tenant": self._tenant, "kind": self._kind, **parameters},
            prepare=True,
        )


def _happened(rows: Sequence[Sequence[Any]], wanted: Details) -> list[Happened]:
    found = []
    for source, stream, at, text in rows:
        values = orjson.loads(text)
        shown = [name for name in wanted.columns(source, stream) if values.get(name)]
        found.append(Happened(source, stream, at, {name: values[name] for name in shown}))
    return found


def _composed(
    wanted: NestedList, keys: Sequence[str], schema: str, table: str, registered: Sequence[Any]
) -> tuple[sql.Composed, dict[str, Any], list[str]]:
    columns = [Column(*column) for column in registered]
    live = dict(zip([c.name for c in columns], live_columns(columns), strict=True))
    key_names = [live[column.name] for column in columns if column.key]
    whole = len(key_names) == len(columns)  # then a digest of the row stands for the key
    named, records = [], []
    for key in keys:
        parts = _parts(key, len(key_names))
        if parts is not None:
            named.append(key)
            names = [KEY] if whole else key_names
            said = key_texts([tuple(parts)]) if whole else parts
            records.append(dict(zip(names, said, strict=True)))
    values: dict[str, Any] = {"limit": wanted.limit + 1, "keys": Jsonb(records)}
    conditions: list[sql.Composable] = []
    for place, (column, texts) in enumerate(wanted.where):
        values[f"where{place}"] = list(texts)
        conditions.append(
            sql.SQL("{}::text = ANY ({}::text[])").format(
                sql.Identifier("t", live[column]), sql.Placeholder(f"where{place}")
            )
        )
    if wanted.rule is not None:  # whatever row-level security does besides
        values["rule"] = Jsonb(dict(wanted.rule))
        conditions.append(sql.SQL("penstock.row_readable(to_jsonb(t.*), %(rule)s)"))
    statement = sql.SQL(_ROWS).format(
        position=sql.Identifier(POSITION),
        shown=sql.SQL(", ").join(sql.Identifier("t", live[name]) for name in wanted.columns),
        table=sql.Identifier(schema, table),
        same_key=sql.SQL(" AND ").join(
            sql.SQL("t.{name} = w.{name}").format(name=sql.Identifier(name))
            for name in ([KEY] if whole else key_names)
        ),
        conditions=sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true"),
        order=_order(wanted, live),
    )
    return statement, values, named


def _order(wanted: NestedList, live: Mapping[str, str]) -> sql.Composable:
    if wanted.order is None:
        return sql.SQL("")
    way = sql.SQL("DESC NULLS LAST") if wanted.descending else sql.SQL("ASC NULLS LAST")
    return sql.SQL("{} {}, ").format(sql.Identifier("t", live[wanted.order]), way)


def _parts(key: str, count: int) -> list[str | None] | None:
    """The values of a key out of a record's name; None for one that goes by its digest."""
    if key.startswith("sha256:") and len(key) == len("sha256:") + 64:
        return None
    if count == 1 and not key.startswith("[null"):
        return [key]
    try:
        parts = orjson.loads(key)
    except orjson.JSONDecodeError:
        return None
    return parts if isinstance(parts, list) and len(parts) == count else None
