"""What a project file may say: frozen settings, each with its meaning and default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*$")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_RESERVED = frozenset({"penstock", "public", "information_schema"})
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,39}$")
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(B|kB|KB|MB|GB|TB)?\s*$")
_SIZE_UNITS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, None: 1}


def _duration(value: object) -> object:
    if isinstance(value, str):
        match = _DURATION.match(value)
        if match is None:
            raise ValueError("expected a duration such as 500ms, 10s, 15m, 12h or 7d")
        return float(match[1]) * _DURATION_UNITS[match[2]]
    return value


def _size(value: object) -> object:
    if isinstance(value, str):
        match = _SIZE.match(value)
        if match is None:
            raise ValueError("expected a size such as 500 kB, 50 MB or 2 GB")
        return int(float(match[1]) * _SIZE_UNITS[match[2]])
    return value


def _typed(value: object) -> object:
    """A bare name stands for the mapping with that ``type``."""
    return {"type": value} if isinstance(value, str) else value


def _tables(value: object) -> object:
    """A list of names, or names with settings; a name without settings takes the defaults."""
    if isinstance(value, list):
        return {str(name): {} for name in value}
    if isinstance(value, dict):
        return {name: {} if settings is None else settings for name, settings in value.items()}
    return value


def _name(value: str) -> str:
    if _NAME.match(value) is None:
        raise ValueError(
            "expected a name of lower-case letters, digits and underscores that begins with a "
            f"letter and has at most 40, got {value!r}"
        )
    return value


Duration = Annotated[
    float, BeforeValidator(_duration, json_schema_input_type=float | str), Field(ge=0)
]
Size = Annotated[int, BeforeValidator(_size, json_schema_input_type=int | str), Field(ge=0)]
Name = Annotated[str, AfterValidator(_name)]


class Section(BaseModel):
    """What all parts of the settings have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class TableSettings(Section):
    """One captured table."""

    searched: list[str] = []
    """Columns that are embedded and indexed: a question finds the row by them."""
    shown: list[str] | None = None
    """Columns that a context shows beside the searched ones, always with their present values;
    a change of these embeds nothing. Default: all columns."""
    title: str | None = None
    """What a row is called, with columns in braces: ``Flight {number}``."""


class PostgresSettings(Section):
    """A PostgreSQL database, captured by logical replication."""

    @field_validator("tables", mode="after")
    @classmethod
    def _patterns_are_bare(cls, tables: dict[str, TableSettings]) -> dict[str, TableSettings]:
        for name, wanted in tables.items():
            if any(mark in name for mark in "*?[") and wanted != TableSettings():
                raise ValueError(
                    f"expected a pattern such as {name!r} without settings: name each table whose "
                    "columns are searched, shown or in a title"
                )
        return tables

    type: Literal["postgres"]
    dsn: SecretStr
    """How to connect: ``postgresql://user:password@host:5432/database``."""
    tables: Annotated[
        dict[str, TableSettings],
        BeforeValidator(
            _tables, json_schema_input_type=dict[str, TableSettings | None] | list[str]
        ),
    ]
    """Which tables: a list of names (``public.*`` works), or names with settings."""
    slot: str | None = None
    """Name of the replication slot; default ``penstock_PROJECT_SOURCE``."""
    publication: str | None = None
    """Name of the publication; default as the slot."""
    heartbeat: Duration = 5.0
    """How often an idle source confirms that nothing is missing."""


class FilesSettings(Section):
    """A folder of documents."""

    type: Literal["files"]
    path: Path
    """The folder, relative to the project file."""
    include: list[str] = ["**/*"]
    """Which files, as globs relative to the folder."""
    exclude: list[str] = []
    """Which of them not."""
    max_size: Size = 50_000_000
    """Larger files become dead letters with that reason."""
    rescan: Duration = 600.0
    """How often the folder is compared as a whole, beside watching it."""
    heartbeat: Duration = 5.0
    """How often an idle source confirms that nothing is missing."""


SourceSettings: TypeAlias = Annotated[PostgresSettings | FilesSettings, Field(discriminator="type")]


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


class MiniLMSettings(Section):
    """all-MiniLM-L6-v2 on this machine's processor; nothing is downloaded."""

    type: Literal["minilm"]
    precision: Literal["auto", "fp32", "int8"] = "auto"
    """``auto`` takes int8 where the processor is quick at it."""


class ConstantSettings(Section):
    """Vectors from a hash, in constant time: for measuring the engine, not for searching."""

    type: Literal["constant"]


class OpenAIEmbedderSettings(Section):
    """An OpenAI-compatible embeddings endpoint."""

    type: Literal["openai"]
    model: str
    dimensions: int = Field(gt=0)
    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr | None = None
    """Default: the environment variable OPENAI_API_KEY."""
    max_tokens: int = Field(default=8000, gt=0)
    batch: int = Field(default=128, gt=0)


class ExtractiveSettings(Section):
    """Answers with the sentences and row facts that answer the question; needs no endpoint."""

    type: Literal["extractive"]


class OpenAIGeneratorSettings(Section):
    """An OpenAI-compatible chat endpoint."""

    type: Literal["openai"]
    model: str
    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr | None = None
    """Default: the environment variable OPENAI_API_KEY."""
    temperature: float = 0.0
    max_tokens: int = Field(default=800, gt=0)


EmbedderSettings: TypeAlias = Annotated[
    MiniLMSettings | OpenAIEmbedderSettings | ConstantSettings, Field(discriminator="type")
]
GeneratorSettings: TypeAlias = Annotated[
    ExtractiveSettings | OpenAIGeneratorSettings, Field(discriminator="type")
]


class KnowledgeSettings(Section):
    """How documents and searched rows become findable."""

    embedder: Annotated[
        EmbedderSettings,
        BeforeValidator(_typed, json_schema_input_type=EmbedderSettings | str),
    ] = MiniLMSettings(type="minilm")
    chunks: ChunkSettings = ChunkSettings()
    language: str = "english"
    """The language of the text index: a Snowball stemmer's name."""


class AnswerSettings(Section):
    """How questions are answered."""

    generator: Annotated[
        GeneratorSettings,
        BeforeValidator(_typed, json_schema_input_type=GeneratorSettings | str),
    ] = ExtractiveSettings(type="extractive")
    prompt: Path | None = None
    """A file with your own prompt template, relative to the project file."""
    passages: int = Field(default=8, gt=0, le=100)
    """How many passages and rows a context holds."""


class LogSettings(Section):
    """How the log keeps changes."""

    partitions: int = Field(default=1, gt=0, le=256)
    """Partitions per topic. With 1, a source's transactions stay whole all the way."""
    keep: Duration = 7 * 86400.0
    """What is older is removed, once every pipeline has processed it."""
    keep_size: Size = 2_000_000_000
    """What is over this size per topic is removed, oldest first, once processed."""


class RunSettings(Section):
    """How the loops work."""

    batch: int = Field(default=5000, gt=0)
    """The most changes that are processed in one step."""
    dead_letter_limit: int = Field(default=1000, ge=0)
    """A pipeline stops when it would put more than this many records aside within an hour."""


class ServerSettings(Section):
    """The HTTP endpoint of ``penstock run``: health and metrics."""

    host: str = "127.0.0.1"
    port: int = Field(default=8321, ge=0, le=65535)
    """0 picks a free one."""


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
    knowledge: KnowledgeSettings = KnowledgeSettings()
    answers: AnswerSettings = AnswerSettings()
    log: LogSettings = LogSettings()
    run: RunSettings = RunSettings()
    server: ServerSettings = ServerSettings()
    folder: Path = Field(default=Path(), exclude=True)
    """Where the project file is; relative paths start here. Set by the reader."""

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
    def _database_is_known(self) -> Settings:
        if self.database != "embedded" and "://" not in self.database and "=" not in self.database:
            raise ValueError(
                f"database: expected 'embedded' or a DSN (postgresql://...), got {self.database!r}"
            )
        return self

    def path(self, relative: Path) -> Path:
        """A path of the project file, as it is on disk."""
        return (self.folder / relative.expanduser()).resolve()
