"""Conditions on what is known of a person, in a small language of their own. Pure.

    orders_90d >= 3 and (city = 'Berlin' or not newsletter = 'no')
    city in ('Berlin', 'Bonn') and phone is known

A name is a trait or a computed value. Two numbers compare as numbers, anything else as texts. What
is not known compares to nothing: every comparison with it is false. Of a trait with several values,
one that fits is enough. Nothing of it ever becomes SQL.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal, NamedTuple

from penstock.errors import ConfigError

LONGEST: Final = 2_000
_DEEPEST: Final = 20
_TOKEN: Final = re.compile(
    r"\s*(?:(?P<number>-?\d+(?:\.\d+)?)(?![\w.])|(?P<name>[a-z][a-z0-9_]*)"
    r"|'(?P<text>(?:[^']|'')*)'|(?P<sign><=|>=|!=|<>|[=<>(),]))",
    re.IGNORECASE,
)
_WORDS: Final = frozenset({"and", "or", "not", "in", "is", "known", "unknown"})
_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

Values = Mapping[str, Sequence[str]]
"""What is known, by name: all values of it."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A node: ``and``, ``or``, ``not`` of others; ``known``; or a comparison of a name's values
    with some texts, one of which must fit."""

    verb: Literal["and", "or", "not", "known", "compare"]
    parts: tuple[Condition, ...] = ()
    name: str = ""
    sign: str = "="
    wanted: tuple[str, ...] = ()

    def names(self) -> set[str]:
        """All names in it."""
        found = {self.name} if self.name else set()
        return found.union(*(part.names() for part in self.parts))

    def holds(self, values: Values) -> bool:
        """Whether it is true of somebody."""
        if self.verb == "and":
            return all(part.holds(values) for part in self.parts)
        if self.verb == "or":
            return any(part.holds(values) for part in self.parts)
        if self.verb == "not":
            return not self.parts[0].holds(values)
        known = values.get(self.name, ())
        if self.verb == "known":
            return bool(known)
        return any(_fits(value, self.sign, text) for value in known for text in self.wanted)


def parse(said: str) -> Condition:
    """A condition out of its text; `ConfigError` for what is none."""
    if len(said) > LONGEST:
        raise ConfigError(
            f"expected a condition of at most {LONGEST} characters, got {len(said)} of them"
        )
    return _Parser(said).whole()


def _fits(value: str, sign: str, wanted: str) -> bool:
    one, other = _number(value), _number(wanted)
    if one is None or other is None:
        return _COMPARE[sign](value, wanted)
    return _COMPARE[sign](one, other)


def _number(text: str) -> Decimal | None:
    try:
        found = Decimal(text)
    except InvalidOperation:
        return None
    return found if found.is_finite() else None


class _Token(NamedTuple):
    kind: str
    text: str


def _tokens(said: str) -> Iterator[_Token]:
    place = 0
    said = said.rstrip()
    while place < len(said):
        found = _TOKEN.match(said, place)
        if found is None or found.lastgroup is None:
            raise ConfigError(
                f"expected names, numbers, 'texts' and the signs = != < <= > >= ( ) , in the "
                f"condition {said!r}, got {said[place:].strip()[:20]!r}"
            )
        kind, text = found.lastgroup, found[found.lastgroup]
        if kind == "name" and text.lower() in _WORDS:
            kind, text = "word", text.lower()
        yield _Token(kind, text.replace("''", "'") if kind == "text" else text)
        place = found.end()


class _Parser:
    """By descent: or, and, not, and what stands alone."""

    def __init__(self, said: str) -> None:
        self._said = said
        self._left = [*_tokens(said), _Token("end", "its end")]
        self._depth = 0

    def whole(self) -> Condition:
        found = self._either()
        if self._left[0].kind != "end":
            raise self._unexpected("`and`, `or` or its end")
        return found

    def _either(self) -> Condition:
        parts = [self._both()]
        while self._take("word", "or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Condition("or", tuple(parts))

    def _both(self) -> Condition:
        parts = [self._one()]
        while self._take("word", "and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else Condition("and", tuple(parts))

    def _one(self) -> Condition:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ConfigError(
                f"expected at most {_DEEPEST} levels in the condition {self._said[:60]!r}…"
            )
        try:
            if self._take("word", "not"):
                return Condition("not", (self._one(),))
            if self._take("sign", "("):
                found = self._either()
                self._need("sign", ")")
                return found
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Condition:
        name = self._left[0]
        if name.kind != "name":
            raise self._unexpected("the name of a trait or a computed value")
        self._left.pop(0)
        if self._take("word", "is"):
            if self._take("word", "known"):
                return Condition("known", name=name.text)
            self._need("word", "unknown")
            return Condition("not", (Condition("known", name=name.text),))
        if self._take("word", "in"):
            self._need("sign", "(")
            wanted = [self._value()]
            while self._take("sign", ","):
                wanted.append(self._value())
            self._need("sign", ")")
            return Condition("compare", name=name.text, wanted=tuple(wanted))
        sign = self._left[0]
        if sign.kind != "sign" or sign.text not in _COMPARE:
            raise self._unexpected("= != < <= > >= `in` or `is`")
        self._left.pop(0)
        return Condition("compare", name=name.text, sign=sign.text, wanted=(self._value(),))

    def _value(self) -> str:
        value = self._left[0]
        if value.kind not in ("number", "text"):
            raise self._unexpected("a number or a 'text'")
        return self._left.pop(0).text

    def _take(self, kind: str, text: str) -> bool:
        if self._left[0] != (kind, text):
            return False
        self._left.pop(0)
        return True

    def _need(self, kind: str, text: str) -> None:
        if not self._take(kind, text):
            raise self._unexpected(repr(text))

    def _unexpected(self, wanted: str) -> ConfigError:
        return ConfigError(
            f"expected {wanted} in the condition {self._said!r}, got {self._left[0].text!r}"
        )
