"""Faults of what is not ours: servers, their disk, and the wires to them."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from penstock.torture.kinds import Fault
from penstock.torture.plan import Round
from penstock.torture.proxy import Manner, Proxy
from penstock.torture.report import Report
from penstock.torture.shop import PostgresShop
from penstock.torture.world import World

Way = Callable[[Round], Awaitable[float]]


class ServerFaults:
    """Breaks servers and wires of a world. ``kill`` kills one of our processes, ``changed`` tells
    that what was acknowledged can be compared with what is durable now."""

    def __init__(
        self,
        world: World,
        report: Report,
        *,
        kill: Way,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._world = world
        self._report = report
        self._kill = kill
        self._changed = changed

    def ways(self) -> Mapping[Fault, Way]:
        """Who does what."""
        shop, database = self._world.shop.proxy, self._world.database_proxy
        ways: dict[Fault, Way] = {
            Fault.KILL_DATABASE: self._kill_database,
            Fault.KILL_SOURCE: self._kill_source,
            Fault.FREEZE_DATABASE: self._freeze_database,
            Fault.DISK_FULL: self._disk_full,
            Fault.CUT_SOURCE: partial(self._cut, shop, reset=False),
            Fault.RESET_SOURCE: partial(self._cut, shop, reset=True),
            Fault.SLOW_SOURCE: partial(self._passes, shop, "slow"),
            Fault.BYTEWISE_SOURCE: partial(self._passes, shop, "bytewise"),
            Fault.HALF_OPEN_SOURCE: self._half_open_source,
            Fault.RESENT: self._resent,
            Fault.LATE_SENDER: self._late_sender,
            Fault.CUT_DATABASE: partial(self._cut, database, reset=False),
            Fault.RESET_DATABASE: partial(self._cut, database, reset=True),
            Fault.SLOW_DATABASE: partial(self._passes, database, "slow"),
            Fault.BYTEWISE_DATABASE: partial(self._passes, database, "bytewise"),
            Fault.HALF_OPEN_DATABASE: partial(self._half_open, database, kills=True),
        }
        if self._world.kafka is not None:
            broker = self._world.kafka.proxy
            ways |= {
                Fault.KILL_BROKER: self._kill_broker,
                Fault.FREEZE_BROKER: self._freeze_broker,
                Fault.CUT_BROKER: partial(self._cut, broker, reset=False),
                Fault.SLOW_BROKER: partial(self._passes, broker, "slow"),
                Fault.HALF_OPEN_BROKER: partial(self._half_open, broker, kills=False),
            }
        return ways

    # ------------------------------------------------------------------ servers

    async def _kill_database(self, what: Round) -> float:  # noqa: ARG002 - all ways look alike
        self._world.database_kill()
        return time.monotonic()

    async def _kill_source(self, what: Round) -> float:  # noqa: ARG002
        self._world.shop.kill()
        return time.monotonic()

    async def _freeze_database(self, what: Round) -> float:
        self._world.database_signal(signal.SIGSTOP)
        await asyncio.sleep(what.length_s)
        self._world.database_signal(signal.SIGCONT)
        return time.monotonic()

    async def _disk_full(self, what: Round) -> float:
        world = self._world
        if not world.disk_bounded:
            self._report.skipped[what.fault] = "mounting a tmpfs needs root on Linux"
            return time.monotonic()
        with world.full_disk():
            await asyncio.sleep(what.length_s + 2)
        return time.monotonic()

    async def _kill_broker(self, what: Round) -> float:
        assert self._world.kafka is not None
        self._world.kafka.kill()
        moment = time.monotonic()
        await asyncio.sleep(what.length_s)
        await self._world.kafka.start()
        return moment

    async def _freeze_broker(self, what: Round) -> float:
        assert self._world.kafka is not None
        self._world.kafka.signal(signal.SIGSTOP)
        await asyncio.sleep(what.length_s * 2)
        self._world.kafka.signal(signal.SIGCONT)
        return time.monotonic()

    # ------------------------------------------------------------------ wires

    async def _cut(self, proxy: Proxy, what: Round, *, reset: bool) -> float:  # noqa: ARG002
        proxy.cut(reset=reset)
        return time.monotonic()

    async def _passes(self, proxy: Proxy, manner: Manner, what: Round) -> float:
        proxy.manner = manner
        await asyncio.sleep(what.length_s + 0.5)
        proxy.manner = "through"
        return time.monotonic()

    async def _half_open_source(self, what: Round) -> float:  # noqa: ARG002
        self._world.shop.proxy.forget()
        return time.monotonic()

    async def _half_open(self, proxy: Proxy, what: Round, *, kills: bool) -> float:
        proxy.manner = "silent"
        await asyncio.sleep(what.length_s * 2)
        moment = time.monotonic()
        if kills and what.times % 2:  # what it has sent in the meantime never arrives
            moment = await self._kill(what)
            self._report.kills += 1
        proxy.cut(reset=True)
        proxy.manner = "through"
        await self._changed()
        return moment

    async def _late_sender(self, what: Round) -> float:
        shop = self._world.shop
        assert isinstance(shop, PostgresShop)
        await shop.delay(what.length_s + 1.5)
        return time.monotonic()

    async def _resent(self, what: Round) -> float:
        """Confirmations do not reach the source for a while; then it sends all of that again."""
        shop = self._world.shop
        shop.proxy.hold_back()
        await asyncio.sleep(what.length_s)
        moment = time.monotonic()
        if what.times % 2:
            shop.kill()
            await shop.start()
        else:
            shop.proxy.cut()
        return moment
