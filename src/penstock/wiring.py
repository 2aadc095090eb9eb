"""From settings to objects: the only module that names concrete classes. Imports them lazily."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.clock import Clock
from penstock.config import openai_api_key
from penstock.errors import ConfigError
from penstock.runtimes.base import bulk_topic
from penstock.settings import (
    ConstantSettings,
    ExtractiveSettings,
    FilesSettings,
    MiniLMSettings,
    OpenAIEmbedderSettings,
    OpenAIGeneratorSettings,
    PostgresSettings,
    Settings,
)

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from penstock.database.embedded import EmbeddedPostgres
    from penstock.log.embedded import EmbeddedLog
    from penstock.models.base import Embedder, Generator
    from penstock.pipelines.base import Pipeline
    from penstock.serving.answer import Answerer
    from penstock.serving.context import ContextBuilder, RowView
    from penstock.sources.files.source import FilesSource
    from penstock.sources.postgres.source import PostgresSource
    from penstock.stores.postgres.search import PostgresSnapshotStore
    from penstock.stores.postgres.store import PostgresStore
    from penstock.stores.postgres.upkeep import Upkeep


@dataclass(frozen=True, slots=True)
class Course:
    """The way of one source's changes: a pipeline, and the topics on which it reads them."""

    pipeline: Pipeline
    source: str
    topics: tuple[str, ...]


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


def source(settings: Settings, name: str, clock: Clock) -> PostgresSource | FilesSource:
    """One source of the project."""
    chosen = settings.sources[name]
    if isinstance(chosen, PostgresSettings):
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


def courses(settings: Settings) -> list[Course]:
    """Which pipelines carry which sources."""
    from penstock.pipelines.knowledge.chunker import ChunkSettings
    from penstock.pipelines.knowledge.pipeline import KnowledgePipeline
    from penstock.pipelines.tables import TablesPipeline

    chunks = ChunkSettings(**settings.knowledge.chunks.model_dump())
    found: list[Course] = []
    for name, chosen in settings.sources.items():
        if isinstance(chosen, FilesSettings):
            topics = (name, bulk_topic(name))
            pipeline = KnowledgePipeline("knowledge", topics, chunks, {})
            found.append(Course(pipeline, name, topics))
            continue
        found.append(Course(TablesPipeline("tables", (name,)), name, (name,)))
        rows = searched_rows(chosen)
        if rows:
            knowledge = KnowledgePipeline("knowledge", (name,), chunks, rows)
            found.append(Course(knowledge, name, (name,)))
    return found


def searched_rows(chosen: PostgresSettings) -> dict[str, Any]:
    """The streams whose rows are searched, with how their text is made."""
    from penstock.pipelines.knowledge.pipeline import SearchedRow

    return {
        stream_name(table): SearchedRow(columns=tuple(wanted.searched), title=wanted.title)
        for table, wanted in chosen.tables.items()
        if wanted.searched
    }


def stream_name(table: str) -> str:
    """A table of the project file, as its changes name it."""
    return table if "." in table else f"public.{table}"


def row_views(settings: Settings) -> dict[tuple[str, str], RowView]:
    """What a context shows of each live table's rows."""
    from penstock.serving.context import RowView

    return {
        (name, stream_name(table)): RowView(
            searched=tuple(wanted.searched),
            shown=None if wanted.shown is None else tuple(wanted.shown),
            title=wanted.title,
        )
        for name, chosen in settings.sources.items()
        if isinstance(chosen, PostgresSettings)
        for table, wanted in chosen.tables.items()
    }


def embedder(settings: Settings) -> Embedder:
    """The model behind the vectors."""
    chosen = settings.knowledge.embedder
    if isinstance(chosen, MiniLMSettings):
        from penstock.models.minilm import MiniLMEmbedder

        return MiniLMEmbedder(precision=chosen.precision)
    if isinstance(chosen, ConstantSettings):
        from penstock.models.constant import ConstantEmbedder

        return ConstantEmbedder()
    return _openai_embedder(chosen)


def recent_vectors(model: Embedder) -> Embedder:
    """The same model for the pipelines: texts in flight are computed once."""
    from penstock.models.recent import RecentVectors

    return RecentVectors(model)


def _openai_embedder(chosen: OpenAIEmbedderSettings) -> Embedder:
    from penstock.models.openai import OpenAIEmbedder

    return OpenAIEmbedder(
        model=chosen.model,
        base_url=chosen.base_url,
        api_key=_api_key(chosen),
        dimensions=chosen.dimensions,
        max_tokens=chosen.max_tokens,
        batch_size=chosen.batch,
    )


def _api_key(chosen: OpenAIEmbedderSettings | OpenAIGeneratorSettings) -> str:
    key = chosen.api_key.get_secret_value() if chosen.api_key else openai_api_key()
    if not key:
        raise ConfigError(
            "expected an API key for the OpenAI-compatible endpoint, found none: set "
            "OPENAI_API_KEY, or api_key: ${MY_KEY} in the project file"
        )
    return key


def answerer(settings: Settings, builder: ContextBuilder, model: Embedder) -> Answerer:
    """What turns a context into an answer."""
    from penstock.serving.answer import Answerer
    from penstock.serving.prompt import read_template

    chosen = settings.answers.generator
    template = read_template(
        settings.path(settings.answers.prompt) if settings.answers.prompt else None
    )
    if isinstance(chosen, ExtractiveSettings):
        from penstock.models.extractive import ExtractiveReader

        reader = ExtractiveReader(model, language=settings.knowledge.language)
        return Answerer(builder, embedder=model, template=template, reader=reader)
    from penstock.models.openai import OpenAIGenerator

    generator: Generator = OpenAIGenerator(
        model=chosen.model,
        base_url=chosen.base_url,
        api_key=_api_key(chosen),
        temperature=chosen.temperature,
        max_tokens=chosen.max_tokens,
    )
    return Answerer(builder, embedder=model, generator=generator, template=template)
