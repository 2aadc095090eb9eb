"""Answers: text with numbered citations, or an honest "not in here"."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Protocol, Unpack

from penstock.clock import Clock, SystemClock
from penstock.models.base import (
    Author,
    CountedGenerator,
    Embedder,
    Generator,
    PersonalGenerator,
    Priority,
    ThriftyGenerator,
    Usage,
    Writer,
    asked_by,
)
from penstock.models.extractive import Evidence, ExtractiveReader, Fact, Found, Reading
from penstock.models.gateway.base import ToolCall
from penstock.models.sentences import sentences
from penstock.places import place_at
from penstock.principals import Principal
from penstock.records import Microseconds, Position
from penstock.serving.containment import Containment, addresses, contained
from penstock.serving.context import Asking, Context, ContextBuilder, Item
from penstock.serving.items import ContextRow
from penstock.serving.profiles import SOURCE as PROFILES
from penstock.serving.prompt import BUDGET, Prompt, Template, prompted, read_template
from penstock.serving.rewriting import both
from penstock.serving.statements import SHAPE, asked_for_statements, stated
from penstock.serving.values import iso, jsonable, plain
from penstock.stores.base import Passage
from penstock.stores.ledger import new_id
from penstock.tracing import begin_model_call, model_call, span

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
    raw: str | None = None
    """What a generator wrote, before it was looked at."""
    shown: int = 0
    """How many of the context's items, the first ones, stood in the prompt."""
    author: Author | None = None
    """The model that wrote it; None: none did, or it does not say."""
    calls: tuple[ToolCall, ...] = ()
    """What the model wants done, by whoever gave it tools."""
    id: str | None = None
    """Its name in the ledger; None: nothing is kept."""

    @property
    def question(self) -> str:
        """What was asked."""
        return self.context.question

    @property
    def good(self) -> bool:
        """Whether it says something, all of it resting on what it cites."""
        return not self.abstained and bool(self.citations) and not self.dropped

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
            "id": self.id,
            "question": self.question,
            "text": self.text,
            "citations": [citation.to_dict() for citation in self.citations],
            "abstained": self.abstained,
            "score": round(self.score, 4),
            "age_ms": self.age_ms,
            "taken_at": context["taken_at"],
            "sources": context["sources"],
            "generator": self.generator,
            "author": None if self.author is None else asdict(self.author),
            "searches": context["searches"],
            "notes": context["notes"],
            "usage": None if self.usage is None else asdict(self.usage),
            "dropped": self.dropped,
            "timings_ms": dict(self.timings_ms),
        }


@dataclass(frozen=True, slots=True)
class Spoken:
    """A question within a conversation: as it came, and what making it stand for itself took."""

    said: str
    session: str | None = None
    usage: Usage | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """How an answer came about, beside its context."""

    principal: Principal
    asking: Asking
    template: Template
    parameters: Mapping[str, Any]
    """Of the generator."""
    spoken: Spoken | None = None
    id: str | None = None
    """The name that the answer will have in the ledger."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What else is pinned of it, as content."""


class Keeper(Protocol):
    """Keeps answers, so that it can be said afterwards why one was given."""

    async def keep(self, asked: Asked, answer: Answer) -> str | None:
        """Returns the answer's id once it is kept; None where nothing is. Raises `RetryableError`
        where it cannot be kept: then it is not given out."""

    def cut(self, asked: Asked, answer: Answer) -> None:
        """A text of which only this much was given out. Does not wait."""


class Quality(Protocol):
    """Who wants to know how good the answers of models are."""

    def judged(self, author: Author | None, *, good: bool) -> None:
        """Of one answer, or one rating. Does not wait."""


async def kept(keeper: Keeper | None, clock: Clock, asked: Asked, answer: Answer) -> Answer:
    """The answer with its id, once it is kept, and with how long that took."""
    if keeper is None:
        return answer
    began = clock.monotonic()
    name = await keeper.keep(asked, answer)
    took = round((clock.monotonic() - began) * 1e3, 3)
    return replace(answer, id=name, timings_ms={**answer.timings_ms, "keep": took})


def timed(clock: Clock, answer: Answer, began: float) -> Answer:
    """The answer with how long it took in all, and beside its context, since ``began``."""
    total = round((clock.monotonic() - began) * 1e3, 3)
    before = answer.context.timings_ms
    rest = round(max(0.0, total - before.get("total", 0.0)), 3)
    return replace(answer, timings_ms={**before, "answer": rest, "total": total})


class Answerer:
    """Answers from contexts: with ``generator``, or by extraction when that is None. A `Writer` is
    asked for statements with what they rest on, any other generator for text with marks."""

    def __init__(
        self,
        builder: ContextBuilder,
        *,
        embedder: Embedder,
        generator: Generator | Writer | PersonalGenerator | None = None,
        template: Template | None = None,
        reader: ExtractiveReader | None = None,
        clock: Clock | None = None,
        budget: int = BUDGET,
        count: Callable[[str], int] | None = None,
        keeper: Keeper | None = None,
        parameters: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._builder = builder
        self._keeper = keeper
        self._parameters = parameters
        self._generator = generator
        self._template = template or read_template()
        self._reader = reader or ExtractiveReader(embedder)
        self._clock = clock or SystemClock()
        self._budget = budget
        self._count = count
        self._priority: Priority = "query"

    async def answer(self, question: str, principal: Principal, **asking: Unpack[Asking]) -> Answer:
        """An answer from what may be known now by the one who asks. Errors are those of
        `ContextBuilder` and of the generator."""
        pieces = [piece async for piece in self.stream(question, principal, **asking)]
        answer = pieces[-1]
        assert isinstance(answer, Answer)
        return answer

    async def stream(
        self,
        question: str,
        principal: Principal,
        *,
        spoken: Spoken | None = None,
        **asking: Unpack[Asking],
    ) -> AsyncIterator[str | Answer]:
        """The pieces of the answer's text as they come, and at the end the whole `Answer` (whose
        text may lack marks that cited nothing)."""
        began = self._clock.monotonic()
        name = None if self._keeper is None else new_id("answer")
        asked = Asked(principal, asking, self._template, self._parameters, spoken, name)
        generator = self._for(principal, name or "")
        if generator is None or isinstance(generator, Writer):
            with span("penstock.answer"):
                context = await self._context(question, asked)
                made = await self._at_once(generator, context, self._template)
                answer = await kept(
                    self._keeper, self._clock, asked, timed(self._clock, made, began)
                )
            yield answer.text  # only now: what was given out is kept, whatever happens
            yield answer
            return
        context = await self._context(question, asked)
        pieces: list[str] = []
        raw: list[str] = []
        whole = False
        try:
            async for piece in self._streamed(generator, context, self._template, raw):
                pieces.append(piece)
                yield piece
            whole = True
        finally:
            if pieces and not whole and self._keeper is not None:
                made = self._read(generator, context, "".join(pieces), "".join(raw))
                self._keeper.cut(asked, timed(self._clock, made, began))
        made = self._read(generator, context, "".join(pieces), "".join(raw))
        yield await kept(self._keeper, self._clock, asked, timed(self._clock, made, began))

    def _for(self, principal: Principal, name: str = "") -> Generator | Writer | None:
        if self._generator is None:
            return None
        return asked_by(self._generator, principal, name, self._priority)

    async def _context(self, question: str, asked: Asked) -> Context:
        context = await self._builder.context(question, asked.principal, **asked.asking)
        spoken = asked.spoken
        if spoken is None:
            return context
        notes = context.notes if spoken.note is None else (*context.notes, spoken.note)
        return replace(context, notes=notes, usage=both(context.usage, spoken.usage))

    async def from_context(
        self, context: Context, principal: Principal, template: Template | None = None
    ) -> Answer:
        """An answer from a context as it was, which nobody keeps; a model is asked for it in the
        name of ``principal``."""
        began = self._clock.monotonic()
        prompt, generator = template or self._template, self._for(principal)
        if generator is None or isinstance(generator, Writer):
            return timed(self._clock, await self._at_once(generator, context, prompt), began)
        raw: list[str] = []
        pieces = [piece async for piece in self._streamed(generator, context, prompt, raw)]
        return timed(
            self._clock, self._read(generator, context, "".join(pieces), "".join(raw)), began
        )

    def unkept(self) -> Answerer:
        """The same, whose answers are not kept: for measuring. Whoever is measured lets others go
        first."""
        other = self.patient()
        other._keeper = None  # noqa: SLF001 - of the same class
        return other

    def patient(self) -> Answerer:
        """The same for those who can wait: what a person asks is asked of models first."""
        other = copy.copy(self)
        other._priority = "bulk"  # noqa: SLF001 - of the same class
        return other

    async def _at_once(self, writer: Writer | None, context: Context, template: Template) -> Answer:
        """By extraction, or in statements: the whole text comes at once."""
        if writer is not None:
            return await self._written(writer, context, template)
        reading = await self._reader.read(
            context.question, evidence_of(context), restricted=context.restricted
        )
        text, citations = extracted(context, reading)
        text = contained(text, addresses(shown_texts(context)))
        return self._made(context, text, citations, score=reading.score)

    async def _streamed(
        self, generator: Generator, context: Context, template: Template, raw: list[str]
    ) -> AsyncIterator[str]:
        """What may be shown of what is written, as it comes; ``raw`` gets what was written."""
        prompt = self._prompted(generator, context, template)
        containment = Containment(addresses(shown_texts(context)))
        written = 0
        measured = begin_model_call("chat", generator.name)
        try:
            async for piece in generator.stream(prompt.messages):
                raw.append(piece)
                if shown := containment.push(piece):
                    yield shown
                written += len(piece)
                if written > LONGEST_ANSWER:
                    break
            if shown := containment.end():
                yield shown
        finally:
            measured.end()

    def _read(self, generator: Generator, context: Context, given: str, raw: str) -> Answer:
        """What was given out of what a generator of text wrote, with its marks looked at."""
        text, citations = cited(context, given)
        usage = generator.usage if isinstance(generator, CountedGenerator) else None
        author = generator.author if isinstance(generator, CountedGenerator) else None
        shown = self.prompt_of(context, self._template).shown
        return self._made(
            context, text, citations, usage=usage, raw=raw, shown=shown, author=author
        )

    async def _written(self, writer: Writer, context: Context, template: Template) -> Answer:
        """Statements. Where nothing was found, nothing is asked."""
        if not context.items:
            return self._made(context, ABSTAINED, (), usage=Usage(cost=0.0))
        prompt = self._prompted(writer, context, template)
        with model_call("chat", writer.name) as measured:
            written = await writer.write(asked_for_statements(prompt.messages), SHAPE)
            used = written.usage
            measured.set(
                gen_ai__usage__input_tokens=used.input_tokens,
                gen_ai__usage__output_tokens=used.output_tokens,
                penstock__cost=used.cost,
            )
        found = stated(written.value, prompt.shown)
        text, citations = cited(context, found.text)
        text = contained(text, addresses(shown_texts(context)))
        return self._made(
            context,
            text or ABSTAINED,
            citations,
            usage=written.usage,
            dropped=found.dropped,
            raw=json.dumps(written.value),
            shown=prompt.shown,
            author=written.author,
        )

    def _made(
        self,
        context: Context,
        text: str,
        citations: tuple[Citation, ...],
        *,
        score: float | None = None,
        usage: Usage | None = None,
        author: Author | None = None,
        **more: Any,
    ) -> Answer:
        by = self._generator or self._reader
        return Answer(
            text=text,
            citations=citations,
            abstained=not citations or ABSTAINED.rstrip(".") in text,
            score=top_score(context) if score is None else score,
            context=context,
            generator=author.name if author else by.name,
            author=author,
            usage=both(context.usage, usage),
            **more,
        )

    async def prompt(self, question: str, principal: Principal, **asking: Unpack[Asking]) -> Prompt:
        """What asks for an answer to a question, with its context: for those who ask a language
        model themselves."""
        context = await self._builder.context(question, principal, **asking)
        return self.prompt_of(context, self._template)

    def prompt_of(self, context: Context, template: Template) -> Prompt:
        """What asks for an answer from a context."""
        return prompted(template, context, budget=self._budget, count=self._count)

    def _prompted(
        self, generator: Generator | Writer, context: Context, template: Template
    ) -> Prompt:
        """What asks for an answer; who is asked is told what it is about, if that is of use."""
        prompt = self.prompt_of(context, template)
        if isinstance(generator, ThriftyGenerator):
            # Asked with a template of then, it is asked anew: that is what a replay is for.
            generator.about(prompt.matter if template is self._template else None)
        return prompt

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
        citation_of(number, context, context.items[found.evidence], found)
        for number, found in enumerate(reading.found, 1)
    )
    parts = [
        f"{' '.join(found.text.split())} [{citation.number}]"
        for found, citation in zip(reading.found, citations, strict=True)
    ]
    return ("\n" if any(c.kind == "row" for c in citations) else " ").join(parts), citations


def citation_of(number: int, context: Context, item: Item, found: Found) -> Citation:
    """What ``found`` of an item is cited as."""
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
        citation_of(
            number, context, context.items[item - 1], support_of(context, item, before[item])
        )
        for item, number in order.items()
    )


def support_of(context: Context, item: int, before: str) -> Found:
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
