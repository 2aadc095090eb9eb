"""Answers that take no request: those from before, and those that somebody else waits for.

A key holds everything that an answer depends on, and in whose name it was asked: nothing is shared
across tenants or across permissions, whatever the texts.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Final, Literal

import orjson

from penstock.clock import Clock
from penstock.models.base import Usage, Who
from penstock.models.gateway.base import CallPiece, Completion, Piece, Request
from penstock.telemetry import ReuseMeter

_FORM: Final = 2
"""Of keys: another form finds nothing of before."""


def key_of(request: Request, who: Who, models: Sequence[object]) -> bytes:
    """The prompt (with template, context and question; where its matter is told, that), parameters,
    tools and shape; the models in their order; the tenant, user and groups. Priority and the key
    are no part of an answer, nor is how old what it rests on was."""
    asked = replace(request, priority="query")
    if request.matter is not None:
        asked = replace(asked, turns=())
    whole = [_FORM, who.tenant, sorted(who.names), who.session, list(models), asked]
    try:
        written = orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # half of a pair of surrogates, which no JSON holds
        written = repr(whole).encode("utf-8", "backslashreplace")
    return blake2b(written, digest_size=32).digest()


class ResponseCache:
    """The last answers, in this process: so many, so large together, for so long."""

    def __init__(
        self, clock: Clock, *, entries: int, ttl_s: float, max_bytes: int = 64_000_000
    ) -> None:
        self._clock = clock
        self._most = entries
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._bytes = 0
        self._swept_at = clock.monotonic()
        self._known: OrderedDict[bytes, tuple[float, int, Completion]] = OrderedDict()

    def get(self, key: bytes) -> Completion | None:
        """The answer under this key, if it is still fresh; it took nothing."""
        found = self._known.get(key)
        if found is None:
            return None
        if self._clock.monotonic() >= found[0]:
            self.drop(key)
            return None
        self._known.move_to_end(key)
        return given_again(found[2], "cache", found[2].of)

    def put(self, key: bytes, completion: Completion, answer: str = "") -> None:
        """Keep a whole answer, which was written for the one of that id; one that was cut off or
        refused is not kept."""
        if completion.finish not in ("stop", "tool_calls"):
            return
        completion = replace(completion, of=answer, arm="")
        self._sweep()
        self.drop(key)
        size = 512 + 4 * len(completion.text) + sum(4 * len(c.arguments) for c in completion.calls)
        self._known[key] = (self._clock.monotonic() + self._ttl_s, size, completion)
        self._bytes += size
        while len(self._known) > self._most or self._bytes > self._max_bytes:
            self.drop(next(iter(self._known)))

    def _sweep(self) -> None:
        """What is too old to be given is not held either; looked for now and then."""
        now = self._clock.monotonic()
        if now < self._swept_at + self._ttl_s / 4:
            return
        self._swept_at = now
        for key in [key for key, (until, _, _) in self._known.items() if until <= now]:
            self.drop(key)

    def drop(self, key: bytes) -> None:
        """Forget what is under this key."""
        found = self._known.pop(key, None)
        if found is not None:
            self._bytes -= found[1]


def given_again(completion: Completion, how: Literal["cache", "similar"], of: str) -> Completion:
    """What was written for another answer, for which it took all that it takes."""
    nothing = Usage(cost=0.0, cached_tokens=0)
    return replace(completion, usage=nothing, arm="", reused=how, of=of, waited_ms=0.0)


def replayed(completion: Completion) -> list[Piece]:
    """The pieces of an answer that is there already."""
    pieces: list[Piece] = [completion.text] if completion.text else []
    for place, call in enumerate(completion.calls):
        pieces.append(CallPiece(place, call.id, call.name, call.arguments))
    return [*pieces, completion]


class _Flight:
    """One request that several wait for. It goes on while anybody does. ``answer`` is the id of
    that for which it was begun."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.pieces: list[Piece] = []
        self.over = False
        self.error: BaseException | None = None
        self.news = asyncio.Event()
        self.heard = 0
        self.task: asyncio.Task[None] | None = None

    async def fly(self, source: AsyncGenerator[Piece], landed: Callable[[], None]) -> None:
        """Collect the pieces, in a task of its own."""
        try:
            async for piece in source:
                self.pieces.append(piece)
                self._tell()
        except BaseException as error:  # told to all who wait
            self.error = error
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self.over = True
            landed()
            self._tell()
            await source.aclose()

    def _tell(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()


class Flights:
    """Identical requests at the same time are one."""

    def __init__(self, meter: ReuseMeter) -> None:
        self._meter = meter
        self._now: dict[bytes, _Flight] = {}

    async def shared(
        self, key: bytes, source: Callable[[], AsyncGenerator[Piece]], answer: str = ""
    ) -> AsyncGenerator[Piece]:
        """The pieces of ``source``, or of whoever asked for the same and is not done yet."""
        flight = self._now.get(key)
        joined = flight is not None
        if flight is None:
            flight = self._now[key] = _Flight(answer)
            landing = self._landing(key, flight)
            flight.task = asyncio.create_task(flight.fly(source(), landing))
        else:
            self._meter.coalesced += 1
        flight.heard += 1
        at = 0
        try:
            while True:
                while at < len(flight.pieces):
                    at += 1
                    piece = flight.pieces[at - 1]
                    if joined and isinstance(piece, Completion):
                        piece = given_again(piece, "cache", flight.answer)
                    yield piece
                if flight.over:
                    break
                await flight.news.wait()
            if flight.error is not None:
                raise flight.error
        finally:
            flight.heard -= 1
            if not flight.heard and flight.task is not None:
                await self._ended(key, flight)

    def _landing(self, key: bytes, flight: _Flight) -> Callable[[], None]:
        def landed() -> None:
            if self._now.get(key) is flight:
                del self._now[key]

        return landed

    async def _ended(self, key: bytes, flight: _Flight) -> None:
        """The last one has gone: nobody waits for the rest."""
        self._landing(key, flight)()
        assert flight.task is not None
        if not flight.task.done():
            flight.task.cancel()
        await asyncio.wait([flight.task])
