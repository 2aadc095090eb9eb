"""What a context is made of, beside the best passages: no near repetitions, more of what is recent,
and the text around. Pure; each is done only where it is asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from penstock.errors import ConfigError
from penstock.records import Microseconds
from penstock.stores.base import Passage

_DAY: Final = 86_400_000_000
_FRESH: Final = 0.3
"""The share of a score that depends on age, where recency is asked for."""
_WORD: Final = re.compile(r"\w+")
_DENIAL: Final = re.compile(r"n['’]t\b|\b(?:not|no|never|without|except|unless)\b")
_SHINGLE: Final = 3
_MOST_NEIGHBOURS: Final = 5


@dataclass(frozen=True, slots=True)
class Shaping:
    """``near_duplicates``: passages whose runs of three words agree by so large a share with a
    better one are left out (0 to 1), unless they differ in a number or a denial. ``recency_days``:
    so old a passage gets half of what a new one gets for being new. ``neighbours``: so many chunks
    before and after are shown with each passage."""

    near_duplicates: float | None = None
    recency_days: float | None = None
    neighbours: int = 0

    def __post_init__(self) -> None:
        if self.near_duplicates is not None and not 0 < self.near_duplicates <= 1:
            raise ConfigError(
                f"expected near_duplicates above 0 and up to 1, got {self.near_duplicates!r}"
            )
        if self.recency_days is not None and not self.recency_days > 0:
            raise ConfigError(f"expected recency_days above 0, got {self.recency_days!r}")
        if not 0 <= self.neighbours <= _MOST_NEIGHBOURS:
            raise ConfigError(
                f"expected neighbours from 0 to {_MOST_NEIGHBOURS}, got {self.neighbours!r}"
            )


def without_near_duplicates(passages: Sequence[Passage], share: float) -> list[Passage]:
    """Passages (best first) without those that say nearly the same as a better one. Rows always
    stay."""
    kept: list[Passage] = []
    seen: list[tuple[frozenset[str], frozenset[str]]] = []
    for passage in passages:
        if passage.stream is None:
            runs, facts = _runs(passage.text), _facts(passage.text)
            if any(
                facts == others and len(runs & known) >= share * max(1, len(runs | known))
                for known, others in seen
            ):
                continue
            seen.append((runs, facts))
        kept.append(passage)
    return kept


def by_recency(
    passages: Sequence[Passage], now: Microseconds, half_life_days: float
) -> list[Passage]:
    """Passages with what is older scored lower, best first; something from now keeps its score."""
    aged = [
        replace(
            passage, score=passage.score * _freshness(now - passage.committed_at, half_life_days)
        )
        for passage in passages
    ]
    return sorted(aged, key=lambda passage: (-passage.score, passage.chunk))


def _freshness(age: int, half_life_days: float) -> float:
    return 1 - _FRESH + _FRESH * math.pow(0.5, max(0, age) / _DAY / half_life_days)


def _runs(text: str) -> frozenset[str]:
    words = _WORD.findall(text.lower())
    count = max(1, len(words) - _SHINGLE + 1)
    return frozenset(" ".join(words[i : i + _SHINGLE]) for i in range(count))


def _facts(text: str) -> frozenset[str]:
    """What makes nearly equal texts say different things: numbers, and how often it is denied."""
    low = text.lower()
    numbers = [word for word in _WORD.findall(low) if any(sign.isdigit() for sign in word)]
    return frozenset([*numbers, f"denied {len(_DENIAL.findall(low))}"])


def joined(parts: Sequence[tuple[str, int, int]]) -> tuple[str, int, int]:
    """Chunks of one document in reading order (text, start, end) as one text whose characters keep
    their offsets: what is repeated is cut, what lies between is white space."""
    text, first, end = "", parts[0][1], parts[0][1]
    for part, start, stop in parts:
        if stop <= end:
            continue
        gap = start - end
        text += ("\n" + " " * (gap - 1) if gap > 0 else "") + (part if gap >= 0 else part[-gap:])
        end = stop
    return text, first, end
