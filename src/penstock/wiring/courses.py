"""Which pipelines carry which sources."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import TYPE_CHECKING

from penstock.errors import MissingExtraError
from penstock.runtimes.base import bulk_topic
from penstock.settings import (
    ColumnPermissions,
    DocumentSourceSettings,
    MetadataPermissions,
    PushedPermissions,
    RowSourceSettings,
    Settings,
    SidecarPermissions,
)
from penstock.wiring.profiles import profile_rules

if TYPE_CHECKING:
    from penstock.identity.rules import Rules
    from penstock.pipelines.base import Pipeline
    from penstock.pipelines.knowledge.pipeline import SearchedRow


@dataclass(frozen=True, slots=True)
class Course:
    """The way of one source's changes: a pipeline, and the topics on which it reads them."""

    pipeline: Pipeline
    source: str
    topics: tuple[str, ...]


def courses(settings: Settings) -> list[Course]:
    """Which pipelines carry which sources."""
    from penstock.pipelines.knowledge.chunker import ChunkSettings
    from penstock.pipelines.knowledge.languages import AUTO
    from penstock.pipelines.knowledge.pipeline import KnowledgePipeline
    from penstock.pipelines.tables import TablesPipeline

    chunks = ChunkSettings(**settings.knowledge.chunks.model_dump())
    detects = settings.knowledge.language == AUTO
    if detects and find_spec("py3langid") is None:
        raise MissingExtraError("knowledge.language: auto", "languages")
    found: list[Course] = []
    for name, chosen in settings.sources.items():
        if isinstance(chosen, DocumentSourceSettings):
            topics = (name, bulk_topic(name))
            sidecars = isinstance(chosen.permissions, SidecarPermissions)
            listed = isinstance(chosen.permissions, MetadataPermissions | PushedPermissions)
            pipeline = KnowledgePipeline("knowledge", topics, chunks, {}, sidecars, detects, listed)
            found.append(Course(pipeline, name, topics))
            continue
        found.append(Course(TablesPipeline("tables", (name,)), name, (name,)))
        rows = searched_rows(chosen)
        if rows:
            knowledge = KnowledgePipeline("knowledge", (name,), chunks, rows)
            found.append(Course(knowledge, name, (name,)))
    return found + _profiles(settings) + _publishing(settings)


def _profiles(settings: Settings) -> list[Course]:
    """The courses of evidence: one for each source that any kind of profile reads."""
    if not settings.profiles:
        return []
    from penstock.pipelines.profiles import ProfilesPipeline

    kinds = profile_rules(settings)
    read: dict[str, dict[str, Rules]] = {}
    for kind, rules in kinds.items():
        for source, _ in rules.tables:
            read.setdefault(source, {})[kind] = rules
    return [
        Course(ProfilesPipeline((source,), rules, source), source, (source,))
        for source, rules in read.items()
    ]


def _publishing(settings: Settings) -> list[Course]:
    """The courses of changes that are published: each destination keeps its own position."""
    if not settings.publish:
        return []
    from penstock import __version__
    from penstock.pipelines.publish import PREFIX, PublishPipeline

    return [
        Course(
            PublishPipeline(
                name=f"{PREFIX}{name}",
                topics=(source,),
                destination=name,
                tables=chosen.tables,
                prefix=chosen.prefix or settings.project,
                version=__version__,
                schemas=chosen.schemas,
                tombstones=chosen.tombstones,
                truncates=chosen.truncates,
            ),
            source,
            (source,),
        )
        for name, chosen in settings.publish.items()
        for source, captured in settings.sources.items()
        if isinstance(captured, RowSourceSettings)
        and any(fnmatchcase(source, wanted) for wanted in chosen.sources)
    ]


def searched_rows(chosen: RowSourceSettings) -> dict[str, SearchedRow]:
    """The streams whose rows are searched, with how their text is made."""
    from penstock.pipelines.knowledge.pipeline import SearchedRow

    return {
        chosen.stream(table): SearchedRow(
            columns=tuple(wanted.searched),
            title=wanted.title,
            permissions=wanted.permissions.columns
            if isinstance(wanted.permissions, ColumnPermissions)
            else (),
        )
        for table, wanted in chosen.tables.items()
        if wanted.searched
    }
