"""Documents that applications write, and reading what was written.

A *position* says how far a source was when something was written to it: ``notes@1795000000000000``.
What was written can be found when the source's part of the knowledge base has reached it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from penstock.clock import Clock
from penstock.errors import ConfigError, UnavailableError
from penstock.principals import listed_name
from penstock.records import Microseconds

MOST_WAIT_S: Final = 60.0
AFTER_S: Final = 10.0
"""How long a question waits for what was written before it."""
_POSITION: Final = re.compile(r"([a-z][a-z0-9_]{0,39})@([0-9]{1,18})")
_PAUSE_S: Final = 0.005
_LONGEST_PAUSE_S: Final = 0.1
_AHEAD: Final = 60_000_000
"""Microseconds by which a position may be later than our clock, which may have been set back."""


@dataclass(frozen=True, slots=True)
class Written:
    """A document as it shall be; ``content`` None: it is to go. ``allow`` and ``deny`` are names of
    lists (``user:ada``); both None: it says nothing of who may see it."""

    key: str
    content: bytes | None = None
    media_type: str = "text/markdown"
    title: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    allow: Sequence[str] | None = None
    deny: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in (*(self.allow or ()), *(self.deny or ())):
            listed_name(name)


class Inlet(Protocol):
    """A source that documents are pushed to."""

    async def push(
        self, documents: Sequence[Written], *, once: str | None = None
    ) -> tuple[Microseconds, bool]:
        """Take documents, all or none; returns when they are durable, with the time of the changes,
        and whether they had come before under the id ``once``.

        Raises `BadRecordError` for what cannot be read, `ReusedIdError` where ``once`` was
        something else, `UnavailableError` when it is not known whether it is durable.
        """


class ReusedIdError(Exception):
    """An idempotency key under which something else was sent before."""


class Receipt(NamedTuple):
    """What became of a write."""

    position: str
    searchable: bool
    repeated: bool


class NoInletError(Exception):
    """There is no such source to push to."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes documents, and waits for what was written. ``ages`` tells per source the time up to
    which everything can be found."""

    inlets: Mapping[str, Inlet]
    ages: Callable[[], Awaitable[Mapping[str, Microseconds | None]]]
    clock: Clock

    async def write(
        self, source: str, documents: Sequence[Written], *, once: str | None, wait_s: float
    ) -> Receipt:
        """Make documents durable, and wait so long until they can be found. Errors are those of
        `Inlet.push`, and `NoInletError`."""
        inlet = self.inlets.get(source)
        if inlet is None:
            raise NoInletError(source)
        at, repeated = await inlet.push(documents, once=once)
        searchable = await self._reached({source: at}, min(wait_s, MOST_WAIT_S))
        return Receipt(f"{source}@{at}", searchable, repeated)

    async def after(self, positions: str | Sequence[str]) -> None:
        """Return when what was written there can be found. `ConfigError` for what is no position,
        `UnavailableError` when it takes too long."""
        wanted: dict[str, Microseconds] = {}
        for written in [positions] if isinstance(positions, str) else positions:
            source, at = self._position(written)
            wanted[source] = max(at, wanted.get(source, at))
        if wanted and not await self._reached(wanted, AFTER_S):
            raise UnavailableError(
                f"expected {', '.join(sorted(wanted))} to reach the position in `after` within "
                f"{AFTER_S:g} s, it has not: ask again",
                retry_after_s=1,
            )

    def _position(self, written: str) -> tuple[str, Microseconds]:
        found = _POSITION.fullmatch(written)
        if found is None or int(found[2]) > self.clock.now() + _AHEAD:
            raise ConfigError(
                f"expected `after` to be a position that a write has given, got {written[:100]!r}"
            )
        return found[1], Microseconds(int(found[2]))

    async def _reached(self, wanted: Mapping[str, Microseconds], limit_s: float) -> bool:
        deadline = self.clock.monotonic() + limit_s
        pause = _PAUSE_S
        while True:
            reached = await self.ages()
            if all((reached.get(source) or -1) >= at for source, at in wanted.items()):
                return True
            left = deadline - self.clock.monotonic()
            if left <= 0:
                return False
            await self.clock.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE_S)
