"""What says who reads and writes what, from settings."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from penstock.clock import Clock
from penstock.errors import MissingExtraError
from penstock.settings import LineageFileSettings, LineageHttpSettings, Settings
from penstock.telemetry import Meters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg_pool import AsyncConnectionPool

    from penstock.operate.lineage.jobs import LiveTable
    from penstock.operate.lineage.sending import Destination
    from penstock.operate.lineage.watching import Watch


def lineage(
    settings: Settings, pool: AsyncConnectionPool[Any], meters: Meters, clock: Clock, worker: str
) -> Watch | None:
    """What says it of this process; None where nobody wants to know."""
    chosen = settings.lineage
    if chosen is None:
        return None
    from penstock import __version__
    from penstock.operate.lineage.events import Voice
    from penstock.operate.lineage.jobs import Lineage
    from penstock.operate.lineage.sending import Sender
    from penstock.operate.lineage.watching import Watch

    return Watch(
        meters,
        Lineage(settings),
        Voice(chosen.namespace or "penstock", __version__),
        Sender(_destination(settings), clock, most=chosen.waiting),
        clock,
        worker=worker,
        tables=lambda: _tables(pool),
        every_s=chosen.every,
    )


def _destination(settings: Settings) -> Destination:
    from penstock.operate.lineage.sending import (
        FileDestination,
        HttpDestination,
        TopicDestination,
    )

    chosen = settings.lineage
    assert chosen is not None
    if isinstance(chosen, LineageFileSettings):
        return FileDestination(settings.path(chosen.path))
    if isinstance(chosen, LineageHttpSettings):
        from penstock.outbound import checked

        headers = {name: value.get_secret_value() for name, value in chosen.headers.items()}
        return HttpDestination(
            checked(chosen.url, private=chosen.private), headers, private=chosen.private
        )
    if find_spec("confluent_kafka") is None:
        raise MissingExtraError("lineage to Kafka", "kafka")
    from penstock.stores.kafka import KafkaDestination

    options = {name: value.get_secret_value() for name, value in chosen.options.items()}
    return TopicDestination(KafkaDestination(chosen.servers, options=options), chosen.topic)


async def _tables(pool: AsyncConnectionPool[Any]) -> Sequence[LiveTable]:
    from penstock.database.connect import translated
    from penstock.operate.lineage.jobs import LiveTable
    from penstock.stores.postgres.live_tables import all_tables

    with translated():
        async with pool.connection() as connection:
            found = await all_tables(connection)
    return [
        LiveTable(
            table.source,
            table.stream,
            table.schema_name,
            table.table_name,
            tuple((column.name, column.type) for column in table.columns),
        )
        for table in found
    ]
