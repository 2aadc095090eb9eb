"""From answers to entries of the ledger."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import asdict
from typing import Any, Protocol

from penstock.clock import Clock
from penstock.principals import Principal
from penstock.serving.answer import Answer, Asked, Quality
from penstock.serving.ledger.pinned import (
    pinned_asking,
    pinned_context,
    pinned_items,
    pinned_template,
)
from penstock.stores.ledger import LedgerStore, NewEntry, new_id


class EagerLedger(LedgerStore, Protocol):
    """A ledger that can be told without waiting."""

    def enqueue(self, entry: NewEntry) -> asyncio.Future[str]:
        """As `append`."""


class Recorder:
    """Keeps answers; see `penstock.serving.answer.Keeper`. ``version`` is ours; ``quality`` is told
    how good those of models are."""

    def __init__(
        self, ledger: EagerLedger, clock: Clock, version: str, quality: Quality | None = None
    ) -> None:
        self._quality = quality
        self._ledger = ledger
        self._clock = clock
        self._version = version

    async def keep(self, asked: Asked, answer: Answer) -> str | None:
        """Returns when the entry is durable."""
        name = await self._ledger.append(self._entry(asked, answer, cut=False))
        # In a conversation that its caller leads, nothing says that it should cite.
        if self._quality is not None and not asked.more:
            self._quality.judged(answer.author, good=answer.good)
        return name

    def cut(self, asked: Asked, answer: Answer) -> None:
        """Whoever left does not wait for it."""
        self._ledger.enqueue(self._entry(asked, answer, cut=True))

    def _entry(self, asked: Asked, answer: Answer, *, cut: bool) -> NewEntry:
        context = answer.context
        template = pinned_template(asked.template)
        facts: dict[str, Any] = {
            "version": self._version,
            "generator": answer.generator,
            "parameters": dict(asked.parameters),
            "template": hashlib.sha256(template.body.encode()).hexdigest(),
            "items": len(context.items),
            "cited": len(answer.citations),
            "abstained": answer.abstained,
            "dropped": answer.dropped,
            "score": round(answer.score, 6),
            "age_ms": answer.age_ms,
            "usage": None if answer.usage is None else asdict(answer.usage),
            "timings_ms": dict(answer.timings_ms),
            "author": None if answer.author is None else asdict(answer.author),
            "calls": len(answer.calls),
            "cut": cut,
        }
        content = {
            "principal": shown_principal(asked.principal),
            "question": context.question,
            "said": None if asked.spoken is None else asked.spoken.said,
            "session": None if asked.spoken is None else asked.spoken.session,
            "asking": pinned_asking(asked.asking),
            "context": pinned_context(context),
            "shown": answer.shown,
            "text": answer.text,
            "raw": answer.raw,
            "citations": [asdict(citation) for citation in answer.citations],
            **({"calls": [asdict(call) for call in answer.calls]} if answer.calls else {}),
            **asked.more,
        }
        return NewEntry(
            "answer",
            asked.id or new_id("answer"),
            self._clock.now(),
            facts,
            content,
            asked.principal,
            [*pinned_items(context), template],
        )


def shown_principal(who: Principal) -> dict[str, Any]:
    """Who asked, in content: by name."""
    return {"user": who.user, "groups": list(who.groups), "tenant": who.tenant}
