"""What a model should be told about a question: passages, live rows and how old each source is.

The question is embedded first; then everything is read in one snapshot (G6). A row is found by the
text that was embedded of it, and shown with the values it has in that snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypedDict

from penstock.clock import Clock, SystemClock
from penstock.errors import ChangedModelError, ConfigError, RetryableError, UnavailableError
from penstock.models.base import Embedder, Usage, question_vectors, serving
from penstock.principals import Principal
from penstock.records import Microseconds, Position
from penstock.serving.items import ContextRow, RowView
from penstock.serving.profiles import ProfileFound, ProfileWanted, read_profile
from penstock.serving.reranking import Reranker
from penstock.serving.retrieval import Mode, Search, retrieve, widened
from penstock.serving.rewriting import Rewriter, Rewritten
from penstock.serving.shaping import Shaping
from penstock.serving.values import iso, jsonable, plain
from penstock.stores.base import (
    Filter,
    LiveRow,
    ModelledSnapshot,
    Passage,
    Snapshot,
    SnapshotStore,
    SourceAge,
)
from penstock.tracing import model_call, span

LONGEST_QUESTION: Final = 20_000
"""Characters; a longer text is a document, not a question."""
MOST_ITEMS: Final = 1000
"""Passages and rows of a context; more is no context but an export."""
_ATTEMPTS: Final = 3
_TIMES: Final = frozenset({"committed_at", "as_of"})


@dataclass(frozen=True, slots=True)
class SourceState:
    """How current one source's part is. ``age_ms`` is None while nothing is known."""

    source: str
    as_of: Microseconds | None
    age_ms: float | None
    position: Position | None
    loading: bool


Item: TypeAlias = Passage | ContextRow
_FIELDS: Final[Mapping[type, tuple[str, ...]]] = {
    part: tuple(field.name for field in fields(part)) for part in (Passage, ContextRow, SourceState)
}


class Asking(TypedDict, total=False):
    """How a question is asked: the options of `ContextBuilder.context`."""

    where: Filter | None
    limit: int
    mode: Mode
    shape: Shaping | None
    profile: ProfileWanted | None


@dataclass(frozen=True)
class Context:
    """All of one moment. ``items`` are passages and rows together, best first: the number that a
    citation names is the place there, counted from 1."""

    question: str
    items: tuple[Item, ...]
    sources: tuple[SourceState, ...]
    taken_at: Microseconds
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    reranked: str | None = None
    """What ordered the items last; None: the scores that found them."""
    notes: tuple[str, ...] = ()
    """What did not go as it should, though there is a context."""
    restricted: bool = False
    """Whether only some of the documents were asked, by a filter."""
    searches: tuple[str, ...] = ()
    """What was searched beside the question."""
    usage: Usage | None = None
    """What rewriting took."""

    @property
    def passages(self) -> list[Passage]:
        """The parts of documents, best first."""
        return [item for item in self.items if isinstance(item, Passage)]

    @property
    def rows(self) -> list[ContextRow]:
        """The rows, best first."""
        return [item for item in self.items if isinstance(item, ContextRow)]

    @property
    def scores(self) -> list[float]:
        """Of the items."""
        return [item.score for item in self.items]

    def age_ms(self, source: str) -> float | None:
        """How old one source's part is."""
        return next((part.age_ms for part in self.sources if part.source == source), None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it; times are ISO 8601, exact numbers are texts."""
        return {
            "question": self.question,
            "taken_at": iso(self.taken_at),
            "passages": [_shown(item) for item in self.passages],
            "rows": [_shown(item) for item in self.rows],
            "sources": [_shown(part) for part in self.sources],
            "reranked": self.reranked,
            "notes": list(self.notes),
            "searches": list(self.searches),
            "timings_ms": dict(self.timings_ms),
        }


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is read for a question; ``model`` made its vector."""

    question: str
    model: str
    where: Filter | None
    limit: int
    mode: Mode
    shape: Shaping
    rewritten: Rewritten
    profile: ProfileWanted | None


class ContextBuilder:
    """Assembles contexts. ``rows`` says, by source and table, what is shown of live rows."""

    def __init__(
        self,
        snapshots: SnapshotStore,
        embedder: Embedder,
        *,
        clock: Clock | None = None,
        rows: Mapping[tuple[str, str], RowView] = MappingProxyType({}),
        reranker: Reranker | None = None,
        shape: Shaping | None = None,
        rewriter: Rewriter | None = None,
    ) -> None:
        self._snapshots = snapshots
        self._embedder = embedder
        self._clock = clock or SystemClock()
        self._rows = rows
        self._reranker = reranker
        self._shape = shape or Shaping()
        self._rewriter = rewriter

    async def context(
        self,
        question: str,
        principal: Principal,
        *,
        where: Filter | None = None,
        limit: int = 8,
        mode: Mode = "hybrid",
        shape: Shaping | None = None,
        profile: ProfileWanted | None = None,
    ) -> Context:
        """What may be known about a question by the one who asks, at most ``limit`` passages and
        rows; and before them the ``profile`` of the one whom it is about.

        Raises `ConfigError` for a question that is empty or too long, `RetryableError` when the
        model or the database cannot be reached.
        """
        question = checked(question)
        if not 1 <= limit <= MOST_ITEMS:
            raise ConfigError(
                f"expected a limit from 1 to {MOST_ITEMS} passages and rows, got {limit}: a larger "
                "part of the documents is read from their source"
            )
        with span("penstock.context", mode=mode, limit=limit) as measured:
            asked = _Asked(
                question, "", where, limit, mode, shape or self._shape, Rewritten(), profile
            )
            context = await self._context(asked, principal)
            measured.set(items=len(context.items))
        return context

    async def _context(self, asked: _Asked, principal: Principal) -> Context:
        asked_at = self._clock.monotonic()
        question = asked.question
        rewritten = Rewritten()
        if self._rewriter is not None:
            rewritten = await self._rewriter.rewrite(question)
        began = self._clock.monotonic()
        for attempt in range(1, _ATTEMPTS + 1):
            # Whether it is still the one that is searched is seen in the snapshot.
            embedder = await serving(self._embedder, fresh=attempt > 1)
            asked = replace(asked, model=embedder.name, rewritten=rewritten)
            searches = await _searches(embedder, [question, *rewritten.searches], asked.mode)
            embedded = self._clock.monotonic()
            try:
                async with self._snapshots.snapshot(principal) as opened:
                    context = await self._read(opened, asked, searches)
                break
            except UnavailableError:
                raise
            except RetryableError:  # a table was altered, or the model changed, in between
                if attempt == _ATTEMPTS:
                    raise
        timings = {
            **({} if self._rewriter is None else {"rewrite": round((began - asked_at) * 1e3, 3)}),
            "embed": round((embedded - began) * 1e3, 3),
            **context.timings_ms,
            "total": round((self._clock.monotonic() - asked_at) * 1e3, 3),
        }
        return replace(context, timings_ms=timings)

    async def _read(self, snapshot: Snapshot, asked: _Asked, searches: Sequence[Search]) -> Context:
        """Everything that is read, in one snapshot."""
        first, *others = searches
        taken_at = self._clock.now()
        began = self._clock.monotonic()
        retrieved = await retrieve(
            snapshot,
            asked.question,
            first.vector,
            model=asked.model,
            where=asked.where,
            limit=asked.limit,
            mode=asked.mode,
            reranker=self._reranker,
            shape=asked.shape,
            now=taken_at,
            others=others,
        )
        if first.vector is not None:  # asked with the search: it costs no time of its own here
            await expect_serving(snapshot, asked.model)
        passages = retrieved.passages
        if asked.shape.neighbours:
            best = passages[: asked.limit]
            passages = await widened(best, snapshot, asked.shape.neighbours)
        found = self._clock.monotonic()
        rows = await snapshot.rows([p for p in passages if p.stream is not None])
        ages = await snapshot.ages()
        person = ProfileFound()
        if asked.profile is not None:
            person = await read_profile(snapshot, asked.profile, ages, taken_at)
        ended = self._clock.monotonic()
        items = self._items(passages, rows)[: asked.limit]
        return Context(
            asked.question,
            (*person.items, *items),
            tuple(_state(age, taken_at) for age in (*ages, *person.ages)),
            taken_at,
            {
                "search": round((found - began) * 1e3, 3),
                "read": round((ended - found) * 1e3, 3),
            },
            retrieved.reranked,
            tuple(
                note
                for note in (asked.rewritten.note, retrieved.note, person.note)
                if note is not None
            ),
            asked.where not in (None, Filter()),
            asked.rewritten.searches,
            asked.rewritten.usage,
        )

    def _items(self, passages: Sequence[Passage], rows: Sequence[LiveRow]) -> list[Item]:
        """Row passages become their rows; one whose row is gone is dropped, one row is one item."""
        live = {(row.source, row.table, tuple(row.key)): row for row in rows}
        items: list[Item] = []
        for passage in passages:
            if passage.stream is None:
                items.append(passage)
                continue
            row = live.pop((passage.source, passage.stream, tuple(passage.row_key or ())), None)
            if row is not None:
                view = self._rows.get((passage.source, passage.stream), RowView())
                items.append(_context_row(passage, row, view))
        return items


async def _searches(embedder: Embedder, texts: Sequence[str], mode: Mode) -> list[Search]:
    """Texts with their vectors, where these are searched."""
    if mode == "text":
        return [Search(text, None) for text in texts]
    with model_call("embeddings", embedder.name, texts=len(texts)):
        vectors = await question_vectors(embedder, texts)
    return [Search(text, vector) for text, vector in zip(texts, vectors, strict=True)]


async def expect_serving(snapshot: Snapshot, model: str) -> None:
    """Raise `ChangedModelError` when another model's vectors are searched in this snapshot."""
    if not isinstance(snapshot, ModelledSnapshot):
        return
    searched = await snapshot.serving_model()
    if searched is not None and searched != model:
        raise ChangedModelError(
            f"expected to ask with {searched!r}, whose vectors are searched, got a vector of "
            f"{model!r}: ask again",
            model=searched,
        )


def checked(question: str) -> str:
    """The question as it can be embedded and stored; `ConfigError` when there is none."""
    cleaned = question.encode("utf-8", "replace").decode().replace("\x00", " ").strip()
    if not cleaned:
        raise ConfigError(f"expected a question, got {question!r}")
    if len(cleaned) > LONGEST_QUESTION:
        raise ConfigError(
            f"expected a question of at most {LONGEST_QUESTION} characters, got {len(cleaned)}: "
            "ask about a part of it"
        )
    return cleaned


def _context_row(passage: Passage, row: LiveRow, view: RowView) -> ContextRow:
    shown = None if view.shown is None else {*view.shown, *view.searched}
    values = {name: v for name, v in row.values.items() if shown is None or name in shown}
    return ContextRow(
        source=row.source,
        table=row.table,
        key=passage.key,
        row_key=tuple(row.key),
        title=_title(view.title, row) or passage.title or passage.key,
        values=values,
        searched=tuple(name for name in values if name in view.searched),
        version=row.version,
        committed_at=row.committed_at,
        score=passage.score,
        similarity=passage.similarity,
        text_score=passage.text_score,
    )


def _title(template: str | None, row: LiveRow) -> str:
    """The row's name with its present values; a name in braces that is no column stays."""
    if template is None:
        return ""
    values = row.values
    return re.sub(r"\{(\w+)\}", lambda m: plain(values[m[1]]) if m[1] in values else m[0], template)


def _state(age: SourceAge, now: Microseconds) -> SourceState:
    age_ms = None if age.as_of is None else max(0.0, round((now - age.as_of) / 1000, 3))
    return SourceState(age.source, age.as_of, age_ms, age.position, age.loading)


def _shown(part: Passage | ContextRow | SourceState) -> dict[str, Any]:
    found = {}
    for name in _FIELDS[type(part)]:
        value = getattr(part, name)
        found[name] = iso(value) if name in _TIMES else jsonable(value)
    return found
