"""The database, the log and the stores, from settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.clock import Clock
from penstock.settings import Settings

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from penstock.database.embedded import EmbeddedPostgres
    from penstock.log.embedded import EmbeddedLog
    from penstock.stores.postgres.search import PostgresSnapshotStore
    from penstock.stores.postgres.store import PostgresStore
    from penstock.stores.postgres.upkeep import Upkeep
    from penstock.stores.publishing import PublishingStore


def embedded_postgres(settings: Settings) -> EmbeddedPostgres:
    """The supervisor of the project's own database."""
    from penstock.database.embedded import EmbeddedPostgres

    return EmbeddedPostgres(settings.path(settings.data) / "database")


def log(settings: Settings, pool: AsyncConnectionPool[Any], dsn: str, clock: Clock) -> EmbeddedLog:
    """The log in the project's database."""
    from penstock.log.embedded import EmbeddedLog

    return EmbeddedLog(pool, dsn, tenant=settings.tenant, clock=clock)


def store(settings: Settings, pool: AsyncConnectionPool[Any]) -> PostgresStore:
    """The write side: live tables, knowledge base, positions, dead letters."""
    from penstock.stores.postgres.store import PostgresStore

    return PostgresStore(pool, tenant=settings.tenant, language=settings.knowledge.language)


def snapshots(settings: Settings, pool: AsyncConnectionPool[Any]) -> PostgresSnapshotStore:
    """The read side."""
    from penstock.stores.postgres.search import PostgresSnapshotStore

    return PostgresSnapshotStore(pool, language=settings.knowledge.language)


def upkeep(settings: Settings, pool: AsyncConnectionPool[Any], store: PostgresStore) -> Upkeep:
    """What keeps the stores' statistics and indexes in shape."""
    from penstock.stores.postgres.upkeep import Upkeep

    return Upkeep(pool, store=store, tenant=settings.tenant)


def publishing(settings: Settings, store: PostgresStore) -> PublishingStore[PostgresStore]:
    """The write side with the destinations of what is published."""
    from penstock.stores.kafka import KafkaDestination
    from penstock.stores.publishing import PublishingStore

    return PublishingStore(
        store,
        {
            name: KafkaDestination(
                chosen.servers,
                options={
                    option: value.get_secret_value() for option, value in chosen.options.items()
                },
            )
            for name, chosen in settings.publish.items()
        },
    )
