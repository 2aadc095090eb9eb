"""What a project file may say: frozen settings, each with its meaning and default."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from penstock.settings.amazon import (
    AmazonSettings,
    DynamoDBSettings,
    ItemTableSettings,
    KinesisSettings,
    ObjectsSettings,
)
from penstock.settings.base import Duration, Name, Section, Size, typed
from penstock.settings.declared import DeclaredRowsSettings, DeclaredTableSettings
from penstock.settings.forms import FormSettings, SlotSettings
from penstock.settings.interactions import InteractionsSettings
from penstock.settings.kinds import SourceSettings
from penstock.settings.ledger import LedgerSettings
from penstock.settings.lineage import (
    AnyLineageSettings,
    LineageFileSettings,
    LineageHttpSettings,
    LineageKafkaSettings,
    LineageSettings,
)
from penstock.settings.log import (
    AnyLogSettings,
    EmbeddedLogSettings,
    KafkaLogSettings,
    LogSettings,
)
from penstock.settings.models import (
    AnthropicModelSettings,
    AnyChatSettings,
    AnyEmbedderSettings,
    AnyGeneratorSettings,
    BedrockEmbedderSettings,
    BreakerSettings,
    CacheSettings,
    CanarySettings,
    ChatModelSettings,
    CohereEmbedderSettings,
    ConstantSettings,
    ConverseModelSettings,
    CrossEncoderSettings,
    EmbedderSettings,
    EndpointRerankerSettings,
    EndpointSettings,
    ExtractiveSettings,
    FolderSettings,
    GatewayBudgetSettings,
    GatewaySettings,
    GeneratorSettings,
    KeyedEndpointSettings,
    LateInteractionSettings,
    MiniLMSettings,
    ModelSettings,
    NamedGeneratorSettings,
    NoRerankerSettings,
    OpenAIEmbedderSettings,
    OpenAIGeneratorSettings,
    RerankerSettings,
    RouteSettings,
)
from penstock.settings.own import OwnSourceSettings, ProfileEventsSettings, check_followed
from penstock.settings.permissions import (
    ColumnPermissions,
    GroupTableSettings,
    MetadataPermissions,
    PushedPermissions,
    SidecarPermissions,
    TablePermissions,
)
from penstock.settings.profiles import ProfileSettings
from penstock.settings.publish import KafkaPublishSettings
from penstock.settings.push import PushSettings
from penstock.settings.server import LimitSettings, OidcSettings, RateSettings, TlsSettings
from penstock.settings.sources import (
    DocumentSourceSettings,
    FilesSettings,
    MySQLSettings,
    PostgresSettings,
    RowSourceSettings,
    TableSettings,
)
from penstock.settings.stores import LanceDBSettings, OpenSearchSettings, SecondStoreSettings
from penstock.settings.telemetry import TelemetrySettings
from penstock.settings.topics import (
    KafkaSettings,
    MessageFormatSettings,
    NatsSettings,
    RedisSettings,
    RegistrySettings,
    TopicSourceSettings,
    TopicTableSettings,
)
from penstock.settings.webhook import WebhookDocumentsSettings, WebhookSettings

__all__ = [
    "AmazonSettings",
    "AnswerSettings",
    "AnthropicModelSettings",
    "AnyChatSettings",
    "AnyEmbedderSettings",
    "AnyGeneratorSettings",
    "AnyLineageSettings",
    "BedrockEmbedderSettings",
    "BreakerSettings",
    "CacheSettings",
    "CanarySettings",
    "ChatModelSettings",
    "ChunkSettings",
    "CohereEmbedderSettings",
    "ColumnPermissions",
    "ConstantSettings",
    "ConverseModelSettings",
    "CrossEncoderSettings",
    "DeclaredRowsSettings",
    "DeclaredTableSettings",
    "DocumentSourceSettings",
    "DynamoDBSettings",
    "EmbeddedLogSettings",
    "EmbedderSettings",
    "EndpointRerankerSettings",
    "EndpointSettings",
    "ExtractiveSettings",
    "FilesSettings",
    "FolderSettings",
    "FormSettings",
    "GatewayBudgetSettings",
    "GatewaySettings",
    "GeneratorSettings",
    "GroupTableSettings",
    "InteractionsSettings",
    "ItemTableSettings",
    "KafkaLogSettings",
    "KafkaPublishSettings",
    "KafkaSettings",
    "KeyedEndpointSettings",
    "KinesisSettings",
    "KnowledgeSettings",
    "LanceDBSettings",
    "LateInteractionSettings",
    "LedgerSettings",
    "LimitSettings",
    "LineageFileSettings",
    "LineageHttpSettings",
    "LineageKafkaSettings",
    "LineageSettings",
    "LogSettings",
    "MessageFormatSettings",
    "MetadataPermissions",
    "MiniLMSettings",
    "ModelSettings",
    "MySQLSettings",
    "NamedGeneratorSettings",
    "NatsSettings",
    "NoRerankerSettings",
    "ObjectsSettings",
    "OidcSettings",
    "OpenAIEmbedderSettings",
    "OpenAIGeneratorSettings",
    "OpenSearchSettings",
    "OwnSourceSettings",
    "PostgresSettings",
    "ProfileEventsSettings",
    "ProfileSettings",
    "PushSettings",
    "PushedPermissions",
    "RateSettings",
    "RedisSettings",
    "RegistrySettings",
    "RerankerSettings",
    "RouteSettings",
    "RowSourceSettings",
    "RunSettings",
    "SecondStoreSettings",
    "Section",
    "ServerSettings",
    "Settings",
    "SidecarPermissions",
    "SlotSettings",
    "SourceSettings",
    "TablePermissions",
    "TableSettings",
    "TelemetrySettings",
    "TlsSettings",
    "TopicSourceSettings",
    "TopicTableSettings",
    "WebhookDocumentsSettings",
    "WebhookSettings",
]

_RESERVED = frozenset({"penstock", "public", "information_schema"})


class ChunkSettings(Section):
    """How documents are cut. The default keeps a paragraph whole as far as the model reads."""

    size: int | None = Field(default=None, gt=0)
    """The most of one chunk, in ``unit``; default: what the model reads."""
    overlap: int = Field(default=0, ge=0)
    """How much of the chunk before is repeated, in ``unit``."""
    unit: Literal["tokens", "characters"] = "tokens"
    """What ``size`` and ``overlap`` count."""
    context: bool = True
    """Whether title and headings are embedded with each chunk."""


class KnowledgeSettings(Section):
    """How documents and searched rows become findable."""

    embedder: Annotated[
        EmbedderSettings,
        BeforeValidator(typed, json_schema_input_type=EmbedderSettings | str),
    ] = MiniLMSettings(type="minilm")
    """The model behind the vectors, or the name of one of ``models``. Once something is embedded,
    another one is taken into use by ``penstock models migrate``."""
    reranker: (
        Annotated[
            RerankerSettings,
            BeforeValidator(typed, json_schema_input_type=RerankerSettings | str),
        ]
        | None
    ) = None
    """What orders the best candidates anew. Default: ``late_interaction`` with the embedder
    ``minilm``, which gives the vectors of tokens; ``none`` with others."""
    chunks: ChunkSettings = ChunkSettings()
    language: str = "english"
    """The language of the text index: a Snowball stemmer's name, or ``auto`` (extra ``languages``):
    each document's language is found, kept in its metadata, and its words are stemmed in it. What
    is indexed already stays as it is until it is replayed."""
    stores: dict[Name, SecondStoreSettings] = Field(default_factory=dict)
    """Second stores that follow the knowledge base, by name."""
    search: str = "postgres"
    """Where nearest neighbours are looked for: ``postgres``, or the name of a second store."""
    memory: int = Field(default=256, ge=0, le=65_536)
    """How many megabytes of the knowledge base a process that answers may keep: vectors (a quarter,
    some 50,000 of 384 numbers; where there are more, the database's index is asked), vectors of
    tokens, texts and posting lists. What exists and who may see it is never kept. 0: nothing."""

    @model_validator(mode="after")
    def _search_is_known(self) -> KnowledgeSettings:
        if self.search != "postgres" and self.search not in self.stores:
            raise ValueError(
                f"expected `search` to be 'postgres' or one of `stores` "
                f"({', '.join(self.stores) or 'there are none'}), got {self.search!r}"
            )
        return self


class AnswerSettings(Section):
    """How questions are answered."""

    generator: Annotated[
        GeneratorSettings,
        BeforeValidator(typed, json_schema_input_type=GeneratorSettings | str),
    ] = ExtractiveSettings(type="extractive")
    rewrite: int = Field(default=0, ge=0, le=5)
    """Into how many searches a question is rewritten at most, beside itself: the parts of what it
    asks, or other words. Needs a generator. 0: none."""
    rewrite_timeout: Duration = Field(default=3.0, gt=0, le=30)
    """How long a question waits for that; then it is searched as it is."""
    prompt: Path | None = None
    """A file with your own prompt template, relative to the project file."""
    passages: int = Field(default=8, gt=0, le=100)
    """How many passages and rows a context holds."""
    near_duplicates: float | None = Field(default=None, gt=0, le=1)
    """Passages that agree with a better one by so large a share of their runs of three words are
    left out, unless they differ in a number or a denial: 0.8 finds copies with small edits."""
    recency_days: float | None = Field(default=None, gt=0)
    """After so many days a passage has lost half of what it gets for being new."""
    neighbours: int = Field(default=0, ge=0, le=5)
    """How many chunks before and after are shown with each passage."""

    @model_validator(mode="after")
    def _who_rewrites_is_known(self) -> AnswerSettings:
        chosen = self.generator
        if self.rewrite and (isinstance(chosen, ExtractiveSettings) or not chosen.structured):
            raise ValueError(
                "rewrite: expected a structured generator that rewrites questions, got none: set "
                "answers.generator to a model of type chat, or rewrite to 0"
            )
        return self


class RunSettings(Section):
    """How the loops work."""

    batch: int = Field(default=5000, gt=0)
    """The most changes that are processed in one step."""
    dead_letter_limit: int = Field(default=1000, ge=0)
    """A pipeline stops when it would put more than this many records aside within an hour."""
    lease: Duration = Field(default=10.0, ge=1.0)
    """What a worker had is taken over by others when it has not been heard of for so long. A worker
    that was killed is noticed within a second or two in any case."""
    patience: Duration = 30.0
    """How long ``penstock run`` and ``penstock worker`` wait, when they start, for a database or a
    log that cannot be reached. Once they run they wait for ever."""


class ServerSettings(Section):
    """The HTTP endpoint of ``penstock run`` and ``penstock serve``: the API, health and metrics."""

    host: str = "127.0.0.1"
    port: int = Field(default=8321, ge=0, le=65535)
    """0 picks a free one."""
    hosts: tuple[str, ...] = ()
    """Names under which the server is reached beside those of this machine; ``*`` is any, which is
    the rule where ``host`` is not an address of this machine alone."""
    origins: tuple[str, ...] = ()
    """Web pages that may call the API from a browser: ``https://app.example.com``."""
    max_body: Size = 4_000_000
    """The largest request, in bytes or as ``4 MB``."""
    limits: LimitSettings = LimitSettings()
    tls: TlsSettings | None = None
    """Default: none; then put TLS in front of whatever is not on this machine."""
    oidc: OidcSettings | None = None


class Settings(Section):
    """A Penstock project."""

    project: Name
    """The project's name: part of the names of slots and publications."""
    database: str = "embedded"
    """``embedded``, or the DSN of a PostgreSQL 15 or later with pgvector 0.8 or later."""
    data: Path = Path(".penstock")
    """Where the embedded database keeps its files, relative to the project file."""
    tenant: str = "default"
    """Whose data this is: carried on every row."""
    sources: dict[Name, SourceSettings] = Field(min_length=1)
    """What is captured, by name."""
    groups: tuple[GroupTableSettings, ...] = ()
    """Live tables that say who belongs to which group."""
    profiles: dict[Name, ProfileSettings] = Field(default_factory=dict)
    """Kinds of profiles, by name: who is who, out of several tables."""
    publish: dict[Name, KafkaPublishSettings] = Field(default_factory=dict)
    """Where changes are published as well, by name."""
    models: dict[
        Name,
        Annotated[
            ModelSettings, BeforeValidator(typed, json_schema_input_type=ModelSettings | str)
        ],
    ] = Field(default_factory=dict)
    """Models by name: embedders, for ``knowledge.embedder`` and ``penstock models migrate``, and
    of type ``chat``, ``anthropic`` and ``converse`` for ``answers.generator``."""
    knowledge: KnowledgeSettings = KnowledgeSettings()
    answers: AnswerSettings = AnswerSettings()
    forms: dict[Name, FormSettings] = Field(default_factory=dict)
    """What a conversation can fill in, by name."""
    ledger: LedgerSettings = LedgerSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    lineage: AnyLineageSettings | None = None
    """Where OpenLineage events go: a file (its name is enough), an endpoint or a topic of Kafka.
    Default: nowhere."""
    log: AnyLogSettings = EmbeddedLogSettings()
    run: RunSettings = RunSettings()
    server: ServerSettings = ServerSettings()
    folder: Path = Field(default=Path(), exclude=True)
    """Where the project file is; relative paths start here. Set by the reader."""

    @model_validator(mode="before")
    @classmethod
    def _models_by_name(cls, values: object) -> object:
        """A name of ``models`` stands for that model."""
        if not isinstance(values, dict) or not isinstance(values.get("models"), dict):
            return values
        models = values["models"]
        for section, part in (("knowledge", "embedder"), ("answers", "generator")):
            chosen = values.get(section)
            if not isinstance(chosen, dict):
                continue
            named = chosen.get(part)
            if isinstance(named, str) and named in models:
                values = {**values, section: {**chosen, part: models[named]}}
        return values

    @property
    def embedders(self) -> dict[str, EmbedderSettings]:
        """Those of ``models`` that make vectors."""
        return {
            name: chosen
            for name, chosen in self.models.items()
            if not isinstance(chosen, AnyGeneratorSettings)
        }

    @property
    def generators(self) -> dict[str, NamedGeneratorSettings]:
        """Those of ``models`` that write."""
        return {
            name: chosen
            for name, chosen in self.models.items()
            if isinstance(chosen, AnyGeneratorSettings)
        }

    @model_validator(mode="after")
    def _gateway_fits(self) -> Settings:
        chosen = self.answers.generator
        if not isinstance(chosen, GatewaySettings):
            return self
        for name in chosen.names:
            if name not in self.generators:
                known = ", ".join(self.generators) or "there are none"
                raise ValueError(
                    f"answers.generator: expected names of models that write ({known}), got "
                    f"{name!r}"
                )
        return self

    @field_validator("sources", mode="after")
    @classmethod
    def _names_are_free(cls, sources: dict[str, SourceSettings]) -> dict[str, SourceSettings]:
        for name in sources:
            if name in _RESERVED or name.startswith("pg_"):
                raise ValueError(
                    f"expected a source name that can be a schema of live tables, got {name!r}, "
                    "which has another meaning there: choose another"
                )
        return sources

    @model_validator(mode="after")
    def _reranker_fits(self) -> Settings:
        knowledge = self.knowledge
        late = isinstance(knowledge.reranker, LateInteractionSettings)
        if late and not isinstance(knowledge.embedder, MiniLMSettings):
            raise ValueError(
                "knowledge.reranker: expected late_interaction with the embedder minilm, which "
                f"gives the vectors of tokens, got it with {knowledge.embedder.type!r}: take "
                "another reranker, or none"
            )
        return self

    @model_validator(mode="after")
    def _database_is_known(self) -> Settings:
        if self.database != "embedded" and "://" not in self.database and "=" not in self.database:
            raise ValueError(
                f"database: expected 'embedded' or a DSN (postgresql://...), got {self.database!r}"
            )
        return self

    @model_validator(mode="after")
    def _named_tables_are_captured(self) -> Settings:
        named = [("groups", part.source, part.table) for part in self.groups]
        for kind, profile in self.profiles.items():
            for name in profile.tables:
                source, _, table = name.partition(".")
                named.append((f"profiles.{kind}.tables", source, table))
        for name, chosen in self.sources.items():
            said = chosen.permissions
            if isinstance(said, TablePermissions):
                named.append((f"sources.{name}.permissions", said.source, said.table))
        for where, source, table in named:
            captured = self.sources.get(source)
            if not isinstance(captured, RowSourceSettings):
                rows = [n for n, s in self.sources.items() if isinstance(s, RowSourceSettings)]
                raise ValueError(  # noqa: TRY004 - pydantic collects these
                    f"{where}: expected a source of rows "
                    f"({', '.join(rows) or 'there are none'}), got {source!r}"
                )
            if not any(
                fnmatchcase(captured.stream(table), captured.stream(t)) for t in captured.tables
            ):
                raise ValueError(
                    f"{where}: expected a table that sources.{source} captures "
                    f"({', '.join(captured.tables)}), got {table!r}: add it to its tables"
                )
        check_followed(self.sources, {kind: one.tables for kind, one in self.profiles.items()})
        return self

    def path(self, relative: Path) -> Path:
        """A path of the project file, as it is on disk."""
        return (self.folder / relative.expanduser()).resolve()
