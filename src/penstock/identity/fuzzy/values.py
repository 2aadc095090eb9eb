"""How a value is read before it is compared. Every function takes any text and never raises."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

NOTHING: Final = frozenset(
    ("", "-", "--", "?", ".", "n/a", "na", "n.a.", "nan", "nil", "none", "null", "unknown",
     "unbekannt", "undefined", "not known", "not available", "missing", "tbd", "xxx")
)  # fmt: skip
"""What people write when they have nothing to write: no evidence for or against anything."""

MOST: Final = 2000
"""Characters of one value that are looked at."""

_WORD: Final = re.compile(r"[^\W_]+")
_DIGITS: Final = re.compile(r"\d+")
_CODE: Final = re.compile(r"[^\W_](?:[\w./+-]*[^\W_])?")
_MEASURE: Final = re.compile(
    r"[a-z]?(?:/?\d+[-./+]?)+[a-z]{1,}(?:[-/][a-z]+)*|[a-z]/.*|\d{1,3}\W\d{1,4}"
)
_YEAR_FIRST: Final = re.compile(r"(\d{4})[-/. ]?(\d{1,2})[-/. ]?(\d{1,2})(?:[t ].*)?")
_YEAR_LAST: Final = re.compile(r"(\d{1,2})[-/. ](\d{1,2})[-/. ](\d{4})")
_NUMBER: Final = re.compile(r"[^\w.]*([-+]?\d+(?:\.\d+)?)[^\w.]*(?:[a-z]{1,4}|%)?[^\w]*")
_VOWELS: Final = frozenset("aeiouyhw")
_SOUNDS: Final = str.maketrans("bfpvcgjkqsxzdtlmnr", "111122222222334556")


def plain(text: object) -> str | None:
    """Lower case without accents and doubled blanks; None where there is nothing."""
    if text is None:
        return None
    return _plain(text if isinstance(text, str) else str(text))


@lru_cache(maxsize=100_000)
def _plain(text: str) -> str | None:
    folded = unicodedata.normalize("NFKD", text[:MOST]).casefold()
    kept = "".join(c for c in folded if not unicodedata.combining(c) and c != "\x00")
    joined = " ".join(kept.split())
    return None if joined in NOTHING else joined


def words(text: str) -> list[str]:
    """The words of a text that `plain` has read: runs of letters and digits."""
    return _WORD.findall(text)


def short_text(text: str) -> str | None:
    """A name, a street, a city: its words, divided by one blank."""
    return " ".join(words(text)) or None


def long_text(text: str) -> str | None:
    """The words of a long text, and its codes in one piece."""
    found = words(text)
    return " ".join([*found, *sorted(codes(text) - set(found))]) or None


def code(text: str) -> str | None:
    """A number or code without what divides its parts."""
    return "".join(words(text)) or None


def phone(text: str) -> str | None:
    """The last nine digits: what two ways to write a telephone number have in common."""
    digits = "".join(_DIGITS.findall(text))
    return digits[-9:] or None


def date(text: str) -> str | None:
    """``YYYYMMDD``; days and months that cannot be are kept, because they are typing errors."""
    found = _YEAR_FIRST.fullmatch(text)
    if found:
        year, month, day = found.groups()
    elif found := _YEAR_LAST.fullmatch(text):
        day, month, year = found.groups()
    else:
        return None
    return f"{year}{int(month):02d}{int(day):02d}"


def is_date(text: str) -> bool:
    """Whether this is a day between 1800 and 2100."""
    found = date(text)
    if found is None or not found.isascii():
        return False
    year, month, day = int(found[:4]), int(found[4:6]), int(found[6:8])
    return 1800 <= year <= 2100 and 1 <= max(month, 1) <= 31 and 1 <= day <= 31 and month <= 31


def number(text: str) -> str | None:
    """An amount, without its currency and the marks between thousands."""
    found = _NUMBER.fullmatch(text.replace(",", ""))
    return repr(float(found.group(1))) if found and found.group(1).isascii() else None


def email(text: str) -> str | None:
    """An address without what surrounds it."""
    return text.strip("<>\"' ").removeprefix("mailto:") or None


def codes(text: str) -> frozenset[str]:
    """What looks like a model or part number: letters and digits mixed, or a long number; not a
    number with its unit (``120gb``, ``10/100base``, ``f/3.5``)."""
    found = set()
    for piece in _CODE.findall(text):
        bare = "".join(words(piece))
        digits = sum(map(str.isdigit, bare))
        if len(bare) >= 5 and digits >= 2 and not _MEASURE.fullmatch(piece):
            found.add(bare)
    return frozenset(found)


@lru_cache(maxsize=100_000)
def sound(word: str) -> str:
    """How a word sounds (after Soundex, which Russell and Odell patented in 1918)."""
    if not word:
        return ""
    kept = [word[0]]
    last = word[0].translate(_SOUNDS)
    for letter in word[1:]:
        as_digit = letter.translate(_SOUNDS)
        if letter in _VOWELS:
            last = ""
        elif as_digit != last:
            kept.append(as_digit)
            last = as_digit
    return "".join(kept)[:4]
