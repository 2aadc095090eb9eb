"""Answers: text with numbered citations, or an honest "not in here"."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Unpack

from penstock.clock import Clock, SystemClock
from penstock.models.base import Embedder, Generator, Usage, Writer
from penstock.models.extractive import Evidence, ExtractiveReader, Fact, Found, Reading
from penstock.models.sentences import sentences
from penstock.places import place_at
from penstock.principals import Principal
from penstock.records import Microseconds, Position
from penstock.serving.containment import Containment, addresses, contained
from penstock.serving.context import Asking, Context, ContextBuilder, Item
from penstock.serving.items import ContextRow
from penstock.serving.profiles import SOURCE as PROFILES
from penstock.serving.prompt import BUDGET, Template, messages, prompted, read_template
from penstock.serving.rewriting import both
from penstock.serving.statements import SHAPE, asked_for_statements, stated
from penstock.serving.values import iso, jsonable, plain
from penstock.stores.base import Passage

ABSTAINED: Final = "The context does not answer this."
LONGEST_ANSWER: Final = 20_000
"""Characters; a model that does not stop is stopped."""
_MARK: Final = re.compile(r"\s?\[(\d+(?:\s*[,;]\s*\d+)*)\]")


@dataclass(frozen=True, slots=True)
class Citation:
    """What a statement rests on: a span of a document's text, or columns of a row.

    ``start`` and ``end`` are character offsets into the document (of a row: None). ``quote`` is the
    text there; of a row, what was cited of it. ``age_ms`` is the age of the source's part.
    ``place`` is where that is in a document with pages: ``page 3``, ``slide 2``, ``sheet 1``.
    """

    number: int
    kind: str
    source: str
    key: str
    title: str
    quote: str
    start: int | None
    end: int | None
    columns: tuple[str, ...]
    version: Position
    committed_at: Microseconds
    age_ms: float | None
    place: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {**jsonable(asdict(self)), "committed_at": iso(self.committed_at)}


@dataclass(frozen=True)
class Answer:
    """What came back. ``score`` (0 to 1) says how well the context fits the question; a language
    model's answer carries the context's."""

    text: str
    citations: tuple[Citation, ...]
    abstained: bool
    score: float
    context: Context
    generator: str
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    usage: Usage | None = None
    """What the generator took; None: none was asked, or it does not say."""
    dropped: int = 0
    """Statements of a generator that rested on nothing that it was shown."""

    @property
    def question(self) -> str:
        """What was asked."""
        return self.context.question

    @property
    def age_ms(self) -> float | None:
        """The age of the oldest source that is cited; without citations, of the oldest of all."""
        ages = [c.age_ms for c in self.citations] or [s.age_ms for s in self.context.sources]
        known = [age for age in ages if age is not None]
        return max(known) if known and len(known) == len(ages) else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        context = self.context.to_dict()
        return {
            "question": self.question,
            "text": self.text,
            "citations": [citation.to_dict() for citation in self.citations],
            "abstained": self.abstained,
            "score": round(self.score, 4),
            "age_ms": self.age_ms,
            "taken_at": context["taken_at"],
            "sources": context["sources"],
            "generator": self.generator,
            "searches": context["searches"],
            "notes": context["notes"],
            "usage": None if self.usage is None else asdict(self.usage),
            "dropped": self.dropped,
            "timings_ms": dict(self.timings_ms),
        }


class Answerer:
    """Answers from contexts: with ``generator``, or by extraction when that is None. A `Writer` is
    asked for statements with what they rest on, any other generator for text with marks."""

    def __init__(
        self,
        builder: ContextBuilder,
        *,
        embedder: Embedder,
        generator: Generator | Writer | None = None,
        template: Template | None = None,
        reader: ExtractiveReader | None = None,
        clock: Clock | None = None,
        budget: int = BUDGET,
        count: Callable[[str], int] | None = None,
    ) -> None:
        self._builder = builder
        self._generator = generator
        self._template = template or read_template()
        self._reader = reader or ExtractiveReader(embedder)
        self._clock = clock or SystemClock()
        self._budget = budget
        self._count = count

    async def answer(self, question: str, principal: Principal, **asking: Unpack[Asking]) -> Answer:
        """An answer from what may be known now by the one who asks. Errors are those of
        `ContextBuilder` and of the generator."""
        pieces = [piece async for piece in self.stream(question, principal, **asking)]
        answer = pieces[-1]
        assert isinstance(answer, Answer)
        return answer

    async def stream(
        self, question: str, principal: Principal, **asking: Unpack[Asking]
    ) -> AsyncIterator[str | Answer]:
        """The pieces of the answer's text as they come, and at the end the whole `Answer` (whose
        text may lack marks that cited nothing)."""
        began = self._clock.monotonic()
        context = await self._builder.context(question, principal, **asking)
        assembled = self._clock.monotonic()
        reading = Reading((), top_score(context))
        usage, dropped = None, 0
        known = addresses(shown_texts(context))
        if self._generator is None:
            reading = await self._reader.read(
                context.question, evidence_of(context), restricted=context.restricted
            )
            text, citations = extracted(context, reading)
            text = contained(text, known)
            yield text
        elif isinstance(self._generator, Writer):
            text, citations, usage, dropped = await self._written(self._generator, context)
            text = contained(text, known)
            yield text
        else:
            pieces: list[str] = []
            prompt = messages(self._template, context, budget=self._budget, count=self._count)
            containment = Containment(known)
            async for piece in self._generator.stream(prompt):
                pieces.append(containment.push(piece))
                if pieces[-1]:
                    yield pieces[-1]
                if sum(map(len, pieces)) > LONGEST_ANSWER:
                    break
            pieces.append(containment.end())
            if pieces[-1]:
                yield pieces[-1]
            text, citations = cited(context, "".join(pieces))
        ended = self._clock.monotonic()
        yield Answer(
            text=text,
            citations=citations,
            abstained=not citations or ABSTAINED.rstrip(".") in text,
            score=reading.score,
            context=context,
            generator=self._generator.name if self._generator else self._reader.name,
            timings_ms={
                **context.timings_ms,
                "answer": round((ended - assembled) * 1e3, 3),
                "total": round((ended - began) * 1e3, 3),
            },
            usage=both(context.usage, usage),
            dropped=dropped,
        )

    async def _written(
        self, writer: Writer, context: Context
    ) -> tuple[str, tuple[Citation, ...], Usage, int]:
        """Text, citations, what they took, and how many statements were dropped. Where nothing was
        found, nothing is asked."""
        if not context.items:
            return ABSTAINED, (), Usage(cost=0.0), 0
        prompt, shown = prompted(self._template, context, budget=self._budget, count=self._count)
        written = await writer.write(asked_for_statements(prompt), SHAPE)
        found = stated(written.value, shown)
        text, citations = cited(context, found.text)
        return text or ABSTAINED, citations, written.usage, found.dropped

    async def close(self) -> None:
        """Release the generator."""
        if self._generator is not None:
            await self._generator.close()


def shown_texts(context: Context) -> list[str]:
    """All that an answer is made from, as text: its addresses may stand in it."""
    return [
        " ".join(plain(value) for value in item.values.values())
        if isinstance(item, ContextRow)
        else item.text
        for item in context.items
    ]


# --------------------------------------------------------------------------- by extraction


def evidence_of(context: Context) -> list[Evidence]:
    """What the extractive reader reads, in the order of the context's items."""
    return [
        Evidence(
            item.title,
            item.score,
            facts=tuple(
                Fact(name, plain(value), name in item.searched)
                for name, value in item.values.items()
            ),
        )
        if isinstance(item, ContextRow)
        else Evidence(
            f"{item.title} {item.heading}".strip(),
            item.score,
            item.text,
            similarity=item.similarity,
            text_score=item.text_score,
        )
        for item in context.items
    ]


def extracted(context: Context, reading: Reading) -> tuple[str, tuple[Citation, ...]]:
    """The text of what was found, each part with its number, and the citations."""
    if not reading.found:
        return ABSTAINED, ()
    citations = tuple(
        _citation(number, context, context.items[found.evidence], found)
        for number, found in enumerate(reading.found, 1)
    )
    parts = [
        f"{' '.join(found.text.split())} [{citation.number}]"
        for found, citation in zip(reading.found, citations, strict=True)
    ]
    return ("\n" if any(c.kind == "row" for c in citations) else " ").join(parts), citations


def _citation(number: int, context: Context, item: Item, found: Found) -> Citation:
    passage = item if isinstance(item, Passage) else None
    return Citation(
        number=number,
        kind="passage" if passage else "row",
        source=item.source,
        key=item.key,
        title=item.title,
        quote=found.text,
        start=passage.start + found.start if passage else None,
        end=passage.start + found.end if passage else None,
        columns=found.columns,
        version=item.version,
        committed_at=item.committed_at,
        age_ms=context.age_ms(item.source),
        place=place_at(passage.metadata, passage.start + found.start) if passage else None,
    )


# --------------------------------------------------------------------------- by a language model


def top_score(context: Context) -> float:
    """How well the best item fits, 0 to 1."""
    scores = [item.score for item in context.items if item.source != PROFILES]
    return max((min(1.0, max(0.0, score / 2)) for score in scores), default=0.0)


def cited(context: Context, text: str) -> tuple[str, tuple[Citation, ...]]:
    """A model's text with its marks checked: those of items that there are become citations in the
    order of first use, numbered anew; all others are removed."""
    order: dict[int, int] = {}
    before: dict[int, str] = {}

    def replaced(match: re.Match[str]) -> str:
        items = [int(part) for part in re.split(r"\s*[,;]\s*", match[1]) if len(part) < 6]
        items = [item for item in items if 1 <= item <= len(context.items)]
        for item in items:
            before.setdefault(item, text[: match.start()])
            order.setdefault(item, len(order) + 1)
        space = " " if match[0][0].isspace() else ""
        return space + "".join(f"[{order[item]}]" for item in items) if items else ""

    written = _MARK.sub(replaced, text).strip()
    return written, tuple(
        _citation(number, context, context.items[item - 1], _support(context, item, before[item]))
        for item, number in order.items()
    )


def _support(context: Context, item: int, before: str) -> Found:
    """The sentence of the cited passage that has most words in common with the statement."""
    cited_item = context.items[item - 1]
    if isinstance(cited_item, ContextRow):
        row = evidence_of(context)[item - 1]
        said = before.lower()
        columns = tuple(f.name for f in row.facts if f.value and f.value.lower() in said)
        quote = ", ".join(f"{f.words} {f.value}" for f in row.facts if f.name in columns)
        return Found(item - 1, quote or cited_item.title, 0, 0, columns, 0.0)
    spans = sentences(before)
    stated = set(re.findall(r"\w+", before[spans[-1].start :].lower())) if spans else set()
    best = max(
        sentences(cited_item.text),
        key=lambda s: len(
            stated & set(re.findall(r"\w+", cited_item.text[s.start : s.end].lower()))
        ),
        default=None,
    )
    start, end = best or (0, len(cited_item.text))
    return Found(item - 1, cited_item.text[start:end], start, end, (), 0.0)
