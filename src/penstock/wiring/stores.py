"""The database, the log and the stores, from settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.clock import Clock
from penstock.settings import KafkaLogSettings, OpenSearchSettings, Settings

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from penstock.database.embedded import EmbeddedPostgres
    from penstock.log.base import Consumers, Log
    from penstock.stores.chunk_index import ChunkIndex
    from penstock.stores.keys import KeyStore
    from penstock.stores.postgres.search import PostgresSnapshotStore
    from penstock.stores.postgres.store import PostgresStore
    from penstock.stores.postgres.upkeep import Upkeep
    from penstock.stores.publishing import PublishingStore
    from penstock.stores.second.following import Follower
    from penstock.stores.second.search import FollowedSnapshots


def embedded_postgres(settings: Settings) -> EmbeddedPostgres:
    """The supervisor of the project's own database."""
    from penstock.database.embedded import EmbeddedPostgres

    return EmbeddedPostgres(settings.path(settings.data) / "database")


def log(
    settings: Settings,
    pool: AsyncConnectionPool[Any],
    dsn: str,
    clock: Clock,
    consumers: Consumers,
) -> Log:
    """The log: in the project's database, or on Kafka."""
    chosen = settings.log
    if isinstance(chosen, KafkaLogSettings):
        from penstock.log.kafka.log import KafkaLog, KafkaSettings

        return KafkaLog(
            KafkaSettings(
                chosen.bootstrap_servers,
                prefix=log_prefix(settings.project, chosen),
                replication=chosen.replication,
                options={n: value.get_secret_value() for n, value in chosen.options.items()},
            ),
            consumers=consumers,
        )
    from penstock.log.embedded import EmbeddedLog

    return EmbeddedLog(pool, dsn, tenant=settings.tenant, clock=clock)


def log_prefix(project: str, chosen: KafkaLogSettings) -> str:
    """What our names in Kafka begin with."""
    return chosen.prefix or f"penstock.{project}."


def store(settings: Settings, pool: AsyncConnectionPool[Any]) -> PostgresStore:
    """The write side: live tables, knowledge base, positions, dead letters."""
    from penstock.stores.postgres.store import PostgresStore

    return PostgresStore(pool, tenant=settings.tenant, language=settings.knowledge.language)


def consumers(settings: Settings, pool: AsyncConnectionPool[Any]) -> Consumers:
    """What a log is told of its readers, and tells of itself."""
    from penstock.stores.postgres.consumers import PostgresConsumers

    return PostgresConsumers(pool, tenant=settings.tenant)


def snapshots(
    settings: Settings, pool: AsyncConnectionPool[Any]
) -> PostgresSnapshotStore | FollowedSnapshots:
    """The read side."""
    from penstock.stores.postgres.resident import Residents
    from penstock.stores.postgres.search import PostgresSnapshotStore
    from penstock.stores.second.search import FollowedSnapshots

    memory = Residents(pool, megabytes=settings.knowledge.memory)
    own = PostgresSnapshotStore(pool, language=settings.knowledge.language, memory=memory)
    if settings.knowledge.search == "postgres":
        return own
    return FollowedSnapshots(own, follower(settings, settings.knowledge.search, pool))


def follower(settings: Settings, name: str, pool: AsyncConnectionPool[Any]) -> Follower:
    """What brings a second store in step."""
    from penstock.stores.second.following import Follower

    return Follower(
        pool,
        _chunk_index(settings, name),
        name=name,
        tenant=settings.tenant,
    )


def followers(settings: Settings, pool: AsyncConnectionPool[Any]) -> list[Follower]:
    """What brings the second stores in step, one for each."""
    return [follower(settings, name, pool) for name in settings.knowledge.stores]


def _chunk_index(settings: Settings, name: str) -> ChunkIndex:
    chosen = settings.knowledge.stores[name]
    if isinstance(chosen, OpenSearchSettings):
        from penstock.stores.opensearch import OpenSearchIndex

        return OpenSearchIndex(
            chosen.url,
            chosen.index or f"penstock-{settings.project}".lower(),
            username=chosen.username,
            password=chosen.password.get_secret_value(),
            engine=chosen.engine,
            shards=chosen.shards,
            replicas=chosen.replicas,
        )
    from penstock.stores.lancedb import LanceDBIndex

    uri = chosen.uri if "://" in chosen.uri else str(settings.path(Path(chosen.uri)))
    return LanceDBIndex(uri, chosen.table)


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


def api_keys(pool: AsyncConnectionPool[Any]) -> KeyStore:
    """Where the keys of applications are kept."""
    from penstock.stores.postgres.api_keys import PostgresKeys

    return PostgresKeys(pool)
