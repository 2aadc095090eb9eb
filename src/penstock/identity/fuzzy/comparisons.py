"""How alike two values are, as a level: 0 is equal, the last is different, None is no evidence.

All comparisons are symmetric. The string distances are rapidfuzz's (extra ``identity``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, Final, TypeAlias

from penstock.errors import MissingExtraError
from penstock.identity.fuzzy.columns import Kind

Compare: TypeAlias = Callable[[str, str], int]


@cache
def _distances() -> tuple[Any, Any]:
    try:
        from rapidfuzz.distance import OSA, JaroWinkler
    except ImportError as error:
        raise MissingExtraError("matching records that are not equal", "identity") from error
    return OSA.distance, JaroWinkler.similarity


def expect_extra() -> None:
    """Raise `MissingExtraError` where the extra is missing: before anything is compared."""
    _distances()


def text_level(a: str, b: str) -> int:
    """Names and places. 1: one typing error, or the same letters otherwise divided. 2: alike."""
    if a == b:
        return 0
    osa, jaro = _distances()
    longest = max(len(a), len(b))
    errors = 1 if longest < 9 else 2
    if osa(a, b, score_cutoff=errors) <= errors and longest >= 3:
        return 1
    if " " not in a and " " not in b:
        if _begins(a, b):
            return 2
        alike = jaro(a, b)
        return 2 if alike >= 0.9 else 3 if alike >= 0.8 else 4
    first, second = a.split(" "), b.split(" ")
    if "".join(sorted(first)) == "".join(sorted(second)):
        return 1
    if _abbreviated(first, second):
        return 2
    alike = jaro(a, b)
    if alike >= 0.9 or (len(first) + len(second) > 2 and _tokens_alike(first, second)):
        return 2
    return 3 if alike >= 0.8 else 4


def _abbreviated(first: list[str], second: list[str]) -> bool:
    """Whether one is the other with initials or without some of its words."""
    if len(first) > len(second):
        first, second = second, first
    if len(first) == len(second) == 1:
        return _begins(first[0], second[0])
    left = set(second)
    return all(len(word) >= 3 and word in left for word in first)


def _begins(a: str, b: str) -> bool:
    """Whether one word is an initial of the other, or its first letters."""
    if not (a.startswith(b) or b.startswith(a)):
        return False
    short = min(len(a), len(b))
    return short == 1 or short >= 3


def codes_level(a: str, b: str) -> int:
    """Part numbers, divided by blanks. 0: all that one has. 1: some, or one is part of another.
    Nearly the same is different: it is the same thing in another colour."""
    mine, yours = set(a.split(" ")), set(b.split(" "))
    if mine <= yours or yours <= mine:
        return 0
    if mine & yours:
        return 1
    pairs = (sorted((x, y), key=len) for x in mine for y in yours)
    return 1 if any(len(short) >= 4 and short in long for short, long in pairs) else 2


@lru_cache(maxsize=200_000)
def words_alike(a: str, b: str) -> bool:
    """Whether two different words of long texts are one with a typing error, or a code and a longer
    one that holds it (``FS105`` and ``FS105NA``)."""
    if len(a) > len(b):
        a, b = b, a
    if len(a) < 4:
        return False
    if any(c.isdigit() for c in a):
        return a in b and any(c.isdigit() for c in b)
    if len(b) - len(a) > 1 or any(c.isdigit() for c in b):
        return False
    osa, _ = _distances()
    return bool(osa(a, b, score_cutoff=1) <= 1)


def _tokens_alike(first: list[str], second: list[str]) -> bool:
    osa, _ = _distances()
    if len(first) != len(second):
        return False
    return all(
        a == b or (max(len(a), len(b)) >= 4 and osa(a, b, score_cutoff=1) <= 1)
        for a, b in zip(sorted(first), sorted(second), strict=True)
    )


def code_level(a: str, b: str) -> int:
    """Codes and house numbers. 1: one typing error. 2: two in a longer one, or one holds both."""
    if a == b:
        return 0
    osa, _ = _distances()
    distance = osa(a, b, score_cutoff=2)
    if distance <= 1:
        return 1
    if min(len(a), len(b)) >= 5 and (distance == 2 or a.startswith(b) or b.startswith(a)):
        return 2
    return 3


def email_level(a: str, b: str) -> int:
    """1: up to two typing errors. 2: the same name elsewhere. 3: alike."""
    if a == b:
        return 0
    osa, jaro = _distances()
    if osa(a, b, score_cutoff=2) <= 2:
        return 1
    mine, yours = a.partition("@")[0], b.partition("@")[0]
    if mine == yours:
        return 2
    if osa(a, b, score_cutoff=5) <= 5 or jaro(mine, yours) >= 0.9:
        return 3
    return 4


def date_level(a: str, b: str) -> int:
    """1: one typing error, or day and month exchanged. 2: two parts equal. 3: one part, a year."""
    if a == b:
        return 0
    osa, _ = _distances()
    distance = osa(a, b, score_cutoff=2)
    if distance <= 1 or a[4:6] + a[6:8] == b[6:8] + b[4:6]:
        return 1
    equal = (a[:4] == b[:4]) + (a[4:6] == b[4:6]) + (a[6:8] == b[6:8])
    if equal == 2 or distance == 2:
        return 2
    return 3 if a[:4] == b[:4] or a[4:8] == b[4:8] else 4


def number_level(a: str, b: str) -> int:
    """Amounts: equal, within 3 %, within 10 %, within 30 %, further apart."""
    if a == b:
        return 0
    x, y = float(a), float(b)
    scale = max(abs(x), abs(y))
    apart = abs(x - y) / scale if scale else 0.0
    return 1 if apart <= 0.03 else 2 if apart <= 0.1 else 3 if apart <= 0.3 else 4


BANDS: Final = (0.85, 0.7, 0.6, 0.5, 0.42, 0.35, 0.28, 0.22, 0.16, 0.1)
"""Cosines of long texts, from which on a level holds."""

COMPARE: Final[dict[Kind, Compare]] = {
    "text": text_level,
    "code": code_level,
    "phone": code_level,
    "email": email_level,
    "date": date_level,
    "number": number_level,
    "codes": codes_level,
}
LEVELS: Final[dict[Kind, tuple[str, ...]]] = {
    "text": ("equal", "typing error", "abbreviated or alike", "a little alike", "different"),
    "code": ("equal", "typing error", "two typing errors", "different"),
    "phone": ("equal", "typing error", "two typing errors", "different"),
    "email": ("equal", "typing errors", "same name elsewhere", "alike", "different"),
    "date": ("equal", "typing error", "two parts equal", "year or day equal", "different"),
    "number": ("equal", "within 3 %", "within 10 %", "within 30 %", "different"),
    "codes": ("equal", "in part", "different"),
    "long": (*(f"cosine from {band}" for band in BANDS), "different"),
}
