"""What calls cost, kept in the database: joins what neither stage sees of the other."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import structlog

from penstock.errors import PenstockError
from penstock.models.gateway.account import (
    Budgets,
    Reservation,
    Spent,
    beyond,
    difference,
    spent_of,
)
from penstock.models.gateway.blocks import Blocks, Place
from penstock.models.gateway.canary import Arm, CanaryRules, Standing, State
from penstock.models.limits import day_of

if TYPE_CHECKING:
    from penstock.clock import Clock
    from penstock.models.base import Usage, Who
    from penstock.stores.postgres.model_costs import Amounts, CanaryRow, PostgresModelCosts

logger = structlog.get_logger("penstock.models")

_SOON_S = 0.2
_FRESH_S = 1.0


class StoredAccount:
    """Budgets, costs and canaries over all processes. Reserving is a transaction, for several
    calls at once where the budget is wide enough (`Blocks`); what calls took
    is written a moment later, so a process that is killed leaves what it had put aside: a budget
    holds too little then, never too much."""

    def __init__(self, costs: PostgresModelCosts, tenant: str, clock: Clock) -> None:
        self.costs = costs
        self._tenant = tenant
        self._clock = clock
        self._adjusted: dict[tuple[str, str, str], int] = defaultdict(int)
        self._spent: dict[tuple[str, str, str, str], Spent] = defaultdict(Spent)
        self._arms: dict[str, tuple[Arm, Arm]] = {}
        self._rules: dict[str, CanaryRules] = {}
        self._standing: dict[str, Standing] = {}
        self._read_at = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self._flushing = asyncio.Lock()
        self._blocks = Blocks()
        self._refilling: dict[Place, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._owed = False
        """Whether a call took more than was put aside for it, and that is not written yet."""

    # ------------------------------------------------------------------ costs

    async def reserve(self, who: Who, nanos: int, budgets: Budgets) -> Reservation:
        """Put so much aside. `RetryableError` when a budget does not hold it."""
        if not budgets.any:
            return Reservation(who, day_of(self._clock.now()), 0)
        if self._owed:
            await self.flush()  # else calls in quick succession would not see each other's excess
        place, today = (who.tenant, who.key), day_of(self._clock.now())
        if self._blocks.take(place, today, nanos, self._clock.monotonic()):
            return Reservation(who, today, nanos)
        async with self._refilling[place]:
            if self._blocks.take(place, today, nanos, self._clock.monotonic()):
                return Reservation(who, today, nanos)
            day = await self._refill(who, nanos, budgets)
        return Reservation(who, day, nanos)

    async def _refill(self, who: Who, nanos: int, budgets: Budgets) -> str:
        """Put aside what this call may cost, and some that come after it; returns the day."""
        whole, single = budgets.of(who)
        most = {"": whole} | ({who.key: single} if who.key else {})
        size = self._blocks.size(who.tenant, nanos, (whole, single))
        found = await self.costs.reserve(who.tenant, size, most)
        if isinstance(found, tuple) and size > nanos:
            size = nanos  # it holds no block any more, but perhaps one call
            found = await self.costs.reserve(who.tenant, size, most)
        if isinstance(found, tuple):
            key, taken = found
            raise beyond(most[key] or 0, taken, key, self._clock.now())
        day, place = found.isoformat(), (who.tenant, who.key)
        if size > nanos:
            old = self._blocks.put(place, day, size - nanos, self._clock.monotonic())
            if old is not None:
                self._give_back(place, *old)
            self._soon()
        return day

    def _give_back(self, place: Place, day: str, nanos: int) -> None:
        tenant, key = place
        for whose in {"", key}:
            self._adjusted[tenant, day, whose] -= nanos

    def settle(self, reserved: Reservation, model: str, usage: Usage | None) -> None:
        """Say what the call took."""
        who = reserved.who
        more = difference(reserved, usage)
        self._owed |= more > 0
        for key in {"", who.key}:
            self._adjusted[who.tenant, reserved.day, key] += more
        place = (who.tenant, reserved.day, who.key, model)
        self._spent[place] = self._spent[place].plus(spent_of(usage))
        self._soon()

    # ------------------------------------------------------------------ canaries

    def standing(self, model: str) -> Standing:
        """As the database had it a moment ago."""
        if self._clock.monotonic() - self._read_at > _FRESH_S:
            self._arms.setdefault(model, (Arm(), Arm()))
            self._soon()
        return self._standing.get(model, Standing())

    def count(self, rules: CanaryRules, *, canary: bool, failed: bool) -> None:
        """One request more."""
        self._add(rules, Arm(1, int(failed)), canary=canary)

    def judge(self, rules: CanaryRules, *, canary: bool, good: bool) -> None:
        """It is known of one answer more how good it is."""
        self._add(rules, Arm(judged=1, good=int(good)), canary=canary)

    def _add(self, rules: CanaryRules, arm: Arm, *, canary: bool) -> None:
        self._rules[rules.model] = rules
        new, others = self._arms.get(rules.model, (Arm(), Arm()))
        self._arms[rules.model] = (new.plus(arm), others) if canary else (new, others.plus(arm))
        self._soon()

    # ------------------------------------------------------------------ writing

    async def flush(self) -> None:
        """Write down what was counted, and read how canaries stand."""
        async with self._flushing:
            await self._flush()

    async def _flush(self, *, last: bool = False) -> None:
        for place, day, nanos in self._blocks.idle(self._clock.monotonic(), all_of_them=last):
            self._give_back(place, day, nanos)
        adjusted, self._adjusted = self._adjusted, defaultdict(int)
        spent, self._spent = self._spent, defaultdict(Spent)
        arms, self._arms = self._arms, {}
        try:
            if adjusted or spent:
                await self.costs.settle(adjusted, {k: _amounts(v) for k, v in spent.items()})
                adjusted, spent = defaultdict(int), defaultdict(Spent)
            self._owed = any(nanos > 0 for nanos in self._adjusted.values())
            if arms:
                await self._canaries(arms)
                arms = {}
        finally:
            for line, nanos in adjusted.items():  # what could not be written is written next time
                self._adjusted[line] += nanos
            for which, had in spent.items():
                self._spent[which] = self._spent[which].plus(had)
            for model, (new, others) in arms.items():
                now = self._arms.get(model, (Arm(), Arm()))
                self._arms[model] = (now[0].plus(new), now[1].plus(others))

    async def refresh(self, model: str) -> Standing:
        """How a canary stands now."""
        self._arms.setdefault(model, (Arm(), Arm()))
        await self.flush()
        return self._standing[model]

    async def close(self) -> None:
        """Write down what is still to be written."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        try:
            async with self._flushing:
                await self._flush(last=True)
        except PenstockError as error:
            logger.warning("models.costs_lost", reason=str(error))

    async def _canaries(self, arms: dict[str, tuple[Arm, Arm]]) -> None:
        lines = [
            (
                model,
                *(new.requests, new.errors, new.judged, new.good),
                *(others.requests, others.errors, others.judged, others.good),
            )
            for model, (new, others) in arms.items()
        ]
        for row in await self.costs.count(self._tenant, lines):
            found = _standing(row)
            rules = self._rules.get(row.model)
            judged = found if rules is None else found.judged(rules)
            if judged.state != found.state:
                await self.costs.decide(
                    self._tenant, row.model, judged.state, judged.reason, anyway=False
                )
                event = f"models.canary_{judged.state.replace(' ', '_')}"
                logger.warning(event, model=row.model, reason=judged.reason)
            self._standing[row.model] = replace(judged)
        self._read_at = self._clock.monotonic()

    def _soon(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._later())

    async def _later(self) -> None:
        await self._clock.sleep(_SOON_S)
        await self._written()
        while self._blocks:  # until what nobody takes is given back
            await self._clock.sleep(_SOON_S)
            await self._written()

    async def _written(self) -> None:
        try:
            await self.flush()
        except PenstockError as error:
            logger.warning("models.costs_wait", reason=str(error))


def _amounts(spent: Spent) -> Amounts:
    return (
        spent.requests, spent.failed, spent.input_tokens, spent.output_tokens,
        spent.cached_tokens, spent.nanos, spent.unknown,
    )  # fmt: skip


def _standing(row: CanaryRow) -> Standing:
    return Standing(
        cast("State", row.state),
        Arm(row.requests, row.errors, row.judged, row.good),
        Arm(row.other_requests, row.other_errors, row.other_judged, row.other_good),
        row.reason,
    )
