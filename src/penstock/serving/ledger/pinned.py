"""Contexts and how they were asked for, as the ledger pins them: there and back. Pure.

Values of rows keep their types: an exact number or a time is written as ``{"$decimal": "1.20"}``,
so that what is answered from a pinned context is answered from the same values.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Final

from penstock.errors import BadRecordError
from penstock.models.base import Usage
from penstock.serving.context import Asking, Context, Item, SourceState
from penstock.serving.items import ContextRow
from penstock.serving.profiles import SOURCE as PROFILES
from penstock.serving.profiles import ProfileWanted
from penstock.serving.prompt import Template
from penstock.serving.values import plain
from penstock.stores.base import Filter, Passage
from penstock.stores.ledger import LedgerItem, canonical

_FOUND: Final = ("score", "similarity", "text_score")
"""What an item has from the question that found it, not from itself."""


def pinned_items(context: Context) -> list[LedgerItem]:
    """The items by themselves: the same passage is the same item in every answer."""
    return [_pinned(item) for item in context.items]


def _pinned(item: Item) -> LedgerItem:
    found = {
        field.name: encoded(getattr(item, field.name))
        for field in fields(item)
        if field.name not in _FOUND
    }
    kind = "passage" if isinstance(item, Passage) else "row"
    kind = "profile" if item.source == PROFILES else kind
    return LedgerItem(kind, canonical(found), item.source, item.key)


def pinned_template(template: Template) -> LedgerItem:
    """A prompt template."""
    return LedgerItem("template", canonical({"system": template.system, "user": template.user}))


def pinned_context(context: Context) -> dict[str, Any]:
    """What a context has beside its items."""
    return {
        "taken_at": context.taken_at,
        "found": [[encoded(getattr(item, name)) for name in _FOUND] for item in context.items],
        "sources": [asdict(part) for part in context.sources],
        "reranked": context.reranked,
        "notes": list(context.notes),
        "restricted": context.restricted,
        "searches": list(context.searches),
        "usage": None if context.usage is None else asdict(context.usage),
    }


def context_of(question: str, said: Mapping[str, Any], items: Sequence[LedgerItem]) -> Context:
    """The context as it was."""
    usage = said["usage"]
    return Context(
        question,
        tuple(_item(item, found) for item, found in zip(items, said["found"], strict=True)),
        tuple(SourceState(**part) for part in said["sources"]),
        said["taken_at"],
        {},
        said["reranked"],
        tuple(said["notes"]),
        said["restricted"],
        tuple(said["searches"]),
        None if usage is None else Usage(**usage),
    )


def _item(item: LedgerItem, found: Sequence[Any]) -> Item:
    values = {name: decoded(value) for name, value in json.loads(item.body).items()}
    values |= dict(zip(_FOUND, (decoded(value) for value in found), strict=True))
    if item.kind == "passage":
        return Passage(**values)
    return ContextRow(**{**values, **{n: tuple(values[n]) for n in ("row_key", "searched")}})


def template_of(item: LedgerItem) -> Template:
    """The prompt template as it was."""
    return Template(**json.loads(item.body))


def pinned_asking(asking: Asking) -> dict[str, Any]:
    """How it was asked; what is None or as the project has it is left out."""
    found: dict[str, Any] = {}
    where, profile = asking.get("where"), asking.get("profile")
    if where not in (None, Filter()):
        assert where is not None
        found["where"] = encoded({n: v for n, v in asdict(where).items() if v not in (None, {})})
    if profile is not None:
        # What a profile says of somebody is the project's to declare: now, and when asked again.
        found["profile"] = {n: getattr(profile, n) for n in ("kind", "reference", "identifiers")}
    for name in ("limit", "mode"):
        if asking.get(name) is not None:
            found[name] = asking.get(name)
    return found


def asking_of(
    said: Mapping[str, Any], about: Callable[[str, str], ProfileWanted] | None = None
) -> Asking:
    """How it was asked, to ask it again. ``about`` says what is read of a profile now."""
    asking = Asking()
    if "where" in said:
        asking["where"] = Filter(**{n: decoded(v) for n, v in said["where"].items()})
    if "profile" in said:
        kind, reference, bearing = (
            said["profile"][n] for n in ("kind", "reference", "identifiers")
        )
        known = ProfileWanted(kind, reference, tuple(bearing))
        asking["profile"] = known if about is None else about(kind, reference)
    if "limit" in said:
        asking["limit"] = said["limit"]
    if "mode" in said:
        asking["mode"] = said["mode"]
    return asking


# --------------------------------------------------------------------------- values


def encoded(value: Any) -> Any:
    """A value as JSON, with its type where JSON has none. What has no type here is the text that a
    prompt would show."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else {"$float": str(value)}
    if isinstance(value, decimal.Decimal):
        return {"$decimal": str(value)}
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return {f"${type(value).__name__}": value.isoformat()}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": bytes(value).hex()}
    if isinstance(value, Mapping):
        inner = {str(name): encoded(item) for name, item in value.items()}
        return {"$object": inner} if any(name.startswith("$") for name in inner) else inner
    if isinstance(value, list | tuple):
        return [encoded(item) for item in value]
    return plain(value)


_DECODERS: Final[Mapping[str, Any]] = {
    "$float": float,
    "$decimal": decimal.Decimal,
    "$datetime": dt.datetime.fromisoformat,
    "$date": dt.date.fromisoformat,
    "$time": dt.time.fromisoformat,
    "$bytes": bytes.fromhex,
}


def decoded(value: Any) -> Any:
    """A value as it was encoded."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, inner),) = value.items()
        if name == "$object":
            return {key: decoded(item) for key, item in inner.items()}
        if name.startswith("$"):
            if name not in _DECODERS:
                raise BadRecordError(f"expected a type of values that is known, got {name!r}")
            return _DECODERS[name](inner)
    return {name: decoded(item) for name, item in value.items()}
