"""Take away what Penstock made, in the sources and in the project's database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from penstock import wiring
from penstock.database.project_lock import hold_project_alone
from penstock.errors import PenstockError
from penstock.log.base import DroppableLog
from penstock.sources.base import DroppableSource

if TYPE_CHECKING:
    from penstock.project import Project


async def drop(project: Project) -> list[str]:
    """Remove slots, publications, live tables and everything of ours; what was removed, in words.

    A source that cannot be reached is named, and does not keep the rest from being removed.
    """
    removed: list[str] = []
    async with hold_project_alone(project.dsn, project.settings.project):
        for name in project.settings.sources:
            source = wiring.source(project.settings, name, project.clock)
            if isinstance(source, DroppableSource):
                try:
                    removed += await source.drop()
                except PenstockError as error:
                    removed.append(f"nothing at source {name}: {error}")
            await source.close()
        if isinstance(project.log, DroppableLog):
            try:
                removed += await project.log.drop()
            except PenstockError as error:
                removed.append(f"nothing of the log: {error}")
        removed += await _drop_schemas(project)
    return removed


async def _drop_schemas(project: Project) -> list[str]:
    async with project.pool.connection() as connection, connection.transaction():
        cursor = await connection.execute(
            "SELECT schema_name, table_name FROM penstock.live_tables ORDER BY 1, 2"
        )
        tables = await cursor.fetchall()
        removed = []
        for schema, table in tables:
            await connection.execute(
                sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(schema, table))
            )
            removed.append(f"live table {schema}.{table}")
        for schema in sorted({schema for schema, _ in tables}):
            # RESTRICT: what somebody else has put into the schema stays, and says so.
            await connection.execute(
                sql.SQL("DROP SCHEMA IF EXISTS {} RESTRICT").format(sql.Identifier(schema))
            )
        await connection.execute("DROP SCHEMA penstock CASCADE")
        return [*removed, "schema penstock (log, knowledge base, positions)"]
