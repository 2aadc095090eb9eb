"""What the source's catalogue says: the server, its tables, their columns and types, our slot.

Each function is one statement on an ordinary connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import class_row, tuple_row

from penstock.errors import SourceError
from penstock.sources.postgres.connections import translate
from penstock.sources.postgres.decoder import Relation, RelationColumn
from penstock.sources.postgres.positions import parse_lsn


@dataclass(frozen=True, slots=True)
class Server:
    """Settings and rights that capture depends on."""

    version: int
    wal_level: str
    in_recovery: bool
    encoding: str
    database: str
    role: str
    may_replicate: bool
    may_create: bool
    max_slots: int
    used_slots: int
    max_senders: int
    used_senders: int
    wal_sender_timeout_ms: int
    wal_writer_delay_ms: int
    max_slot_wal_keep_mb: int
    segment_bytes: int


_SERVER: Final[LiteralString] = """
SELECT current_setting('server_version_num')::integer AS version,
       current_setting('wal_level') AS wal_level,
       pg_is_in_recovery() AS in_recovery,
       current_setting('server_encoding') AS encoding,
       current_database()::text AS database,
       current_user::text AS role,
       EXISTS (SELECT FROM pg_roles r WHERE pg_has_role(r.oid, 'MEMBER')
               AND ((r.rolname = current_user AND (r.rolsuper OR r.rolreplication))
                    OR r.rolname IN ('rds_replication', 'azure_pg_admin', 'cloudsqlsuperuser')))
           AS may_replicate,
       has_database_privilege(current_database(), 'CREATE') AS may_create,
       current_setting('max_replication_slots')::integer AS max_slots,
       (SELECT count(*)::integer FROM pg_replication_slots) AS used_slots,
       current_setting('max_wal_senders')::integer AS max_senders,
       (SELECT count(*)::integer FROM pg_stat_replication) AS used_senders,
       (SELECT setting::integer FROM pg_settings WHERE name = 'wal_sender_timeout')
           AS wal_sender_timeout_ms,
       (SELECT setting::integer FROM pg_settings WHERE name = 'wal_writer_delay')
           AS wal_writer_delay_ms,
       (SELECT setting::integer FROM pg_settings WHERE name = 'max_slot_wal_keep_size')
           AS max_slot_wal_keep_mb,
       (SELECT setting::integer FROM pg_settings WHERE name = 'wal_segment_size')
           AS segment_bytes
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A relation that might be captured. ``key`` is what its changes will be keyed by."""

    oid: int
    namespace: str
    name: str
    kind: str
    persistence: str
    is_partition: bool
    visible: bool
    readable: bool
    owned: bool
    identity: str
    primary_key: list[str] | None
    key: list[str] | None
    rows: float

    @property
    def stream(self) -> str:
        """How changes of this table name it."""
        return f"{self.namespace}.{self.name}"


_TABLES: Final[LiteralString] = """
SELECT c.oid::bigint AS oid, n.nspname::text AS namespace, c.relname::text AS name,
       c.relkind::text AS kind, c.relpersistence::text AS persistence,
       c.relispartition AS is_partition, pg_table_is_visible(c.oid) AS visible,
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS readable,
       pg_has_role(c.relowner, 'USAGE') AS owned, c.relreplident::text AS identity,
       pk.columns AS primary_key,
       CASE c.relreplident
           WHEN 'd' THEN CASE WHEN pk.immediate THEN pk.columns END
           WHEN 'i' THEN ri.columns
           WHEN 'f' THEN coalesce(pk.columns, ARRAY(
               SELECT a.attname::text FROM pg_attribute a
               WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
               ORDER BY a.attnum))
       END AS key,
       c.reltuples::double precision AS rows
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT i.indimmediate AS immediate, ARRAY(
        SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS k (number, place)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
        WHERE k.place <= i.indnkeyatts ORDER BY k.place) AS columns
    FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) AS pk ON true
LEFT JOIN LATERAL (
    SELECT ARRAY(
        SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS k (number, place)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
        WHERE k.place <= i.indnkeyatts ORDER BY k.place) AS columns
    FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident) AS ri ON true
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname !~ '^pg_(toast|temp)'
  AND (%(streams)s::text[] IS NULL OR n.nspname || '.' || c.relname = ANY (%(streams)s))
ORDER BY n.nspname, c.relname
"""

_PUBLISHED: Final[LiteralString] = """
SELECT c.oid::bigint, p.rowfilter
FROM pg_publication_tables p
JOIN pg_namespace n ON n.nspname = p.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
WHERE p.pubname = %s
"""

_COLUMNS: Final[LiteralString] = """
SELECT a.attname::text, a.atttypid::bigint, a.atttypmod,
       c.relreplident = 'f' OR EXISTS (
           SELECT FROM pg_index i
           WHERE i.indrelid = c.oid AND i.indimmediate
             AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
             AND CASE c.relreplident WHEN 'd' THEN i.indisprimary
                                     WHEN 'i' THEN i.indisreplident ELSE false END)
FROM pg_publication_tables p
JOIN pg_namespace n ON n.nspname = p.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = ANY (p.attnames)
    -- Early releases of 15 list generated columns, which they do not send.
    AND (a.attgenerated = '' OR current_setting('server_version_num')::integer >= 180000)
WHERE p.pubname = %s AND c.oid = %s
ORDER BY a.attnum
"""

_COLUMN_NAMES: Final[LiteralString] = """
SELECT n.nspname || '.' || c.relname, array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname !~ '^pg_(toast|temp)'
GROUP BY n.nspname, c.relname
"""

# A domain stands for its base type and an array for its elements; what is not built in, and what
# names objects of this very server (regclass and its kin), is text elsewhere. So is xml: a server
# may be built without it.
_TYPES: Final[LiteralString] = """
WITH RECURSIVE resolved (type, modifier, base, base_modifier, depth) AS (
    SELECT w.type, w.modifier, w.type, w.modifier, 0
    FROM unnest(%s::bigint[], %s::integer[]) AS w (type, modifier)
    UNION ALL
    SELECT r.type, r.modifier,
           CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE e.oid END::bigint,
           CASE WHEN t.typtype = 'd' AND t.typtypmod <> -1 THEN t.typtypmod
                ELSE r.base_modifier END,
           CASE WHEN t.typtype = 'd' THEN r.depth ELSE r.depth + 1 END
    FROM resolved r
    JOIN pg_type t ON t.oid = r.base::oid
    LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
    WHERE t.typtype = 'd' OR e.oid IS NOT NULL)
SELECT r.type, r.modifier,
       CASE WHEN r.depth < 2 AND t.typnamespace = 'pg_catalog'::regnamespace
             AND t.typtype IN ('b', 'r', 'm') AND t.typname !~ '^reg'
             AND t.typname NOT IN ('xml', 'aclitem', 'gtsvector')
             AND (t.typname !~ '^pg_' OR t.typname IN ('pg_lsn', 'pg_snapshot'))
            THEN format_type(t.oid, r.base_modifier) ELSE 'text' END
       || CASE WHEN r.depth > 0 THEN '[]' ELSE '' END
FROM resolved r
JOIN pg_type t ON t.oid = r.base::oid
LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
WHERE t.typtype <> 'd' AND e.oid IS NULL
"""

_PRIMARY_KEY: Final[LiteralString] = """
SELECT a.attname::text
FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k (number, place)
JOIN pg_attribute a ON a.attnum = k.number
WHERE i.indrelid = %s AND i.indisprimary AND a.attrelid = i.indrelid AND k.place <= i.indnkeyatts
ORDER BY k.place
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot as the server shows it."""

    name: str
    plugin: str | None
    database: str | None
    active_pid: int | None
    restart_lsn: int | None
    confirmed_lsn: int | None
    wal_status: str | None
    invalid: str | None
    retained_bytes: int
    safe_wal_bytes: int | None
    failover: bool = False
    synced: bool = False


_SLOT: Final[LiteralString] = """
SELECT s.slot_name::text, s.plugin::text, s.database::text, s.active_pid, s.restart_lsn::text,
       s.confirmed_flush_lsn::text, s.wal_status,
       coalesce(to_jsonb(s) ->> 'invalidation_reason',
                CASE WHEN (to_jsonb(s) ->> 'conflicting')::boolean THEN 'conflict' END),
       CASE WHEN pg_is_in_recovery() THEN 0
            ELSE coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0) END::bigint,
       s.safe_wal_size,
       coalesce((to_jsonb(s) ->> 'failover')::boolean, false),
       coalesce((to_jsonb(s) ->> 'synced')::boolean, false)
FROM pg_replication_slots s WHERE s.slot_name = %s
"""


async def fetch(
    connection: psycopg.AsyncConnection,
    what: str,
    statement: LiteralString,
    parameters: Sequence[Any] | None = None,
) -> list[tuple[Any, ...]]:
    """All rows of a statement, errors translated."""
    try:
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(statement, parameters)
            return await cursor.fetchall()
    except psycopg.Error as error:
        raise translate(error, what) from error


async def fetch_server(connection: psycopg.AsyncConnection, what: str) -> Server:
    """The server's settings and our rights."""
    try:
        async with connection.cursor(row_factory=class_row(Server)) as cursor:
            await cursor.execute(_SERVER)
            server = await cursor.fetchone()
    except psycopg.Error as error:
        raise translate(error, what) from error
    assert server is not None
    return server


async def fetch_tables(
    connection: psycopg.AsyncConnection, what: str, streams: Sequence[str] | None = None
) -> list[Table]:
    """All relations that are not the system's own, or those of these names."""
    try:
        async with connection.cursor(row_factory=class_row(Table)) as cursor:
            await cursor.execute(_TABLES, {"streams": None if streams is None else list(streams)})
            return await cursor.fetchall()
    except psycopg.Error as error:
        raise translate(error, what) from error


async def fetch_published(
    connection: psycopg.AsyncConnection, what: str, publication: str
) -> dict[int, str | None]:
    """The tables of a publication by oid, each with its row filter if it has one."""
    return dict(await fetch(connection, what, _PUBLISHED, (publication,)))


async def fetch_relation(
    connection: psycopg.AsyncConnection, what: str, publication: str, table: Table
) -> Relation:
    """The table's shape as the replication stream will describe it."""
    columns = await fetch(connection, what, _COLUMNS, (publication, table.oid))
    return Relation(
        table.oid,
        table.namespace,
        table.name,
        table.identity,
        tuple(RelationColumn(*column) for column in columns),
    )


async def fetch_column_names(
    connection: psycopg.AsyncConnection, what: str
) -> dict[str, list[str]]:
    """The columns of all tables, by stream."""
    return dict(await fetch(connection, what, _COLUMN_NAMES))


async def fetch_types(
    connection: psycopg.AsyncConnection, what: str, wanted: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], str]:
    """SQL names of types, given as type oid and modifier; types that are gone are text."""
    rows = await fetch(
        connection, what, _TYPES, ([oid for oid, _ in wanted], [modifier for _, modifier in wanted])
    )
    found = {(oid, modifier): name for oid, modifier, name in rows}
    return {pair: found.get(pair, "text") for pair in wanted}


async def fetch_primary_key(
    connection: psycopg.AsyncConnection, what: str, oid: int
) -> tuple[str, ...]:
    """The columns of a table's primary key, in its order; empty when there is none."""
    return tuple(name for (name,) in await fetch(connection, what, _PRIMARY_KEY, (oid,)))


async def fetch_slot(connection: psycopg.AsyncConnection, what: str, name: str) -> Slot | None:
    """The slot of that name."""
    rows = await fetch(connection, what, _SLOT, (name,))
    if not rows:
        return None
    values = list(rows[0])
    for place in (4, 5):
        values[place] = None if values[place] is None else parse_lsn(values[place])
    if values[6] == "lost" and values[7] is None:
        values[7] = "the WAL it needs is gone"
    return Slot(*values)


def choose_tables(patterns: Sequence[str], tables: Sequence[Table], source: str) -> list[Table]:
    """The tables that the project names (``flights``, ``public.flights`` or ``public.*``).

    A pattern takes whole tables only: not the partitions of a partitioned table, no views, nothing
    that is not logged. Raises `SourceError` when a name or pattern finds nothing that can be
    captured.
    """
    chosen: dict[int, Table] = {}
    for pattern in patterns:
        if any(mark in pattern for mark in "*?["):
            found = [
                table
                for table in tables
                if fnmatchcase(table.stream, pattern)
                and table.kind in "rp"
                and table.persistence == "p"
                and not table.is_partition
            ]
        else:
            found = [
                table
                for table in tables
                if table.stream == pattern or (table.visible and table.name == pattern)
            ]
        if not found:
            raise SourceError(_not_found(pattern, tables, source), source=source, table=pattern)
        chosen.update((table.oid, table) for table in found)
    for table in chosen.values():
        _refuse_what_cannot_be_captured(table, source)
    return list(chosen.values())


def _not_found(pattern: str, tables: Sequence[Table], source: str) -> str:
    have = ", ".join(repr(table.stream) for table in tables if table.kind in "rp")[:300] or "none"
    return (
        f"expected a table {pattern!r} in source {source!r}, got these: {have}; mend the name in "
        "the project file, or make the table"
    )


def _refuse_what_cannot_be_captured(table: Table, source: str) -> None:
    named = f"table {table.stream!r} of source {source!r}"
    facts = {"source": source, "table": table.stream}
    if table.kind not in "rp":
        raise SourceError(
            f"expected a table, got a view or foreign table for {named}: name the tables under it",
            **facts,
        )
    if table.persistence != "p":
        raise SourceError(
            f"expected {named} to be logged, got an unlogged or temporary one: "
            "ALTER TABLE ... SET LOGGED",
            **facts,
        )
    if not table.readable:
        raise SourceError(
            f"expected the right to read {named}, got none: GRANT USAGE ON SCHEMA and GRANT SELECT "
            "ON the table to the role of the DSN",
            **facts,
        )
    if not table.key:
        raise SourceError(
            f"expected a key on {named}, got none (replica identity {table.identity!r}): add a "
            "primary key, or ALTER TABLE ... REPLICA IDENTITY FULL",
            **facts,
        )
