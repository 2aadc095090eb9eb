"""Sources, from settings: one function per kind, which imports its adapter when asked."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from penstock.clock import Clock
from penstock.settings import (
    AmazonSettings,
    DeclaredRowsSettings,
    DynamoDBSettings,
    FilesSettings,
    InteractionsSettings,
    KafkaSettings,
    KinesisSettings,
    MetadataPermissions,
    MySQLSettings,
    NatsSettings,
    ObjectsSettings,
    PostgresSettings,
    ProfileEventsSettings,
    PushedPermissions,
    PushSettings,
    RedisSettings,
    RowSourceSettings,
    Settings,
    SidecarPermissions,
    WebhookDocumentsSettings,
    WebhookSettings,
)
from penstock.wiring.permissions import row_rule
from penstock.wiring.topics import kafka_source, nats_source, redis_source

if TYPE_CHECKING:
    from penstock.serving.items import RowView
    from penstock.serving.tables import TableReader
    from penstock.sources.amazon import AmazonAccess
    from penstock.sources.base import Source
    from penstock.sources.dynamodb.source import DynamoDBSource
    from penstock.sources.files.source import FilesSource
    from penstock.sources.formats.declared import DeclaredStream
    from penstock.sources.kinesis.source import KinesisSource
    from penstock.sources.mysql.source import MySQLSource
    from penstock.sources.objects.source import ObjectsSource
    from penstock.sources.postgres.source import PostgresSource
    from penstock.sources.push import PushSource
    from penstock.sources.webhook.payloads import Payloads
    from penstock.sources.webhook.source import WebhookSource
    from penstock.stores.base import SnapshotStore


def source(
    settings: Settings, name: str, clock: Clock, dsn: Callable[[], str] | None = None
) -> Source:
    """One source of the project. ``dsn`` gives the address of the project's own database, once it
    runs."""
    chosen = settings.sources[name]
    if isinstance(chosen, InteractionsSettings):
        from penstock.sources.interactions import InteractionsSource

        return InteractionsSource(
            name,
            dsn or (lambda: settings.database),
            tenant=settings.tenant,
            clock=clock,
            heartbeat_s=chosen.heartbeat,
        )
    if isinstance(chosen, ProfileEventsSettings):
        from penstock.sources.profile_events import ProfileEventsSource

        return ProfileEventsSource(
            name,
            dsn or (lambda: settings.database),
            tenant=settings.tenant,
            kind=chosen.kind,
            streams=chosen.tables,
            clock=clock,
            heartbeat_s=chosen.heartbeat,
        )
    return _MAKERS[type(chosen)](settings, name, chosen, clock)


def _postgres(
    settings: Settings, name: str, chosen: PostgresSettings, clock: Clock
) -> PostgresSource:
    from penstock.sources.postgres.options import PostgresOptions
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
        options=PostgresOptions(
            failover=chosen.failover,
            wal_budget_bytes=chosen.retained_wal,
            messages=chosen.messages,
            own_origin_only=chosen.origin == "none",
        ),
    )


def _mysql(settings: Settings, name: str, chosen: MySQLSettings, clock: Clock) -> MySQLSource:
    from penstock.sources.mysql.source import MySQLSource

    # High numbers are seldom those of servers.
    usual = 0x50000000 + zlib.crc32(f"{settings.project}/{name}".encode()) % 0x10000000
    return MySQLSource(
        name,
        chosen.dsn.get_secret_value(),
        [chosen.stream(table) for table in chosen.tables],
        server_id=chosen.server_id or usual,
        clock=clock,
        heartbeat_s=chosen.heartbeat,
    )


def _files(settings: Settings, name: str, chosen: FilesSettings, clock: Clock) -> FilesSource:
    from penstock.sources.documents.patterns import HIDDEN_AND_TEMPORARY
    from penstock.sources.extract import ChildExtractor, Limits
    from penstock.sources.files.source import FilesSource

    return FilesSource(
        name,
        settings.path(chosen.path),
        include=chosen.include,
        exclude=[*HIDDEN_AND_TEMPORARY, *chosen.exclude],
        sidecars=isinstance(chosen.permissions, SidecarPermissions),
        max_bytes=chosen.max_size,
        images=chosen.images,
        extractor=ChildExtractor(Limits(ocr_s=chosen.ocr_limit)),
        clock=clock,
        heartbeat_s=chosen.heartbeat,
        rescan_s=chosen.rescan,
    )


def _access(chosen: AmazonSettings) -> AmazonAccess:
    from penstock.sources.amazon import AmazonAccess

    secret, token = chosen.secret_key, chosen.session_token
    return AmazonAccess(
        chosen.region,
        chosen.endpoint,
        chosen.access_key,
        secret.get_secret_value() if secret else None,
        token.get_secret_value() if token else None,
    )


def _objects(settings: Settings, name: str, chosen: ObjectsSettings, clock: Clock) -> ObjectsSource:
    from penstock.sources.documents.patterns import HIDDEN_AND_TEMPORARY
    from penstock.sources.extract import ChildExtractor, Limits
    from penstock.sources.objects import ListKeys, ObjectsSource, Place

    del settings
    said = chosen.permissions
    return ObjectsSource(
        name,
        Place(chosen.bucket, chosen.prefix),
        access=_access(chosen),
        queue=chosen.queue,
        include=chosen.include,
        exclude=[*HIDDEN_AND_TEMPORARY, *chosen.exclude],
        sidecars=isinstance(said, SidecarPermissions),
        lists=ListKeys(said.allow, said.deny) if isinstance(said, MetadataPermissions) else None,
        max_bytes=chosen.max_size,
        images=chosen.images,
        extractor=ChildExtractor(Limits(ocr_s=chosen.ocr_limit)),
        relist_s=chosen.relist,
        clock=clock,
    )


def _declared(chosen: DeclaredRowsSettings) -> dict[str, DeclaredStream]:
    from penstock.sources.formats.declared import DeclaredStream

    return {
        chosen.stream(table): DeclaredStream(
            chosen.stream(table), tuple(wanted.key), tuple(wanted.columns.items())
        )
        for table, wanted in chosen.tables.items()
    }


def _webhook(settings: Settings, name: str, chosen: WebhookSettings, clock: Clock) -> WebhookSource:
    from penstock.sources.webhook import RowPayloads

    del settings
    payloads = RowPayloads(name, _declared(chosen), chosen.op_field)
    return _receiver(name, payloads, chosen, clock)


def _webhook_documents(
    settings: Settings, name: str, chosen: WebhookDocumentsSettings, clock: Clock
) -> WebhookSource:
    from penstock.sources.documents.patterns import Patterns
    from penstock.sources.webhook import DocumentPayloads

    del settings
    sidecars = isinstance(chosen.permissions, SidecarPermissions)
    patterns = Patterns(chosen.include, chosen.exclude, sidecars=sidecars)
    payloads = DocumentPayloads(name, patterns)
    return _receiver(name, payloads, chosen, clock)


def _receiver(
    name: str,
    payloads: Payloads,
    chosen: WebhookSettings | WebhookDocumentsSettings,
    clock: Clock,
) -> WebhookSource:
    from penstock.sources.inbox import Bounds
    from penstock.sources.webhook import WebhookSource

    return WebhookSource(
        name,
        payloads,
        [secret.get_secret_value() for secret in chosen.secret],
        bounds=Bounds(keep_ids_s=max(chosen.remember, Bounds().replay_window_s)),
        max_bytes=chosen.max_size,
        clock=clock,
        heartbeat_s=chosen.heartbeat,
    )


def _push(settings: Settings, name: str, chosen: PushSettings, clock: Clock) -> PushSource:
    from penstock.sources.documents.patterns import Patterns
    from penstock.sources.inbox import Bounds
    from penstock.sources.push import PushSource

    del settings
    return PushSource(
        name,
        Patterns(chosen.include, chosen.exclude),
        listed=isinstance(chosen.permissions, PushedPermissions),
        bounds=Bounds(keep_ids_s=max(chosen.remember, Bounds().replay_window_s)),
        max_bytes=chosen.max_size,
        clock=clock,
        heartbeat_s=chosen.heartbeat,
    )


def _dynamodb(
    settings: Settings, name: str, chosen: DynamoDBSettings, clock: Clock
) -> DynamoDBSource:
    from penstock.sources.dynamodb import DynamoDBSource

    del settings
    ((table, wanted),) = chosen.tables.items()
    return DynamoDBSource(
        name,
        table,
        access=_access(chosen),
        columns=wanted.columns,
        on_gap=chosen.on_gap,
        poll_s=chosen.poll,
        heartbeat_s=chosen.heartbeat,
        clock=clock,
    )


def _kinesis(settings: Settings, name: str, chosen: KinesisSettings, clock: Clock) -> KinesisSource:
    from penstock.sources.kinesis import KinesisSource, RecordRows

    del settings
    return KinesisSource(
        name,
        chosen.stream_name,
        RecordRows(name, _declared(chosen), chosen.op_field, chosen.table_field),
        access=_access(chosen),
        on_gap=chosen.on_gap,
        poll_s=chosen.poll,
        heartbeat_s=chosen.heartbeat,
        clock=clock,
    )


_MAKERS: dict[type[Any], Callable[[Settings, str, Any, Clock], Source]] = {
    PostgresSettings: _postgres,
    MySQLSettings: _mysql,
    FilesSettings: _files,
    ObjectsSettings: _objects,
    WebhookSettings: _webhook,
    WebhookDocumentsSettings: _webhook_documents,
    PushSettings: _push,
    DynamoDBSettings: _dynamodb,
    KinesisSettings: _kinesis,
    KafkaSettings: kafka_source,
    RedisSettings: redis_source,
    NatsSettings: nats_source,
}


def table_reader(settings: Settings, snapshots: SnapshotStore, clock: Clock) -> TableReader:
    """What gives rows of live tables to applications."""
    from penstock.serving.tables import TableReader

    return TableReader(snapshots, clock, row_views(settings), partial(row_rule, settings))


def row_views(settings: Settings) -> dict[tuple[str, str], RowView]:
    """What a context shows of each live table's rows."""
    from penstock.serving.items import RowView

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
