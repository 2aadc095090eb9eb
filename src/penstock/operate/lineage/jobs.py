"""What a project's sources and pipelines read and write, as OpenLineage names it.

Datasets of other systems have the names that the specification's naming rules give them, so that
what other tools say of them comes together. Ours stand in the project's database, under its name
where it is not embedded (an embedded one has no address that stays).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from penstock import wiring
from penstock.identity.rules import columns_in
from penstock.operate.lineage.events import Dataset, Job, Origin
from penstock.pipelines.publish import PREFIX
from penstock.runtimes.base import bulk_topic
from penstock.settings import (
    DocumentSourceSettings,
    FilesSettings,
    KafkaLogSettings,
    MySQLSettings,
    PostgresSettings,
    RowSourceSettings,
    Settings,
)
from penstock.settings.amazon import AmazonSettings, DynamoDBSettings, KinesisSettings
from penstock.settings.amazon import ObjectsSettings as BucketSettings
from penstock.settings.topics import KafkaSettings, TopicSourceSettings
from penstock.wiring.courses import searched_rows

_DOCUMENT: Final = (("key", "text"), ("title", "text"), ("text", "text"), ("metadata", "jsonb"))
_POSTGRES_PORT, _MYSQL_PORT = 5432, 3306


@dataclass(frozen=True, slots=True)
class LiveTable:
    """A live table that there is: where it stands, and its columns as the source has them."""

    source: str
    stream: str
    schema: str
    table: str
    columns: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where datasets of one system are."""

    namespace: str
    source: str
    uri: str
    prefix: str = ""

    def dataset(self, name: str, **more: Any) -> Dataset:
        return Dataset(
            self.namespace, f"{self.prefix}{name}", source=self.source, uri=self.uri, **more
        )


class Lineage:
    """The jobs of a project, with the live tables that there are by now."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._own = _own(settings)

    def project(self) -> Job:
        """What all others are parts of."""
        return Job(self._settings.project, "PROJECT")

    def source(self, name: str, tables: Sequence[LiveTable]) -> Job:
        """What a source reads, and the topic that it writes."""
        inputs = [self._origin(name, table) for table in tables if table.source == name]
        if not inputs:
            inputs = [self._documents(name)] if self._is_documents(name) else self._declared(name)
        topics = [name, bulk_topic(name)] if self._is_documents(name) else [name]
        job_name = f"{self._settings.project}.source.{name}"
        return Job(job_name, "SOURCE", inputs, [self._topic(topic) for topic in topics])

    def pipeline(self, pipeline: str, topic: str, tables: Sequence[LiveTable]) -> Job:
        """What a pipeline makes of the changes in a topic."""
        source = topic if topic in self._settings.sources else topic.removesuffix(bulk_topic(""))
        mine = [table for table in tables if table.source == source]
        outputs = list(self._outputs(pipeline, source, mine))
        job_name = f"{self._settings.project}.{pipeline}.{topic}"
        return Job(job_name, "PIPELINE", [self._topic(topic)], outputs)

    # ------------------------------------------------------------------ what is read

    def _is_documents(self, source: str) -> bool:
        return isinstance(self._settings.sources[source], DocumentSourceSettings)

    def _origin(self, source: str, table: LiveTable) -> Dataset:
        return _place(self._settings, source).dataset(table.stream, columns=table.columns)

    def _declared(self, source: str) -> list[Dataset]:
        """What the project file names, while no table has come."""
        chosen = self._settings.sources[source]
        place = _place(self._settings, source)
        if not isinstance(chosen, RowSourceSettings):
            return [place.dataset(source)]
        return [place.dataset(chosen.stream(table)) for table in chosen.tables if "*" not in table]

    def _documents(self, source: str) -> Dataset:
        chosen = self._settings.sources[source]
        place = _place(self._settings, source)
        if isinstance(chosen, FilesSettings):
            return place.dataset(str(self._settings.path(chosen.path)))
        if isinstance(chosen, BucketSettings):
            return place.dataset(chosen.prefix or "/")
        return place.dataset(source)

    def _topic(self, topic: str) -> Dataset:
        log = self._settings.log
        if isinstance(log, KafkaLogSettings):
            name = f"{wiring.log_prefix(self._settings.project, log)}{topic}"
            return _kafka(log.bootstrap_servers).dataset(name)
        return self._own.dataset(f"penstock.log.{topic}")

    # ------------------------------------------------------------------ what is written

    def _outputs(
        self, pipeline: str, source: str, tables: Sequence[LiveTable]
    ) -> Iterator[Dataset]:
        if pipeline == "tables":
            for table in tables:
                made = {
                    name: [Origin(self._origin(source, table), name)] for name, _ in table.columns
                }
                name = f"{table.schema}.{table.table}"
                yield self._own.dataset(name, columns=table.columns, made_of=made)
        elif pipeline == "knowledge":
            yield self._own.dataset(
                "penstock.documents", columns=_DOCUMENT, made_of=self._texts(source, tables)
            )
        elif pipeline == "profiles":
            yield from self._profiles(source, tables)
        elif pipeline.startswith(PREFIX):
            yield from self._published(pipeline.removeprefix(PREFIX), tables)

    def _texts(self, source: str, tables: Sequence[LiveTable]) -> Mapping[str, Sequence[Origin]]:
        """What the searched text of rows is made of. A document's is its own."""
        chosen = self._settings.sources[source]
        if not isinstance(chosen, RowSourceSettings):
            return {}
        searched = searched_rows(chosen)
        found = [
            Origin(self._origin(source, table), column, changed=True)
            for table in tables
            if table.stream in searched
            for column in searched[table.stream].columns
        ]
        return {"text": found} if found else {}

    def _profiles(self, source: str, tables: Sequence[LiveTable]) -> Iterator[Dataset]:
        origins = {table.stream: self._origin(source, table) for table in tables}
        for kind, rules in wiring.profile_rules(self._settings).items():
            made: dict[str, list[Origin]] = {}
            for (of, stream), table in rules.tables.items():
                if of != source or stream not in origins:
                    continue
                for name, said in (*table.identifiers, *table.traits.items()):
                    plain = columns_in(said) == [said]
                    made.setdefault(name, []).extend(
                        Origin(origins[stream], column, changed=not plain)
                        for column in columns_in(said)
                    )
            if any(of == source for of, _ in rules.tables):
                columns = [(name, "text") for name in made]
                yield self._own.dataset(f"penstock.profiles.{kind}", columns=columns, made_of=made)

    def _published(self, name: str, tables: Sequence[LiveTable]) -> Iterator[Dataset]:
        chosen = self._settings.publish[name]
        place = _kafka(chosen.servers)
        for table in tables:
            if any(fnmatchcase(table.stream, wanted) for wanted in chosen.tables):
                topic = f"{chosen.prefix or self._settings.project}.{table.stream}"
                yield place.dataset(topic, columns=table.columns)


# ---------------------------------------------------------------------- names of other systems


def _own(settings: Settings) -> _Place:
    if settings.database == "embedded":
        namespace = f"penstock://{settings.project}"
        return _Place(namespace, settings.project, namespace)
    return _postgres(settings.database, settings.project)


def _place(settings: Settings, source: str) -> _Place:
    chosen = settings.sources[source]
    if isinstance(chosen, PostgresSettings):
        return _postgres(chosen.dsn.get_secret_value(), source)
    if isinstance(chosen, MySQLSettings):
        parts = urlsplit(chosen.dsn.get_secret_value())
        address = f"mysql://{parts.hostname or 'localhost'}:{parts.port or _MYSQL_PORT}"
        return _Place(address, source, address)
    if isinstance(chosen, KafkaSettings):
        return _kafka(chosen.servers, source)
    if isinstance(chosen, TopicSourceSettings):
        parts = urlsplit(chosen.url.get_secret_value())
        address = f"{parts.scheme}://{parts.hostname or 'localhost'}:{parts.port or 0}"
        return _Place(address, source, address)
    if isinstance(chosen, FilesSettings):
        return _Place("file", source, settings.path(chosen.path).as_uri())
    if isinstance(chosen, AmazonSettings):
        return _amazon(chosen, source)
    address = f"penstock://{settings.project}"
    return _Place(address, source, f"{address}/sources/{source}")


def _postgres(dsn: str, source: str) -> _Place:
    """By host, port and database alone: neither user nor password."""
    try:
        parts = conninfo_to_dict(dsn)
    except ProgrammingError:
        parts = {}
    host = str(parts.get("host") or "localhost").partition(",")[0]
    port = str(parts.get("port") or _POSTGRES_PORT).partition(",")[0]
    database = str(parts.get("dbname") or parts.get("user") or "postgres")
    address = f"postgres://{'localhost' if host.startswith('/') else host}:{port}"
    return _Place(address, source, f"{address}/{database}", prefix=f"{database}.")


def _kafka(servers: str, source: str = "kafka") -> _Place:
    address = f"kafka://{servers.partition(',')[0].strip()}"
    return _Place(address, source, address)


def _amazon(chosen: AmazonSettings, source: str) -> _Place:
    region = chosen.region or "default"
    if isinstance(chosen, BucketSettings):
        address = f"s3://{chosen.bucket}"
    elif isinstance(chosen, KinesisSettings):
        address = f"kinesis://{region}/{chosen.stream_name}"
    else:
        assert isinstance(chosen, DynamoDBSettings)
        address = f"dynamodb://{region}"
    return _Place(address, source, address)
