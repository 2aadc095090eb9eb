"""A model that is asked as often as it makes sense, and never beyond what may be spent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

from penstock.clock import Clock
from penstock.errors import BadRecordError, PenstockError, RetryableError
from penstock.models.base import Usage, Who
from penstock.models.gateway.account import NANOS, Account, Budgets, Reservation
from penstock.models.gateway.base import Completion, Piece, Request
from penstock.models.gateway.breaker import Breaker, BreakerRules, Lane, TryBudget, is_fault
from penstock.models.gateway.draft import Tokens, estimated
from penstock.models.gateway.endpoint import EndpointModel, json_of
from penstock.models.gateway.pace import Pace
from penstock.models.gateway.reuse import replayed
from penstock.telemetry import ModelMeter

_TRIES: Final = 3
_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 5.0
"""A person waits: who asks for a longer pause is not tried again."""
_STATES: Final = ("closed", "half-open", "open")
_NO_BUDGETS: Final = Budgets()
_RULES: Final = BreakerRules()
_UNKNOWN: Final = Usage(1, None, None, None)


@dataclass
class Tally:
    """What one question took, over all tries and models."""

    usage: Usage = field(default_factory=lambda: Usage(cost=0.0, cached_tokens=0))

    def add(self, used: Usage) -> None:
        """One more request."""
        had = self.usage
        self.usage = Usage(
            had.requests + used.requests,
            _sum(had.input_tokens, used.input_tokens),
            _sum(had.output_tokens, used.output_tokens),
            None if had.cost is None or used.cost is None else had.cost + used.cost,
            _sum(had.cached_tokens, used.cached_tokens),
            had.estimated or used.estimated,
        )


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


class GuardedModel:
    """One model with its breaker, its lane, its tries, and what it may cost."""

    def __init__(
        self,
        model: EndpointModel,
        *,
        account: Account,
        clock: Clock,
        budgets: Budgets = _NO_BUDGETS,
        rules: BreakerRules = _RULES,
        at_once: int = 64,
        longest_s: float = 120.0,
        pace: Pace | None = None,
        meter: ModelMeter | None = None,
    ) -> None:
        self.name = model.name
        self.model = model
        self.breaker = Breaker(model.name, rules, clock)
        self.meter = meter or ModelMeter(model.name)
        self.meter.breaker = lambda: (_STATES.index(self.breaker.state), self.breaker.opened)
        self._account = account
        self._budgets = budgets
        self._clock = clock
        self._lane = Lane(at_once)
        self._tries = TryBudget()
        self._longest_s = longest_s
        self._pace = pace

    async def stream(self, request: Request, who: Who, tally: Tally) -> AsyncGenerator[Piece]:
        """The pieces. What fails before the first one is tried again, within limits; after it, the
        error is raised: half an answer is not passed off as whole."""
        self._tries.asked()
        began, tried = self._clock.monotonic(), 0
        ask = self._once if self._pace is None else self._paced
        while True:
            begun, tried = False, tried + 1
            try:
                async with aclosing(ask(request, who, tally, [])) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except RetryableError as error:
                wait = error.retry_after_s or _WAIT_S * 2**tried
                late = self._clock.monotonic() - began + wait > self._longest_s
                last = begun or late or tried == _TRIES or not is_fault(error)
                if last or wait > _LONGEST_WAIT_S or not self._tries.take():
                    raise
            self.meter.retries += 1
            await self._clock.sleep(wait)

    async def close(self) -> None:
        """Release connections."""
        await self.model.close()
        if self._pace is not None:
            await self._pace.close()

    async def _paced(
        self, request: Request, who: Who, tally: Tally, took: list[Usage | None]
    ) -> AsyncGenerator[Piece]:
        """One request, within the limits that this model has of its own."""
        assert self._pace is not None
        use = await self._pace.enter(self.model.filled(request))
        try:
            async with aclosing(self._once(request, who, tally, took)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._pace.leave(use, took[0] if took else None)

    async def _once(
        self, request: Request, who: Who, tally: Tally, took: list[Usage | None]
    ) -> AsyncGenerator[Piece]:
        """One request; ``took`` gets what it took, if it was sent at all."""
        async with self._lane.turn(request.priority):
            self.breaker.enter()
            try:
                reserved = await self._reserve(request, who)
            except BaseException:
                self.breaker.left()
                raise
            self.meter.requests += 1
            used: Usage | None = _UNKNOWN  # whoever leaves early does not know what it took
            try:
                async with aclosing(self.model.stream(request, who)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, Completion):
                            used = piece.usage
                            tally.add(used)
                            piece = self._whole(piece, request, tally)
                            if request.shape is not None:
                                for part in replayed(piece)[:-1]:
                                    yield part
                        elif request.shape is not None:
                            continue  # JSON is read as a whole, so it can still be tried again
                        yield piece
                self.breaker.succeeded()
            except PenstockError as error:
                used = self._failed(error, used, tally)
                raise
            except (asyncio.CancelledError, GeneratorExit):
                self.breaker.left()
                raise
            finally:
                self._account.settle(reserved, self.name, used)
                took.append(used)

    def _whole(self, found: Completion, request: Request, tally: Tally) -> Completion:
        """The completion as it is passed on: with what all tries took."""
        meter, used = self.meter, found.usage
        meter.input_tokens += used.input_tokens or 0
        meter.output_tokens += used.output_tokens or 0
        meter.cached_tokens += used.cached_tokens or 0
        meter.cost += used.cost or 0.0
        meter.first_piece_s += found.waited_ms / 1e3
        if request.shape is not None and found.finish == "stop" and not found.calls:
            json_of(found.text)
        return replace(found, usage=tally.usage)

    def _failed(self, error: PenstockError, used: Usage | None, tally: Tally) -> Usage | None:
        """What a failed request took: nothing if it was refused, else nobody knows."""
        if is_fault(error):
            self.breaker.failed(getattr(error, "retry_after_s", None))
            self.meter.errors += 1
        elif isinstance(error, BadRecordError):
            self.breaker.succeeded()  # it answered: the request is at fault
        else:
            self.breaker.left()
        if used is not _UNKNOWN:
            return used  # it wrote to the end, but no JSON
        if error.facts.get("timeout") or error.facts.get("malformed"):
            tally.add(_UNKNOWN)
            return _UNKNOWN
        tally.add(Usage(1, 0, 0, 0.0, 0))
        return None

    async def _reserve(self, request: Request, who: Who) -> Reservation:
        """The most that it can cost, at prices that are known."""
        filled = self.model.filled(request)
        most = self.model.pricing.cost(Tokens(estimated(request), filled.max_tokens or 0))
        nanos = 0 if most is None or not self._budgets.any else round(most * NANOS)
        return await self._account.reserve(who, nanos, self._budgets)
