"""Which of the known keys a listing has not shown: a few bytes for each, in whatever order the
store lists."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator


class Unseen:
    """The keys that were known when a listing began, without those that were seen since."""

    def __init__(self, known: Iterable[str]) -> None:
        self._keys = sorted(known)
        self._seen = bytearray(len(self._keys))
        self._next = 0

    def see(self, key: str) -> None:
        """This one is there (or was looked at meanwhile)."""
        place = self._next
        keys = self._keys
        if place >= len(keys) or keys[place] != key:  # stores list in order, nearly all of them
            place = bisect_left(keys, key)
            if place >= len(keys) or keys[place] != key:
                return
        self._seen[place] = 1
        self._next = place + 1

    def left(self) -> Iterator[str]:
        """Those that were not seen by the time that the iterator comes to them."""
        place = -1
        while (place := self._seen.find(0, place + 1)) >= 0:
            yield self._keys[place]
