"""What people say of answers, and what applications answered by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from penstock.clock import Clock
from penstock.errors import ConfigError
from penstock.models.base import Author
from penstock.principals import Principal
from penstock.serving.answer import Quality
from penstock.serving.context import Asking, Context, checked
from penstock.serving.ledger.pinned import pinned_asking, pinned_context, pinned_items
from penstock.serving.ledger.recorder import shown_principal
from penstock.stores.ledger import Entry, EntryKind, LedgerStore, NewEntry, new_id

Scale = Literal["thumbs", "stars"]
Verdict = Literal["up", "neutral", "down"]
_BOUNDS: Final[Mapping[Scale, tuple[int, int]]] = {"thumbs": (-1, 1), "stars": (1, 5)}
_RATED: Final[tuple[EntryKind, ...]] = ("answer", "interaction")
MOST_TEXT: Final = 20_000
_LOOKED_AT: Final = 100


class NotKeptError(ConfigError):
    """The ledger is off: nothing can be said of answers that are not kept."""


class UnknownEntryError(ConfigError):
    """What is named is not in the ledger, or is somebody else's."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """A rating, a comment, a correction: at least one of them. ``thumbs`` are -1, 0 and 1,
    ``stars`` 1 to 5."""

    about: str
    rating: int | None = None
    scale: Scale = "thumbs"
    comment: str | None = None
    correction: str | None = None

    def __post_init__(self) -> None:
        least, most = _BOUNDS[self.scale]
        if self.rating is not None and not least <= self.rating <= most:
            raise ConfigError(
                f"expected a rating from {least} to {most} ({self.scale}), got {self.rating}"
            )
        if self.rating is None and not self.comment and not self.correction:
            raise ConfigError("expected a rating, a comment or a correction, got none of them")

    @property
    def verdict(self) -> Verdict | None:
        """What the rating says, on whichever scale."""
        if self.rating is None:
            return None
        middle = sum(_BOUNDS[self.scale]) // 2
        if self.rating == middle:
            return "neutral"
        return "up" if self.rating > middle else "down"


@dataclass(frozen=True, slots=True)
class Interaction:
    """A question that an application answered by itself. ``context`` is the id of the context that
    it was given, ``generator`` what it answered with."""

    question: str
    answer: str
    context: str | None = None
    session: str | None = None
    generator: str | None = None


@dataclass(frozen=True, slots=True)
class Voices:
    """Takes down what people and applications say."""

    ledger: LedgerStore | None
    clock: Clock
    quality: Quality | None = None
    """Who is told what ratings say of models."""

    async def rate(
        self, said: Feedback, who: Principal, *, once: str | None = None, any_owner: bool = False
    ) -> str:
        """Feedback on an answer or interaction of ``who`` (``any_owner``: of anybody); returns its
        id. `UnknownEntryError` where there is none that is theirs."""
        ledger = self._kept()
        entry = await ledger.find(said.about, None if any_owner else who)
        if entry is None or entry.kind not in _RATED:
            raise _unknown("an answer or interaction", said.about)
        facts = {"rating": said.rating, "scale": said.scale, "verdict": said.verdict}
        content = {
            "principal": shown_principal(who),
            "about": entry.id,
            "rating": said.rating,
            "comment": said.comment,
            "correction": said.correction,
        }
        made = self._entry("feedback", facts, content, who, entry.id, once)
        first = self.quality is None or await self._unrated(ledger, entry)
        name = await ledger.append(made)
        author = entry.facts.get("author")
        if self.quality is not None and first and author and said.verdict in ("up", "down"):
            self.quality.judged(Author(**author), good=said.verdict == "up")
        return name

    async def _unrated(self, ledger: LedgerStore, entry: Entry) -> bool:
        """Whether nobody has rated it: of several ratings the first one counts for its model."""
        said = ledger.entries(kinds=["feedback"], about=entry.id, limit=_LOOKED_AT)
        return all([one.facts.get("verdict") not in ("up", "down") async for one in said])

    async def tell(self, said: Interaction, who: Principal, *, once: str | None = None) -> str:
        """What an application answered; returns its id. `UnknownEntryError` for a context that is
        not theirs."""
        ledger = self._kept()
        if said.context is not None:
            found = await ledger.find(said.context, who)
            if found is None or found.kind != "context":
                raise _unknown("a context", said.context)
        content = {
            "principal": shown_principal(who),
            "question": checked(said.question),
            "text": said.answer,
            "session": said.session,
            "context": said.context,
            "generator": said.generator,
        }
        # What an application says of itself may be anything: no fact of ours.
        made = self._entry("interaction", {}, content, who, said.context, once)
        return await ledger.append(made)

    async def pin(self, context: Context, asking: Asking, who: Principal) -> str:
        """Keep a context that an application will answer from; returns its id."""
        content = {
            "principal": shown_principal(who),
            "question": context.question,
            "asking": pinned_asking(asking),
            "context": pinned_context(context),
        }
        facts = {"items": len(context.items), "timings_ms": dict(context.timings_ms)}
        items = pinned_items(context)
        entry = NewEntry("context", new_id("context"), self.clock.now(), facts, content, who, items)
        return await self._kept().append(entry)

    def _entry(
        self,
        kind: EntryKind,
        facts: dict[str, Any],
        content: dict[str, Any],
        who: Principal,
        about: str | None,
        once: str | None,
    ) -> NewEntry:
        key = None if once is None else f"{kind}:{once}"
        return NewEntry(
            kind, new_id(kind), self.clock.now(), facts, content, who, about=about, once=key
        )

    def _kept(self) -> LedgerStore:
        if self.ledger is None:
            raise NotKeptError("expected a project that keeps answers, got ledger.content: off")
        return self.ledger


def _unknown(what: str, name: str) -> UnknownEntryError:
    return UnknownEntryError(f"expected the id of {what} of yours, found none: {name[:100]!r}")


def question_of(entry: Entry, said: Entry) -> dict[str, Any] | None:
    """A rated answer as a question for ``penstock eval answers``; None where its content is gone. A
    correction is what is expected of an answer; an answer that was good says which documents hold
    it, or that there is none."""
    if entry.content is None:
        return None
    correction = None if said.content is None else said.content.get("correction")
    verdict = said.facts.get("verdict")
    found: dict[str, Any] = {"id": said.id, "question": entry.content["question"]}
    cited = [part["key"] for part in entry.content.get("citations") or ()]
    if verdict == "up" and cited:
        found["relevant"] = list(dict.fromkeys(cited))
    if correction and correction.strip():
        found["answers"] = [correction]
    if verdict == "up" and entry.facts.get("abstained"):
        found["answerable"] = False
    where = dict((entry.content.get("asking") or {}).get("where") or {})
    metadata, sources = where.get("metadata") or {}, where.get("sources") or []
    filters = {name: where[name] for name in ("path", "title") if name in where} | metadata
    if len(sources) == 1:
        filters["source"] = sources[0]
    return {**found, "where": filters} if filters else found
