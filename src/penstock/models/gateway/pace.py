"""What one model may be asked by itself: requests a minute, money a day, whoever counts them.

Tokens are counted at the price of those that are sent, so that the budget of a day is one number.
"""

from __future__ import annotations

import asyncio
from typing import Final

from penstock.clock import Clock
from penstock.errors import PenstockError, RetryableError
from penstock.models.base import Usage
from penstock.models.gateway.base import Request
from penstock.models.gateway.draft import estimated
from penstock.models.limits import Ledger, Use

_LONGEST_WAIT_S: Final = 5.0
"""A person waits: what the limits put off for longer is refused. What nobody waits for waits."""


class Pace:
    """Of one model. ``written_worth`` is what a token that it writes costs, in tokens that are
    sent."""

    def __init__(
        self, name: str, ledger: Ledger, clock: Clock, *, written_worth: float = 1.0
    ) -> None:
        self._name = name
        self._ledger = ledger
        self._clock = clock
        self._worth = written_worth
        self._settling: set[asyncio.Task[None]] = set()
        self._owed: set[asyncio.Task[None]] = set()
        """Those that say of a call that it took more than was put aside for it."""

    async def enter(self, request: Request) -> Use:
        """Count a request, and wait for its turn. `RetryableError` where a person would not: the
        facts say ``own``, for another model may be asked."""
        if self._owed:
            await asyncio.wait(self._owed)  # else quick ones would not see each other's excess
        characters = sum(len(turn.text) for turn in request.turns)
        use = Use(1, characters, self._counted(estimated(request), request.max_tokens or 0))
        try:
            wait = await self._ledger.reserve(use, priority=False)
        except RetryableError as error:
            if error.facts.get("budget"):
                error.facts["own"] = True
            raise
        if wait > _LONGEST_WAIT_S and request.priority == "query":
            await self._ledger.settle(use, Use())
            raise RetryableError(
                f"the limits of {self._name} put a request off for {wait:.0f} s: ask again then, "
                "or raise `limits` of the model",
                retry_after_s=wait,
                own=True,
            )
        if wait > 0:
            await self._clock.sleep(wait)
        return use

    def leave(self, reserved: Use, usage: Usage | None) -> None:
        """Say what it took; None: nothing, it was not answered. What nobody knows stays counted."""
        used = Use()
        if usage is not None:
            if usage.input_tokens is None or usage.output_tokens is None:
                return
            tokens = self._counted(usage.input_tokens, usage.output_tokens)
            used = reserved._replace(tokens=tokens)
        if used == reserved:
            return
        task = asyncio.ensure_future(self._settle(reserved, used))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        if used.tokens > reserved.tokens:
            self._owed.add(task)
            task.add_done_callback(self._owed.discard)

    async def close(self) -> None:
        """Write down what is still to be written."""
        if self._settling:
            await asyncio.wait(self._settling)

    async def _settle(self, reserved: Use, used: Use) -> None:
        try:
            await self._ledger.settle(reserved, used)
        except PenstockError:
            # The database is away: what was put aside stays, a budget holds too little then.
            return

    def _counted(self, read: int, written: int) -> int:
        return round(read + written * self._worth)
