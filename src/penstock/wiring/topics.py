"""Sources of topics, from settings: a transport and a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.clock import Clock
from penstock.errors import MissingExtraError
from penstock.settings import (
    KafkaSettings,
    MessageFormatSettings,
    NatsSettings,
    RedisSettings,
    Settings,
    TopicSourceSettings,
)

if TYPE_CHECKING:
    from penstock.sources.topics.base import Decoder, Transport
    from penstock.sources.topics.messages import MessageFormat
    from penstock.sources.topics.source import TopicsSource


def kafka_source(
    settings: Settings, name: str, chosen: KafkaSettings, clock: Clock
) -> TopicsSource:
    """A source of Kafka topics."""
    from penstock.sources.topics.kafka import KafkaTransport

    transport = KafkaTransport(
        chosen.servers,
        chosen.topics,
        group=_group(settings, name, chosen),
        clock=clock,
        options={option: value.get_secret_value() for option, value in chosen.options.items()},
        skip_lost=chosen.on_gap == "continue",
    )
    return _source(name, transport, chosen, clock)


def redis_source(
    settings: Settings, name: str, chosen: RedisSettings, clock: Clock
) -> TopicsSource:
    """A source of Redis Streams."""
    from penstock.sources.topics.redis import RedisTransport

    transport = RedisTransport(
        chosen.url.get_secret_value(),
        chosen.topics,
        group=_group(settings, name, chosen),
        clock=clock,
        skip_lost=chosen.on_gap == "continue",
    )
    return _source(name, transport, chosen, clock)


def nats_source(settings: Settings, name: str, chosen: NatsSettings, clock: Clock) -> TopicsSource:
    """A source of NATS JetStream."""
    from penstock.sources.topics.nats import NatsTransport

    transport = NatsTransport(
        chosen.url.get_secret_value(),
        chosen.topics,
        group=_group(settings, name, chosen),
        clock=clock,
        subjects=chosen.subjects,
        skip_lost=chosen.on_gap == "continue",
    )
    return _source(name, transport, chosen, clock)


def _group(settings: Settings, name: str, chosen: TopicSourceSettings) -> str:
    return chosen.group or f"penstock_{settings.project}_{name}"


def _source(
    name: str, transport: Transport, chosen: TopicSourceSettings, clock: Clock
) -> TopicsSource:
    from penstock.sources.topics.source import TopicsSource

    return TopicsSource(
        name, transport, _decoder(name, chosen), clock=clock, heartbeat_s=chosen.heartbeat
    )


def _decoder(name: str, chosen: TopicSourceSettings) -> Decoder:
    try:
        import msgspec  # noqa: F401 - all formats need it, and this is where to say so
    except ImportError as error:
        raise MissingExtraError(f"source {name!r}", chosen.type) from error
    from penstock.sources.topics.declared import declared_type
    from penstock.sources.topics.fast import DebeziumDecoder
    from penstock.sources.topics.messages import MessageDecoder, Wanted
    from penstock.sources.topics.shapes import Shapes

    format_ = chosen.format
    decimals = format_.decimals if format_.type == "debezium" else "string"
    shapes = Shapes(
        name,
        declared={
            chosen.stream(table): {
                column: declared_type(of, decimals) for column, of in wanted.types.items()
            }
            for table, wanted in chosen.tables.items()
        },
        keys={chosen.stream(table): wanted.key for table, wanted in chosen.tables.items()},
        unavailable=format_.unavailable,
    )
    wanted = Wanted([chosen.stream(table) for table in chosen.tables])
    if format_.registry is not None:
        from penstock.sources.topics.avro import AvroDecoder
        from penstock.sources.topics.registry import SchemaRegistry

        password = format_.registry.password
        registry = SchemaRegistry(
            format_.registry.url,
            user=format_.registry.user,
            password=password.get_secret_value() if password else None,
        )
        return AvroDecoder(_format(format_), registry, shapes, wanted)
    if format_.type == "debezium" and not format_.unwrapped:
        return DebeziumDecoder(shapes, wanted)
    return MessageDecoder(_format(format_), shapes, wanted)


def _format(chosen: MessageFormatSettings) -> MessageFormat:
    if chosen.type == "debezium":
        from penstock.sources.topics.debezium import DebeziumFormat

        return DebeziumFormat(unwrapped=chosen.unwrapped)
    if chosen.type == "maxwell":
        from penstock.sources.topics.maxwell import maxwell_events

        return maxwell_events
    if chosen.type == "canal":
        from penstock.sources.topics.canal import canal_events

        return canal_events
    from penstock.sources.topics.rows import RowFormat

    return RowFormat()
