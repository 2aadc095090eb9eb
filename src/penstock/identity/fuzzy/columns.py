"""What kind of values a column holds, found out from the values and a little from its name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from penstock.identity.fuzzy import values

Kind: TypeAlias = Literal["text", "long", "codes", "code", "phone", "email", "date", "number"]
"""text: a few words. long: many words. codes: part numbers within a long text. code: digits and
letters without meaning in between. number: an amount, where near counts."""

Row: TypeAlias = Mapping[str, str | None]

_LONG: Final = 4.0
"""So many words on average make a text a long one."""
_WITH_CODES: Final = 0.4
_REPEATED: Final = 0.3
_SAMPLE: Final = 5000
_MOSTLY: Final = 0.8
_AMOUNT: Final = re.compile(r"price|amount|cost|salary|total|weight|size|abv")
_PHONE: Final = re.compile(r"phone|mobile|\btel\b|fax|cell")
_NUMBERED: Final = re.compile(r"(\D*)(\d+)(\D*)")
_MONEY: Final = re.compile(r"[$€£¥]|\d\.\d")
_PRINTED_PHONE: Final = re.compile(r"[+(]?\d[\d ()/.+-]{6,}\d")


@dataclass(frozen=True, slots=True)
class Column:
    """What is compared: the values of one column of the source, or the long texts of several."""

    name: str
    kind: Kind
    of: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Described:
    """What a column looks like: for people, and to decide by."""

    name: str
    kind: Kind | None
    filled: float
    distinct: int
    why: str


def describe(rows: Sequence[Row]) -> tuple[list[Column], list[Described]]:
    """The columns that can tell records apart, and what was found out about every column.

    Left out are columns that say the same of everyone and those that number the rows.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    sample = rows if len(rows) <= _SAMPLE else rows[:: len(rows) // _SAMPLE]
    columns, described = [], []
    for name in names:
        found = [text for row in sample if (text := values.plain(row.get(name))) is not None]
        kind, why = _kind(name, found)
        described.append(
            Described(name, kind, len(found) / max(1, len(sample)), len(set(found)), why)
        )
        if kind is not None and kind != "long":
            columns.append(Column(name, kind, (name,)))
    texts = [one.name for one in described if one.kind == "long"]
    for group in _same_matter(texts, sample):
        columns.append(Column(" + ".join(group), "long", group))
        by_share = [(_share_with_codes(name, sample), name) for name in group]
        share, name = max(by_share, key=lambda one: one[0])
        if share >= _WITH_CODES:
            columns.append(Column(f"codes in {name}", "codes", (name,)))
    return columns, described


def _share_with_codes(name: str, rows: Sequence[Row]) -> float:
    found = [text for row in rows if (text := values.plain(row.get(name))) is not None]
    return _share(found, lambda text: bool(values.codes(text))) if found else 0.0


def _same_matter(names: Sequence[str], rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Long texts that repeat each other (a title and a description) are compared as one: counted
    twice, what they share would weigh double."""
    groups: list[list[str]] = []
    for name in names:
        for group in groups:
            if max(_repeats(name, other, rows) for other in group) >= _REPEATED:
                group.append(name)
                break
        else:
            groups.append([name])
    return [tuple(group) for group in groups]


def _repeats(one: str, other: str, rows: Sequence[Row]) -> float:
    """Which share of the shorter text's words occurs in the longer one, on average."""
    shares = []
    for row in rows:
        a, b = values.plain(row.get(one)), values.plain(row.get(other))
        if a is not None and b is not None:
            short, long = sorted((set(values.words(a)), set(values.words(b))), key=len)
            shares.append(len(short & long) / max(1, len(short)))
    return sum(shares) / len(shares) if shares else 0.0


def _kind(name: str, found: Sequence[str]) -> tuple[Kind | None, str]:
    counts = Counter(found)
    if len(counts) < 2:
        return None, "says nothing: fewer than two different values"
    if _numbers_rows(counts, len(found)):
        return None, "numbers the rows: no value occurs twice"
    return _by_form(name, found)


def _by_form(name: str, found: Sequence[str]) -> tuple[Kind, str]:
    lower = name.casefold()
    if _share(found, lambda text: "@" in text and " " not in text.strip()) >= _MOSTLY:
        return "email", "most values hold an @"
    if _share(found, values.is_date) >= _MOSTLY:
        return "date", "most values are days"
    if _share(found, lambda text: values.number(text) is not None) >= _MOSTLY and (
        _AMOUNT.search(lower) or _share(found, lambda text: bool(_MONEY.search(text))) >= 0.3
    ):
        return "number", "most values are amounts"
    if _share(found, lambda text: bool(_PRINTED_PHONE.fullmatch(text))) >= _MOSTLY and (
        _PHONE.search(lower) or _share(found, lambda text: not text.isdigit()) >= 0.3
    ):
        return "phone", "most values look like telephone numbers"
    words = sum(len(values.words(text)) for text in found) / len(found)
    if words >= _LONG:
        return "long", f"{words:.1f} words on average"
    if _share(found, lambda text: any(c.isdigit() for c in text) and " " not in text) >= 0.6:
        return "code", "most values are one word with digits"
    return "text", f"{words:.1f} words on average"


def _share(found: Sequence[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, found)) / len(found)


def _numbers_rows(counts: Counter[str], total: int) -> bool:
    """Whether the values are a serial number: all different, one form, no long gaps."""
    if total < 20 or len(counts) < total:
        return False
    parts = [_NUMBERED.fullmatch(text) for text in counts]
    if not all(parts):
        return False
    forms = Counter((part.group(1), part.group(3)) for part in parts if part)
    numbers = sorted(int(part.group(2)) for part in parts if part)
    span = numbers[-1] - numbers[0] + 1
    return len(forms) <= 2 and span <= 3 * total


def read(column: Column, row: Row) -> str | None:
    """The value that is compared; None where the row says nothing."""
    found = [text for name in column.of if (text := values.plain(row.get(name))) is not None]
    return _READERS[column.kind](" ".join(found)) if found else None


_READERS: Final = {
    "text": values.short_text,
    "long": values.long_text,
    "codes": lambda text: " ".join(sorted(values.codes(text))) or None,
    "code": values.code,
    "phone": values.phone,
    "email": values.email,
    "date": lambda text: values.date(text) or values.code(text),
    "number": values.number,
}
