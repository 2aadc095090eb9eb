"""A ledger of models' use in the project's database: joins what neither stage sees of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.clock import Clock
from penstock.models.limits import BURST_S, Limits, Use, refuse_beyond

if TYPE_CHECKING:
    from penstock.stores.postgres.model_usage import PostgresModelUsage


class StoredLedger:
    """Limits of one model, kept over all processes of a project."""

    def __init__(self, usage: PostgresModelUsage, model: str, limits: Limits, clock: Clock) -> None:
        self._usage = usage
        self._model = model
        self._limits = limits
        self._clock = clock

    async def reserve(self, use: Use, *, priority: bool) -> float:
        limits = self._limits
        away = await self._usage.reserve(
            self._model,
            use,
            most=(limits.characters_per_day, limits.tokens_per_day),
            takes_s=limits.takes_s(use),
            priority=priority,
        )
        if away is None:
            today = Use(*await self._usage.today(self._model))
            refuse_beyond(limits, today, use, self._clock.now())
            return await self.reserve(use, priority=True)  # midnight came between the two
        return 0.0 if priority else max(0.0, away - BURST_S)

    async def settle(self, reserved: Use, used: Use) -> None:
        difference = (
            used.requests - reserved.requests,
            used.characters - reserved.characters,
            used.tokens - reserved.tokens,
        )
        if any(difference):
            await self._usage.settle(self._model, difference)
