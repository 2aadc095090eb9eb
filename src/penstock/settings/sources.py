"""What a project file may say of its sources: one section per kind, sorted by what they give."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator

from penstock.settings.base import Duration, Section, Size, named_tables
from penstock.settings.permissions import DocumentPermissions, RowPermissions


class TableSettings(Section):
    """One captured table."""

    searched: tuple[str, ...] = ()
    """Columns that are embedded and indexed: a question finds the row by them."""
    shown: tuple[str, ...] | None = None
    """Columns that a context shows beside the searched ones, always with their present values;
    a change of these embeds nothing. Default: all columns."""
    title: str | None = None
    """What a row is called, with columns in braces: ``Flight {number}``."""
    permissions: RowPermissions = None
    """Who may see the rows: ``open``, ``closed``, or which columns say it. Default: as the source
    says."""


class RowSourceSettings(Section):
    """What sources of rows have in common: their tables become live tables."""

    @field_validator("tables", mode="after")
    @classmethod
    def _patterns_are_bare(cls, tables: dict[str, TableSettings]) -> dict[str, TableSettings]:
        for name, wanted in tables.items():
            if any(mark in name for mark in "*?[") and wanted != type(wanted)():
                raise ValueError(
                    f"expected a pattern such as {name!r} without settings: name each table whose "
                    "columns are searched, shown or in a title"
                )
        return tables

    rereadable: ClassVar[bool] = True
    """Whether such a source can give a table again when its live table is in doubt."""

    type: str
    tables: Annotated[
        dict[str, TableSettings],
        BeforeValidator(
            named_tables, json_schema_input_type=dict[str, TableSettings | None] | list[str]
        ),
    ]
    """Which tables: a list of names (``public.*`` works), or names with settings."""
    heartbeat: Duration = 5.0
    """How often an idle source confirms that nothing is missing."""
    permissions: Literal["open", "closed"] | None = None
    """Who may see the rows of tables that say nothing about it: everybody or nobody. Default:
    everybody, but nobody where the project has permissions anywhere."""

    def stream(self, table: str) -> str:
        """A table of the project file, as the source's changes name it."""
        return table


class DocumentSourceSettings(Section):
    """What sources of documents have in common: their text goes into the knowledge base."""

    type: str
    include: tuple[str, ...] = ("**/*",)
    """Which documents, as globs of their paths."""
    exclude: tuple[str, ...] = ()
    """Which of them not."""
    max_size: Size = 50_000_000
    """Larger ones become dead letters with that reason."""
    heartbeat: Duration = 5.0
    """How often an idle source confirms that nothing is missing."""
    permissions: DocumentPermissions = None
    """Who may see the documents: ``open``, ``closed``, ``sidecars`` (files beside them), or a table
    that says it. Default: everybody, but nobody where the project has permissions anywhere."""


class PostgresSettings(RowSourceSettings):
    """A PostgreSQL database, captured by logical replication."""

    type: Literal["postgres"]
    dsn: SecretStr
    """How to connect: ``postgresql://user:password@host:5432/database``."""
    slot: str | None = None
    """Name of the replication slot; default ``penstock_PROJECT_SOURCE``."""
    publication: str | None = None
    """Name of the publication; default as the slot."""
    retained_wal: Size | None = None
    """How much WAL the server may keep for this source: half of it is a warning, more an error.
    Default: what ``max_slot_wal_keep_size`` allows, or 10 GiB where that is unlimited."""
    failover: bool = False
    """Standbys keep a copy of the slot, so that one that takes over goes on (PostgreSQL 17)."""
    origin: Literal["any", "none"] = "any"
    """``none`` leaves out what was itself replicated to this database."""
    messages: bool = False
    """Capture what ``pg_logical_emit_message`` writes in transactions, as the stream
    ``penstock.messages``."""

    def stream(self, table: str) -> str:
        """Names without a schema are in ``public``."""
        return table if "." in table else f"public.{table}"


class MySQLSettings(RowSourceSettings):
    """A MySQL or MariaDB server, captured from its binlog. Needs the extra ``mysql``."""

    type: Literal["mysql"]
    dsn: SecretStr
    """How to connect: ``mysql://user:password@host:3306/database``. Options behind a ``?``:
    ``ssl-mode`` (disabled, preferred, required, verify-ca, verify-identity), ``ssl-ca``,
    ``ssl-cert``, ``ssl-key``, ``socket``."""
    server_id: int | None = Field(default=None, gt=0, lt=1 << 32)
    """Our number among the readers of the binlog; no other reader or server may have it. Default:
    made of the names of project and source."""

    def stream(self, table: str) -> str:
        """Names without a database are in the DSN's."""
        if "." in table:
            return table
        database = unquote(urlsplit(self.dsn.get_secret_value()).path.lstrip("/"))
        return f"{database}.{table}" if database else table


class FileDocumentSettings(DocumentSourceSettings):
    """Documents that are files of many formats."""

    images: bool = False
    """Read the text on images (png, jpg, tiff, bmp, webp) too. Needs the extra ``ocr``, as scanned
    pages of a PDF do, which are read wherever the extra is installed."""
    ocr_limit: Duration = Field(default=300.0, gt=0)
    """How long the images or scanned pages of one document may take; recognising text is slow."""


class FilesSettings(FileDocumentSettings):
    """A folder of documents."""

    type: Literal["files"]
    path: Path
    """The folder, relative to the project file."""
    rescan: Duration = 600.0
    """How often the folder is compared as a whole, beside watching it."""
