"""Answers again: from the context that was pinned, or from what is true now."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from penstock.errors import ConfigError
from penstock.models.gateway.base import Request
from penstock.principals import Principal
from penstock.serving.answer import Answer, Answerer
from penstock.serving.completions import Completions
from penstock.serving.context import Context, SourceState
from penstock.serving.ledger.conversations import request_of
from penstock.serving.ledger.pinned import (
    asking_of,
    context_of,
    pinned_items,
    template_of,
)
from penstock.serving.profiles import ProfileWanted
from penstock.serving.prompt import Template
from penstock.serving.values import iso, jsonable
from penstock.stores.base import Passage
from penstock.stores.ledger import Entry, LedgerItem

_QUOTED: Final = 300
_NO_MODEL: Final = (
    "expected a language model in answers.generator to ask a completion again, found none"
)


@dataclass(frozen=True, slots=True)
class Pinned:
    """An answer with everything that it came from."""

    entry: Entry
    context: Context
    template: Template
    principal: Principal
    text: str
    conversation: Request | None = None
    """What the caller sent, where the caller led the conversation."""
    calls: Sequence[Mapping[str, Any]] = ()


def pinned(entry: Entry) -> Pinned:
    """What an entry holds. `ConfigError` where it is erased, or was only hashed."""
    if entry.kind != "answer":
        raise ConfigError(f"expected the id of an answer, got that of {entry.kind}: {entry.id!r}")
    if entry.content is None:
        why = {
            "redacted": "its content was erased",
            "hashed": "only hashes were kept (ledger.content: hashed)",
        }.get(entry.state, "it has no content")
        raise ConfigError(f"expected an answer with its content, got {entry.id!r}: {why}")
    items = [item for item in entry.items if item is not None]
    if len(items) < len(entry.items):
        raise ConfigError(
            f"expected all items of {entry.id!r} in the ledger, "
            f"{len(entry.items) - len(items)} are gone: see `penstock audit verify`"
        )
    *shown, template = items
    said = entry.content
    who = said["principal"]
    return Pinned(
        entry,
        context_of(said["question"], said["context"], shown),
        template_of(template),
        Principal(who["user"], tuple(who["groups"]), who["tenant"]),
        said["text"],
        request_of(said["conversation"]) if "conversation" in said else None,
        said.get("calls", ()),
    )


def shown_entry(entry: Entry) -> dict[str, Any]:
    """An entry in full, as JSON shows it."""
    return {
        "id": entry.id,
        "number": entry.number,
        "kind": entry.kind,
        "at": iso(entry.at),
        "hash": entry.hash.hex(),
        "state": entry.state,
        "about": entry.about,
        "facts": dict(entry.facts),
        "content": None if entry.content is None else jsonable(entry.content),
        "items": [_shown_item(item) for item in entry.items],
    }


def _shown_item(item: LedgerItem | None) -> dict[str, Any] | None:
    if item is None:
        return None
    return {"kind": item.kind, "source": item.source, "key": item.key, "body": item.body}


async def replayed(
    answerer: Answerer, found: Pinned, completions: Completions | None = None
) -> dict[str, Any]:
    """The model is asked again with the context and the prompt as they were; with the caller's
    conversation, where that was one."""
    if found.conversation is None:
        patient = answerer.patient()
        answer = await patient.from_context(found.context, found.principal, found.template)
    elif completions is None:
        raise ConfigError(_NO_MODEL)
    else:
        prompt = answerer.prompt_of(found.context, found.template)
        answer = await completions.again(found.conversation, prompt, found.principal)
    was = str(found.entry.facts["generator"])
    wanted = [asdict(call) for call in answer.calls]
    return {
        "id": found.entry.id,
        "question": found.context.question,
        "same": answer.text == found.text and _wanted(found.calls) == _wanted(wanted),
        "calls": {"was": list(found.calls), "is": wanted},
        "generator": {"was": was, "is": answer.generator, "same": was == answer.generator},
        "text": {"was": found.text, "is": answer.text},
        "difference": _difference(found.text, answer.text),
    }


async def compared(
    answerer: Answerer,
    found: Pinned,
    principal: Principal | None = None,
    about: Callable[[str, str], ProfileWanted] | None = None,
) -> dict[str, Any]:
    """The question is answered again as of now, for the same principal: what has changed."""
    entry = found.entry
    assert entry.content is not None
    if found.conversation is not None:
        raise ConfigError(
            f"expected an answer of Penstock's own, got {entry.id!r}, a completion in a "
            "conversation that its caller led: `penstock answers replay` asks it again"
        )
    asking = asking_of(entry.content["asking"], about)
    answer = await answerer.unkept().answer(
        found.context.question, principal or found.principal, **asking
    )
    return {
        "id": entry.id,
        "question": found.context.question,
        "same": answer.text == found.text,
        "text": {"was": found.text, "is": answer.text},
        "difference": _difference(found.text, answer.text),
        "generator": {"was": entry.facts["generator"], "is": answer.generator},
        "taken_at": {"was": iso(found.context.taken_at), "is": iso(answer.context.taken_at)},
        "sources": _sources(found.context.sources, answer.context.sources),
        "items": _items(found, answer),
    }


def _wanted(calls: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What calls want done; their ids are chance."""
    return [(call["name"], call["arguments"]) for call in calls]


def _difference(was: str, now: str) -> list[str]:
    if was == now:
        return []
    return list(difflib.unified_diff(was.split("\n"), now.split("\n"), "was", "is", lineterm=""))


def _sources(was: Sequence[SourceState], now: Sequence[SourceState]) -> list[dict[str, Any]]:
    before, after = ({part.source: part for part in parts} for parts in (was, now))
    return [
        {
            "source": name,
            "position": {
                "was": None if name not in before else before[name].position,
                "is": None if name not in after else after[name].position,
            },
            "as_of": {
                "was": iso(before[name].as_of) if name in before else None,
                "is": iso(after[name].as_of) if name in after else None,
            },
        }
        for name in sorted({*before, *after})
    ]


def _items(found: Pinned, answer: Answer) -> list[dict[str, Any]]:
    """What stood in the context then or stands in it now. A passage is the same one if it has the
    same text at the same place of the same document; the version may be a later one."""
    before = {_named(item): item for item in _plain(found.context)}
    after = {_named(item): item for item in _plain(answer.context)}
    changes = []
    for name in dict.fromkeys([*before, *after]):
        then, now = before.get(name), after.get(name)
        if then is None or now is None:
            what = "new" if then is None else "gone"
        else:
            what = "same" if then["told"] == now["told"] else "changed"
        one = then or now
        assert one is not None
        changes.append(
            {
                "change": what,
                "kind": one["kind"],
                "source": one["source"],
                "key": one["key"],
                "was": None if then is None else then["told"][:_QUOTED],
                "is": None if now is None else now["told"][:_QUOTED],
                "version": {
                    "was": None if then is None else then["version"],
                    "is": None if now is None else now["version"],
                },
            }
        )
    return changes


def _plain(context: Context) -> list[dict[str, Any]]:
    found = []
    seen: Counter[tuple[str, ...]] = Counter()
    for pin, item in zip(pinned_items(context), context.items, strict=True):
        told = item.text if isinstance(item, Passage) else str(jsonable(dict(item.values)))
        place = item.heading if isinstance(item, Passage) else ""
        seen[item.source, item.key, place] += 1
        found.append(
            {
                "kind": pin.kind,
                "source": item.source,
                "key": item.key,
                "place": f"{place} {seen[item.source, item.key, place]}",
                "told": told,
                "version": str(item.version),
            }
        )
    return found


def _named(item: dict[str, Any]) -> tuple[str, ...]:
    return (item["source"], item["key"], item["place"])
