"""What a process has read of late and what never changes: bounded in bytes and in time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from penstock.clock import Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

KEPT_S: Final = 600.0
"""What was not used for so long is let go of: what was erased must not stay in memory for ever."""


class Recent(Generic[K, V]):
    """Values by key, the least recently used go first. The key must say all that decides the
    value: nothing here is ever found to be out of date."""

    def __init__(self, most_bytes: int, clock: Clock) -> None:
        self._most_bytes = most_bytes
        self._clock = clock
        self._entries: OrderedDict[K, tuple[float, int, V]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value; None where it is not here."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._entries[key] = (self._clock.monotonic(), *entry[1:])
        return entry[2]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value of about so many bytes."""
        known = self._entries.pop(key, None)
        self.bytes += size - (0 if known is None else known[1])
        now = self._clock.monotonic()
        self._entries[key] = (now, size, value)
        while self._entries:
            used, oldest, _ = next(iter(self._entries.values()))
            if self.bytes <= self._most_bytes and now - used < KEPT_S:
                return
            self._entries.popitem(last=False)
            self.bytes -= oldest

    def clear(self) -> None:
        """Let go of everything."""
        self._entries.clear()
        self.bytes = 0
