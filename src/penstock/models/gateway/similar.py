"""Answers to questions that are almost the same, where all else is the same.

What a model is told beside the question (template, items with their versions), in whose name it
is asked, the models, their parameters and the form are a key, as for answers to the same question:
only under one key are questions compared, by the cosine of their vectors. Vectors hardly see what
is small and turns a question round, so numbers, names and words that deny must be the same besides.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from penstock.clock import Clock
from penstock.models.base import Matter, Vectors, Who
from penstock.models.gateway.base import Completion, Request
from penstock.models.gateway.reuse import key_of

Embed = Callable[[str], Awaitable[Vectors]]
"""From a question to its vector."""
_MOST_OF_A_KEY: Final = 64
_WORD: Final = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_DENIES: Final = frozenset(
    (
        *("no", "not", "never", "none", "nor", "without", "cannot", "except", "unless"),
        *("nicht", "kein", "keine", "keinen", "nie", "ohne", "ne", "pas", "jamais", "sans"),
        *("sin", "nunca", "non", "mai", "senza"),
    )
)


@dataclass(slots=True)
class _Known:
    vector: Vectors
    tells: frozenset[str]
    until: float
    completion: Completion


@dataclass(slots=True)
class Place:
    """Where a question belongs: its key, and what it is compared by."""

    key: bytes
    vector: Vectors
    tells: frozenset[str]


class SimilarAnswers:
    """The last answers by what they rest on, in this process: ``entries`` keys, each with its last
    questions, for ``ttl_s``. ``least`` is the cosine from which on two questions are alike."""

    def __init__(
        self, clock: Clock, embed: Embed, *, least: float, entries: int, ttl_s: float
    ) -> None:
        self._clock = clock
        self._embed = embed
        self._least = least
        self._most = entries
        self._ttl_s = ttl_s
        self._known: OrderedDict[bytes, list[_Known]] = OrderedDict()

    async def place(self, request: Request, who: Who, models: Sequence[object]) -> Place | None:
        """Where a request belongs; None where it is never answered by another's answer: tools, and
        prompts of which nobody says what they rest on."""
        matter = request.matter
        if matter is None or request.tools or not request.reusable:
            return None
        rest = replace(request, matter=Matter(matter.rest, ""))
        key = key_of(rest, who, ["similar", *models])
        vector = await self._embed(matter.question)
        norm = float(np.linalg.norm(vector))
        if not norm:
            return None
        return Place(key, np.asarray(vector, np.float32) / norm, telling(matter.question))

    def get(self, place: Place) -> Completion | None:
        """The answer to the question that is most like this one, if any is like enough."""
        now = self._clock.monotonic()
        fresh = [one for one in self._known.get(place.key, ()) if one.until > now]
        alike = [
            (float(one.vector @ place.vector), number)
            for number, one in enumerate(fresh)
            if one.tells == place.tells
        ]
        best = max(alike, default=(0.0, 0))
        if best[0] < self._least:
            return None
        self._known.move_to_end(place.key)
        return fresh[best[1]].completion

    def put(self, place: Place, completion: Completion, answer: str) -> None:
        """Keep a whole answer, which was written for the one of that id."""
        if completion.finish != "stop":
            return
        self.sweep()
        until = self._clock.monotonic() + self._ttl_s
        kept = self._known.setdefault(place.key, [])
        kept.append(_Known(place.vector, place.tells, until, replace(completion, of=answer)))
        del kept[:-_MOST_OF_A_KEY]
        self._known.move_to_end(place.key)
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def drop(self, answer: str) -> None:
        """Forget what was written for the answer of that id."""
        for kept in self._known.values():
            kept[:] = [one for one in kept if one.completion.of != answer]

    def sweep(self) -> None:
        """Forget what is too old to be given."""
        now = self._clock.monotonic()
        for key in list(self._known):
            self._known[key] = [one for one in self._known[key] if one.until > now]
            if not self._known[key]:
                del self._known[key]


def telling(question: str) -> frozenset[str]:
    """What must be the same in two questions: words with digits, names (words that begin large, but
    for the first one), words that deny. Each with how often it stands there."""
    words = _WORD.findall(question)
    found: list[str] = []
    for number, word in enumerate(words):
        small = word.casefold()
        name = number > 0 and word[0].isupper() and small != "i"
        denies = small in _DENIES or small.endswith(("n't", "n’t"))
        if name or denies or any(letter.isdigit() for letter in word):
            found.append(small)
    return frozenset(f"{word} {found.count(word)}" for word in found)
