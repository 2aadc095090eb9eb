"""Answers that a language model writes as statements, each with the items that it rests on.

What comes is looked at before it is believed: a statement without an item that the model was shown
is dropped, images and control characters (ways out for what a passage told the model to say) are
taken from its text, and length is bounded. If nothing is left, nothing is claimed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from penstock.errors import RetryableError
from penstock.models.base import Message

MOST_STATEMENTS: Final = 40
_LONGEST: Final = 2_000
"""Characters of one statement."""
_MOST_ITEMS: Final = 8
"""Items that one statement rests on."""
_MARK: Final = re.compile(r"\s?\[\d+(?:\s*[,;]\s*\d+)*\]")
_IMAGE: Final = re.compile(r"!\[[^\]]*\](?:\([^)]*\)?|\[[^\]]*\])|<img\b[^>]*>", re.IGNORECASE)

SHAPE: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "statements": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "items": {"type": "array", "items": {"type": "integer"}},
                },
                "required": ["text", "items"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["statements"],
    "additionalProperties": False,
}
_FORM: Final = """
The form of the answer, whatever was said of it before, is this JSON and nothing else:
{"statements": [{"text": "one statement", "items": [1]}]}
`items` holds the numbers of the items that the statement rests on; they are not written in `text`.
If the context does not hold the answer, the list is empty."""


class Stated(NamedTuple):
    """The text, with marks of items as they were numbered in the prompt, and how many statements
    were dropped."""

    text: str
    dropped: int


def asked_for_statements(messages: Sequence[Message]) -> list[Message]:
    """The same conversation, with the form that is wanted; it stands behind all rules."""
    first, *rest = messages
    if first.role == "system":
        return [Message("system", f"{first.content}\n{_FORM}"), *rest]
    return [Message("system", _FORM.strip()), first, *rest]


def stated(value: object, shown: int) -> Stated:
    """The statements that rest on one of the ``shown`` items."""
    found = value.get("statements") if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise RetryableError(
            f"expected a list of statements from the generator, got {str(value)[:200]!r}"
        )
    kept, dropped = [], max(0, len(found) - MOST_STATEMENTS)
    for entry in found[:MOST_STATEMENTS]:
        text, items = _read(entry, shown)
        if text and items:
            kept.append(f"{text} [{', '.join(map(str, items))}]")
        else:
            dropped += 1
    return Stated(" ".join(kept), dropped)


def _read(entry: object, shown: int) -> tuple[str, list[int]]:
    text = entry.get("text") if isinstance(entry, dict) else None
    items = entry.get("items") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not isinstance(items, list):
        return "", []
    while (plain := _MARK.sub("", _IMAGE.sub("", text))) != text:
        text = plain  # what was between two parts may have made one: [1[2]]
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    known = [item for item in items if type(item) is int and 1 <= item <= shown]
    return text[:_LONGEST], list(dict.fromkeys(known))[:_MOST_ITEMS]
