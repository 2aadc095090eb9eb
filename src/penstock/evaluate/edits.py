"""``penstock eval edits``: an edit history, replayed through the pipeline into a store of its own.

What is counted: the characters that the model read because documents were edited. The first version
of a document costs the same whichever way, so it is counted apart.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from penstock import wiring
from penstock.bench.world import scratch_folder
from penstock.clock import Clock
from penstock.config import parse_settings
from penstock.errors import BadRecordError, ConfigError
from penstock.models.base import Embedder, Priority
from penstock.pipelines.base import Tools
from penstock.project import Project, open_project
from penstock.records import Change, Microseconds, Op, Position, document_schema
from penstock.sources.extract import ChildExtractor, Extractor
from penstock.stores.base import Vectors

WINDOW: Final = 1000
OVERLAP: Final = 100
_EVERY: Final = 100
_REPLAYED: Final = "history"
_REBUILT: Final = "rebuilt"
_OPS: Final = {"create": Op.CREATE, "update": Op.UPDATE, "delete": Op.DELETE}

Tell: TypeAlias = Callable[[str], None]


class Event(NamedTuple):
    """One line of a history."""

    op: Literal["create", "update", "delete"]
    path: str
    text: str


@dataclass(slots=True)
class Tally:
    """What the edits cost, and what they would have cost otherwise."""

    events: int = 0
    edits: int = 0
    embedded: int = 0
    whole: int = 0
    fixed: int = 0
    chunks: int = 0
    first: int = 0
    rejected: int = 0
    texts: dict[str, str] = field(default_factory=dict)


class CountingEmbedder:
    """Another model that counts the characters it is given."""

    def __init__(self, model: Embedder) -> None:
        self._model = model
        self.name = model.name
        self.dimensions = model.dimensions
        self.max_tokens = model.max_tokens
        self.characters = 0
        self.texts = 0

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return list(self._model.count_tokens(texts))

    async def embed(self, texts: Sequence[str], *, priority: Priority = "live") -> Vectors:
        self.characters += sum(map(len, texts))
        self.texts += len(texts)
        return await self._model.embed(texts, priority=priority)

    async def close(self) -> None:
        """The model is its owner's to close."""


def read_history(path: Path) -> Iterator[Event]:
    """The events of a file of JSON lines, packed with xz or not."""
    opened = lzma.open if path.suffix == ".xz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield _event(path, number, line)
    except (OSError, lzma.LZMAError, UnicodeDecodeError, EOFError) as error:
        raise ConfigError(f"expected to read the history {str(path)!r}, got {error}") from error


def _event(path: Path, number: int, line: str) -> Event:
    try:
        found = json.loads(line)
        op, key, text = found["op"], found["path"], found.get("text")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = (
            f"expected an event with 'op', 'path' and 'text' in line {number} of {str(path)!r}, "
            f"got {line[:60]!r}: see docs/howto/measure.md"
        )
        raise ConfigError(msg) from error
    if op not in _OPS or (op != "delete" and not isinstance(text, str)):
        msg = f"expected create, update or delete with a text in line {number}, got {op!r}"
        raise ConfigError(msg)
    return Event(op, str(key), text or "")


async def evaluate_edits(
    history: Path, *, embedder: str = "constant", tell: Tell = lambda _: None
) -> dict[str, Any]:
    """Replay a history; at the end, compare with an index built from the last state alone."""
    events = list(read_history(history))
    if not events:
        raise ConfigError(f"expected events in {str(history)!r}, it is empty: give another file")
    with scratch_folder() as folder:
        text = (
            f"project: edits\ndata: {folder}/data\nserver: {{port: 0}}\n"
            f"knowledge: {{embedder: {embedder}}}\n"
            f"sources:\n  {_REPLAYED}: {{type: files, path: {folder}/documents}}\n"
        )
        settings = parse_settings(text, file=folder / "penstock.yaml", environment={})
        async with open_project(settings=settings) as project:
            extractor = ChildExtractor()
            try:
                return await _Replay(project, extractor, tell).run(events)
            finally:
                await extractor.close()


class _Replay:
    """One history on its way through one project."""

    def __init__(self, project: Project, extractor: Extractor, tell: Tell) -> None:
        self._project = project
        self._extractor = extractor
        self._tell = tell
        self._embedder = CountingEmbedder(project.embedder())
        self._pipeline = wiring.courses(project.settings)[0].pipeline
        self._clock: Clock = project.clock
        self._number = 0

    async def run(self, events: Sequence[Event]) -> dict[str, Any]:
        tally, seen = Tally(), _Windows()
        began = self._clock.monotonic()
        for event in events:
            await self._edit(event, tally, seen)
            if tally.events % _EVERY == 0:
                self._tell(f"replayed {tally.events:,} of {len(events):,} events")
        seconds = self._clock.monotonic() - began
        self._tell("building an index from the last state, to compare")
        for path, text in tally.texts.items():
            await self._apply(_REBUILT, Event("create", path, text))
        replayed, rebuilt = await self._state(_REPLAYED), await self._state(_REBUILT)
        return _report(tally, seconds, replayed, rebuilt)

    async def _edit(self, event: Event, tally: Tally, seen: _Windows) -> None:
        edited = event.op != "delete" and event.path in tally.texts
        characters, chunks = self._embedder.characters, self._embedder.texts
        readable = await self._apply(_REPLAYED, event)
        characters = self._embedder.characters - characters
        fixed = 0 if event.op == "delete" else seen.cost(event.text)
        tally.events += 1
        tally.rejected += not readable
        tally.chunks += self._embedder.texts - chunks
        if event.op == "delete":
            tally.texts.pop(event.path, None)
        elif readable:
            tally.texts[event.path] = event.text
        if edited:
            tally.edits += 1
            tally.embedded += characters
            tally.whole += len(event.text)
            tally.fixed += fixed
        else:
            tally.first += characters

    async def _apply(self, source: str, event: Event) -> bool:
        """One event in one transaction, as a live change has it; False: it has no text."""
        self._number += 1
        change = await self._change(source, event)
        tools = Tools(self._embedder, self._project.store, "live")
        outcome = await self._pipeline.compute([change], tools)
        async with self._project.store.transaction() as transaction:
            for effect in outcome.effects:
                await transaction.apply(effect)
        return not outcome.rejected

    async def _change(self, source: str, event: Event) -> Change:
        schema, now = document_schema(source), Microseconds(self._clock.now())
        position = Position(f"{self._number:016x}")
        key = (event.path,)
        if event.op == "delete":
            return Change(schema, Op.DELETE, key, position, now)
        data = event.text.encode("utf-8", "replace")
        title, media_type, text, error = None, None, None, None
        metadata = "{}"
        try:
            found = await self._extractor.extract(event.path, data)
        except BadRecordError as reason:
            error = reason.reason
        else:
            title, media_type, text = found.title, found.media_type, found.text
            metadata = json.dumps(found.metadata, ensure_ascii=False)
        digest = sha256(data).hexdigest()
        row = (event.path, title, media_type, text, digest, str(len(data)), None, metadata, error)
        return Change(schema, _OPS[event.op], key, position, now, after=row)

    async def _state(self, source: str) -> list[tuple[Any, ...]]:
        """Every passage of a source in order, with its place, text, heading and vector."""
        async with self._project.pool.connection() as connection:
            cursor = await connection.execute(_STATE, [source])
            found: list[tuple[Any, ...]] = await cursor.fetchall()
            return found


_STATE: Final = b"""
SELECT d.key, d.title, d.media_type, d.content_hash, place.start, place.stop, c.heading, c.text,
       c.hash, c.terms, c.tokens, v.embedding::text
FROM penstock.documents d
LEFT JOIN LATERAL unnest(d.layout, d.starts, d.ends) AS place(chunk, start, stop) ON true
LEFT JOIN penstock.chunks c ON c.id = place.chunk
LEFT JOIN penstock.vectors v ON v.tenant = c.tenant AND v.model = c.model AND v.hash = c.hash
WHERE d.source = %s AND d.deleted_at IS NULL
ORDER BY d.key, place.start, place.stop
"""


class _Windows:
    """Fixed windows of text, each paid for once."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def cost(self, text: str) -> int:
        """The characters of the windows that were never seen before."""
        cost = 0
        for start in range(0, max(1, len(text) - OVERLAP), WINDOW - OVERLAP):
            window = text[start : start + WINDOW]
            if hash(window) not in self._seen:
                self._seen.add(hash(window))
                cost += len(window)
        return cost


def _report(
    tally: Tally, seconds: float, replayed: list[tuple[Any, ...]], rebuilt: list[tuple[Any, ...]]
) -> dict[str, Any]:
    lengths = [len(row[7]) for row in replayed if row[7] is not None]
    return {
        "events": tally.events,
        "edits": tally.edits,
        "documents": len({row[0] for row in replayed}),
        "characters_embedded": tally.embedded,
        "characters_whole_document": tally.whole,
        "characters_fixed_size": tally.fixed,
        "share_of_whole_document": round(tally.embedded / max(1, tally.whole), 4),
        "share_of_fixed_size": round(tally.embedded / max(1, tally.fixed), 4),
        "characters_first_versions": tally.first,
        "chunks_embedded": tally.chunks,
        "mean_chunk_characters": round(sum(lengths) / max(1, len(lengths)), 1),
        "seconds": round(seconds, 2),
        "unreadable": tally.rejected,
        "equal_to_final_state": replayed == rebuilt,
    }
