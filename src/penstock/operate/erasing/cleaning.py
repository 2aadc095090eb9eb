"""What PostgreSQL keeps of deleted rows: dead versions in tables and indexes, samples of values in
its statistics, pages in the write-ahead log. All of it is written anew, or left to the operator by
name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import errors as pg
from psycopg import sql

from penstock.boundaries import Boundary, reach
from penstock.stores.postgres.erasing.registry import HOLDERS, LOG_TABLES
from penstock.stores.postgres.live_tables import all_tables

if TYPE_CHECKING:
    from penstock.project import Project

Connection = psycopg.AsyncConnection[Any]
Progress = Callable[[str], None]

_SPARE_SEGMENTS: Final = 3
_PATIENCE_S: Final = 60.0
_LOOK_S: Final = 0.1
_SEEING: Final = """
SELECT coalesce(nullif(application_name, ''), 'session ' || pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND datname = current_database() AND backend_xmin IS NOT NULL
  AND age(backend_xmin) > age(%s::xid8::xid)
UNION ALL SELECT 'prepared ' || gid FROM pg_prepared_xacts WHERE database = current_database()
"""


@dataclass
class Cleaned:
    """What was written anew, and what is left to the operator."""

    tables: int = 0
    steps: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


async def clean(project: Project, progress: Progress) -> Cleaned:
    """Rewrite every table that can hold somebody, and let go of the log that wrote of them."""
    cleaned = Cleaned()
    async with project.pool.connection() as connection:
        await _until_unseen(project, connection, cleaned)
        tables = await personal_tables(connection)
        superuser = await _is_superuser(connection)
        if superuser:
            await _forget_statistics(connection, tables)
        for schema, table in tables:
            progress(f"rewriting {schema}.{table}")
            reach(Boundary.ERASE, "before")
            await connection.execute(
                sql.SQL("VACUUM (FULL, ANALYZE) {}").format(sql.Identifier(schema, table))
            )
            reach(Boundary.ERASE, "after")
        cleaned.tables = len(tables)
        cleaned.steps.append("VACUUM (FULL, ANALYZE) of every table that can hold somebody")
        if superuser:
            await connection.execute("VACUUM FULL pg_statistic")
            cleaned.steps.append("samples of values in pg_statistic deleted and taken anew")
        else:
            cleaned.left.append("as a superuser: VACUUM FULL pg_statistic")
        await _let_go_of_wal(project, connection, cleaned, progress)
    cleaned.left.append("backups, archived WAL, standbys and snapshots of disks: remove or age out")
    return cleaned


async def _until_unseen(project: Project, connection: Connection, cleaned: Cleaned) -> None:
    """Wait for those who still see the state of before: a rewrite keeps it for them."""
    cursor = await connection.execute("SELECT pg_current_xact_id()::text")
    row = await cursor.fetchone()
    assert row is not None
    ends = project.clock.monotonic() + _PATIENCE_S
    while True:
        cursor = await connection.execute(_SEEING, [row[0]])
        seeing = [str(one) for (one,) in await cursor.fetchall()]
        if not seeing:
            return
        if project.clock.monotonic() > ends:
            cleaned.left.append(
                f"end what still sees the state of before ({', '.join(seeing)}), then erase again"
            )
            return
        await project.clock.sleep(_LOOK_S)


async def personal_tables(connection: Connection) -> list[tuple[str, str]]:
    """The tables that can hold somebody, by schema and name."""
    ours = [("penstock", table) for holder in HOLDERS for table in holder.tables]
    live = [(table.schema_name, table.table_name) for table in await all_tables(connection)]
    return [*(("penstock", table) for table in LOG_TABLES), *ours, *live]


async def _is_superuser(connection: Connection) -> bool:
    cursor = await connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    row = await cursor.fetchone()
    return bool(row and row[0])


async def _forget_statistics(connection: Connection, tables: Sequence[tuple[str, str]]) -> None:
    # ANALYZE of a table that is empty by now would leave what it knew of it.
    await connection.execute(
        "DELETE FROM pg_statistic WHERE starelid IN (SELECT c.oid FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace "
        "JOIN unnest(%s::text[], %s::text[]) w (schema, name) "
        "ON n.nspname = w.schema AND c.relname = w.name)",
        [[schema for schema, _ in tables], [name for _, name in tables]],
    )


async def _let_go_of_wal(
    project: Project, connection: Connection, cleaned: Cleaned, progress: Progress
) -> None:
    if project.server is None:
        cleaned.left.append(
            "as a superuser: set wal_recycle = off, CHECKPOINT, then pg_switch_wal() and "
            "CHECKPOINT until no segment of before is left in pg_wal"
        )
        return
    progress("letting go of the write-ahead log")
    await let_go_of_wal(connection)
    cleaned.steps.append("WAL switched and checkpointed without recycling old segments")
    cursor = await connection.execute("SELECT slot_name FROM pg_replication_slots")
    slots = [name for (name,) in await cursor.fetchall()]
    if slots:
        cleaned.left.append(f"replication slots that keep old WAL: {', '.join(slots)}")


async def let_go_of_wal(connection: Connection) -> None:
    """Old segments are deleted; those that were renamed for later use are written through."""
    try:
        await connection.execute("ALTER SYSTEM SET wal_recycle = off")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.execute("CHECKPOINT")
        cursor = await connection.execute("SELECT count(*) FROM pg_ls_waldir()")
        row = await cursor.fetchone()
        for _ in range((row[0] if row else 0) + _SPARE_SEGMENTS):
            await connection.execute("SELECT pg_logical_emit_message(false, 'penstock', '')")
            await connection.execute("SELECT pg_switch_wal()")
        await connection.execute("CHECKPOINT")
        await connection.execute("CHECKPOINT")  # the first may have been another's
    finally:
        try:
            await connection.execute("ALTER SYSTEM RESET wal_recycle")
            await connection.execute("SELECT pg_reload_conf()")
        except (pg.AdminShutdown, psycopg.OperationalError):
            pass  # the server went away: the next cleaning resets it
