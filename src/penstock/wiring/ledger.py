"""What keeps answers, from settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.settings import Settings

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from penstock.stores.postgres.ledger import PostgresLedger


def ledger(settings: Settings, pool: AsyncConnectionPool[Any]) -> PostgresLedger:
    """The ledger of the project's tenant."""
    from penstock.stores.postgres.ledger import PostgresLedger

    return PostgresLedger(pool, tenant=settings.tenant, contents=settings.ledger.content)
