"""SQL by hand: read-only, as the role that serves, with a time limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.project import Project

TIME_LIMIT = "30s"


async def run_query(project: Project, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Columns and rows of one query; the database refuses whatever would write."""
    async with (
        project.pool.connection() as connection,
        connection.transaction(force_rollback=True),
    ):
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        await connection.execute(
            "SELECT set_config('role', 'penstock_reader', true), "
            "set_config('penstock.tenant', %s, true), set_config('statement_timeout', %s, true)",
            [project.settings.tenant, TIME_LIMIT],
        )
        try:
            # Prepared, so that it is one statement: nothing can follow it outside the transaction.
            cursor = await connection.execute(query.encode(), prepare=True)
            rows = await cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            said = error.diag.message_primary or str(error).strip()
            hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
            raise ConfigError(
                f"expected a query that the database can run, it says: {said}{hint}"
            ) from error
        columns = [column.name for column in cursor.description or ()]
        return columns, rows
