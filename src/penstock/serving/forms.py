"""Forms that are filled in by and by: what was said, what is missing, what to ask next. Pure."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

SlotType = Literal["text", "integer", "number", "date", "boolean", "email", "choice"]
Value = str | int | float | bool
MOST_TEXT: Final = 2_000
_YES: Final = frozenset({"yes", "y", "true", "ja", "oui", "si", "sí"})
_NO: Final = frozenset({"no", "n", "false", "nein", "non"})
_EMAIL: Final = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}")
_DATE: Final = re.compile(r"(?<!\d)\d{4}-\d{2}-\d{2}(?!\d)")
_NUMBER: Final = re.compile(r"(?<![\w.,])-?\d{1,15}(?:\.\d{1,10})?(?![\w,]|\.\d)")


@dataclass(frozen=True, slots=True)
class Slot:
    """One thing that a form wants to know."""

    name: str
    question: str
    type: SlotType = "text"
    pattern: re.Pattern[str] | None = None
    choices: tuple[str, ...] = ()
    required: bool = True


@dataclass(frozen=True, slots=True)
class Filling:
    """A form as far as it is filled in. ``slot`` is what is asked for next (None: all is there),
    ``problem`` why what was said to the question before was not taken."""

    values: Mapping[str, Value]
    missing: tuple[str, ...]
    slot: str | None
    ask: str | None
    problem: str | None = None

    @property
    def done(self) -> bool:
        """Whether all that is required is there."""
        return not self.missing


def filled(slots: Sequence[Slot], values: Mapping[str, Value], said: str | None = None) -> Filling:
    """The form after ``said``, which answers the first question that was open. Other slots take
    from it only what can be nothing else: a pattern, an address, a date."""
    known = {slot.name: values[slot.name] for slot in slots if slot.name in values}
    problem = None
    asked = _open(slots, known)
    if said is not None and said.strip():
        text = said.strip()[:MOST_TEXT]
        if asked is not None:
            value = _read(asked, text)
            if value is None:
                problem = _wanted(asked, text)
            else:
                known[asked.name] = value
        taken = {str(value) for value in known.values()}
        for slot in slots:
            if slot.name in known or not (slot.pattern or slot.type in ("email", "date")):
                continue
            found = _found(slot, text)
            if found is not None and str(found) not in taken:
                known[slot.name] = found
    following = _open(slots, known)
    return Filling(
        known,
        tuple(slot.name for slot in slots if slot.required and slot.name not in known),
        None if following is None else following.name,
        None if following is None else following.question,
        problem,
    )


def _open(slots: Sequence[Slot], known: Mapping[str, Value]) -> Slot | None:
    return next((slot for slot in slots if slot.required and slot.name not in known), None)


def _read(slot: Slot, text: str) -> Value | None:
    """The value in an answer to the slot's own question."""
    if slot.type == "text" and slot.pattern is None:
        return text
    if slot.type == "boolean":
        word = (re.findall(r"\w+", text.casefold()) or [""])[0]
        return True if word in _YES else False if word in _NO else None
    if slot.type == "choice":
        named = [choice for choice in slot.choices if _says(text, choice)]
        return named[0] if len(named) == 1 else None
    return _found(slot, text)


def _says(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word.casefold())}(?!\w)", text.casefold()) is not None


def _found(slot: Slot, text: str) -> Value | None:
    """The only thing in a text that fits a slot."""
    searched = slot.pattern or {"email": _EMAIL, "date": _DATE}.get(slot.type, _NUMBER)
    parts = list(dict.fromkeys(match[0] for match in searched.finditer(text)))
    values = [value for part in parts if (value := _typed(slot, part)) is not None]
    return values[0] if len(values) == 1 else None


def _typed(slot: Slot, part: str) -> Value | None:
    try:
        if slot.type == "integer":
            return int(part)
        if slot.type == "number":
            return float(part)
        if slot.type == "date":
            return dt.date.fromisoformat(part).isoformat()
    except ValueError:
        return None
    if slot.type == "email":
        return part if _EMAIL.fullmatch(part) else None
    return part or None


def _wanted(slot: Slot, text: str) -> str:
    wanted = {
        "choice": f"one of {', '.join(slot.choices)}",
        "boolean": "yes or no",
        "date": "a date such as 2026-05-01",
        "email": "an e-mail address",
        "integer": "a whole number",
        "number": "a number",
    }.get(slot.type, "another form of it")
    return f"expected {wanted}, got {text[:60]!r}"
