"""Sources, from settings: one function per kind, which imports its adapter when asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from penstock.clock import Clock
from penstock.settings import (
    FilesSettings,
    KafkaSettings,
    NatsSettings,
    PostgresSettings,
    RedisSettings,
    RowSourceSettings,
    Settings,
)
from penstock.wiring.topics import kafka_source, nats_source, redis_source

if TYPE_CHECKING:
    from penstock.serving.context import RowView
    from penstock.sources.base import Source
    from penstock.sources.files.source import FilesSource
    from penstock.sources.postgres.source import PostgresSource


def source(settings: Settings, name: str, clock: Clock) -> Source:
    """One source of the project."""
    chosen = settings.sources[name]
    return _MAKERS[type(chosen)](settings, name, chosen, clock)


def _postgres(
    settings: Settings, name: str, chosen: PostgresSettings, clock: Clock
) -> PostgresSource:
    from penstock.sources.postgres.source import PostgresSource

    slot = chosen.slot or f"penstock_{settings.project}_{name}"[:63]
    return PostgresSource(
        name,
        chosen.dsn.get_secret_value(),
        list(chosen.tables),
        slot=slot,
        publication=chosen.publication or slot,
        clock=clock,
        heartbeat_s=chosen.heartbeat,
    )


def _files(settings: Settings, name: str, chosen: FilesSettings, clock: Clock) -> FilesSource:
    from penstock.sources.files.patterns import HIDDEN_AND_TEMPORARY
    from penstock.sources.files.source import FilesSource

    return FilesSource(
        name,
        settings.path(chosen.path),
        include=chosen.include,
        exclude=[*HIDDEN_AND_TEMPORARY, *chosen.exclude],
        max_bytes=chosen.max_size,
        clock=clock,
        heartbeat_s=chosen.heartbeat,
        rescan_s=chosen.rescan,
    )


_MAKERS: dict[type[Any], Callable[[Settings, str, Any, Clock], Source]] = {
    PostgresSettings: _postgres,
    FilesSettings: _files,
    KafkaSettings: kafka_source,
    RedisSettings: redis_source,
    NatsSettings: nats_source,
}


def row_views(settings: Settings) -> dict[tuple[str, str], RowView]:
    """What a context shows of each live table's rows."""
    from penstock.serving.context import RowView

    return {
        (name, chosen.stream(table)): RowView(
            searched=tuple(wanted.searched),
            shown=None if wanted.shown is None else tuple(wanted.shown),
            title=wanted.title,
        )
        for name, chosen in settings.sources.items()
        if isinstance(chosen, RowSourceSettings)
        for table, wanted in chosen.tables.items()
    }
