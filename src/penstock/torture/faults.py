"""Faults of our own processes, and who does which fault. Each way returns when it is over and tells
from when recovery counts."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg

from penstock.boundaries import Boundary, Point
from penstock.torture.breaking import ServerFaults
from penstock.torture.kinds import LASTING, Fault
from penstock.torture.lives import Life
from penstock.torture.plan import Round
from penstock.torture.report import Report
from penstock.torture.shop import connect
from penstock.torture.trap import Order
from penstock.torture.workload import Pace
from penstock.torture.world import World

Way = Callable[[Round], Awaitable[float]]

_BOUNDARY_S: Final = 30.0
"""How long a boundary may take to be reached."""
_NAMED_S: Final = 30.0
_ASKING: Final = frozenset(
    {Fault.OUTLIVE_LEASE, Fault.REPLAYED, Fault.SLOT_DROPPED, Fault.BINLOG_PURGED}
)
_TAKE_LOCK: Final = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted
"""


class Faults:
    """Breaks things in a world. ``begun_anew`` is set when a source had to begin from nothing."""

    def __init__(
        self,
        world: World,
        report: Report,
        pace: Pace,
        *,
        changed: Callable[[], Awaitable[None]],
        goes_on: Callable[[], Awaitable[None]],
    ) -> None:
        self.begun_anew = False
        self._world = world
        self._report = report
        self._pace = pace
        self._changed = changed
        self._goes_on = goes_on
        servers = ServerFaults(world, report, kill=self._kill_one, changed=changed)
        self._ways: Mapping[Fault, Way] = {
            **servers.ways(),
            Fault.KILL: self._kill,
            Fault.KILL_AT: self._kill_at,
            Fault.KILL_TWICE: self._kill_twice,
            Fault.KILL_IN_LARGE: self._kill_in_large,
            Fault.KILL_EVERYTHING_TWICE: self._kill_everything_twice,
            Fault.STOP: self._stop,
            Fault.FREEZE: self._freeze,
            Fault.OUTLIVE_LEASE: self._outlive_lease,
            Fault.REPLAYED: self._replayed,
            Fault.SLOT_DROPPED: self._stream_lost,
            Fault.BINLOG_PURGED: self._stream_lost,
        }

    async def inject(self, what: Round) -> float:
        """Do it, and what comes with it; returns the moment from which recovery is counted. What
        lasts goes on while the others come, one after the other."""
        every = (what, *what.also)
        lasting = [one for one in every if one.fault in LASTING]
        sudden = [one for one in every if one.fault not in LASTING]
        tasks = [asyncio.create_task(self._after(one, 0.2 * i)) for i, one in enumerate(lasting)]
        try:
            moments: list[float] = []
            for one in sudden:
                if tasks or moments:
                    await asyncio.sleep(min(one.length_s, 1.0) / 2)
                moments.append(await self._beside(one, alone=len(every) == 1))
            return max([*moments, *await asyncio.gather(*tasks)])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _beside(self, what: Round, *, alone: bool) -> float:
        """One fault after others whose servers nobody has started again yet: what asks a server
        needs it, and may still find it full or silent."""
        if alone:
            return await self._ways[what.fault](what)
        if what.fault in _ASKING:
            await self._world.start_servers()
        try:
            return await self._ways[what.fault](what)
        except psycopg.OperationalError:
            self._report.count(f"{what.fault} found a server away", 0)
            return time.monotonic()

    async def _after(self, what: Round, pause_s: float) -> float:
        await asyncio.sleep(pause_s)
        return await self._ways[what.fault](what)

    async def heal(self) -> None:
        """Everything that is not ours runs again: servers, wires."""
        world = self._world
        world.orders.unlink(missing_ok=True)
        proxies = [world.shop.proxy, world.database_proxy]
        for proxy in proxies + ([world.kafka.proxy] if world.kafka is not None else []):
            proxy.manner = "through"
        await world.shop.start()
        if world.kafka is not None:
            await world.kafka.start()
        if any(not life.proxied for life in world.crew.alive):
            # Their own supervisor starts the database again.
            until = time.monotonic() + 5
            while world.database.server_pid() is None and time.monotonic() < until:
                await asyncio.sleep(0.02)
        await world.start_database()

    # ------------------------------------------------------------------ kills

    async def _kill_one(self, what: Round) -> float:
        life = self._world.crew.one(what.number)
        moment = time.monotonic()
        if life is not None:
            await life.kill()
        return moment

    async def _kill(self, what: Round) -> float:
        moment = await self._kill_one(what)
        await self._changed()
        return moment

    async def _kill_at(self, what: Round) -> float:
        world = self._world
        assert what.point is not None
        Order(what.point, what.times, "kill").write(world.orders)
        world.start(proxied=bool(what.times % 2))
        if not await world.crew.any_ended(_BOUNDARY_S):
            self._report.count(f"{what.point} was not reached", 0)
            world.orders.unlink(missing_ok=True)
            return await self._kill_one(what)
        moment = time.monotonic()
        if what.point.boundary is not Boundary.MIGRATE:
            await self._changed()
        return moment

    async def _kill_twice(self, what: Round) -> float:
        await self._kill_one(what)
        self._world.start(proxied=True)
        await asyncio.sleep(what.length_s)
        return await self._kill_one(what)

    async def _kill_in_large(self, what: Round) -> float:
        """Three large transactions come one after the other; between two appends all is over."""
        before = self._pace.large_made
        for _ in range(3):
            self._pace.allow_large()
        until = time.monotonic() + 60
        while self._pace.large_made == before and time.monotonic() < until:
            await asyncio.sleep(0.01)
        Order(Point(Boundary.APPEND, "after"), what.times, "kill").write(self._world.orders)
        if not await self._world.crew.any_ended(_BOUNDARY_S):
            return await self._kill_one(what)
        moment = time.monotonic()
        await self._changed()
        return moment

    async def _kill_everything_twice(self, what: Round) -> float:
        world = self._world
        for _ in range(2):
            await world.crew.kill()
            world.database_kill()
            world.shop.kill()
            moment = time.monotonic()
            await world.start_servers()
            world.start(proxied=True)
            await asyncio.sleep(what.length_s / 2)
        return moment

    # ------------------------------------------------------------------ stops

    async def _stop(self, what: Round) -> float:
        life = self._world.crew.one(what.number)
        moment = time.monotonic()
        if life is not None:
            life.signal(signal.SIGTERM)
            if not await life.ended(30):
                self._report.exits.append("did not end within 30 s after SIGTERM")
                await life.kill()
        await self._changed()
        return moment

    async def _stop_all(self) -> None:
        for late in await self._world.crew.stop():
            self._report.exits.append(f"{late.role} did not end within 30 s after SIGTERM")

    async def _freeze(self, what: Round) -> float:
        life = self._world.crew.one(what.number)
        if life is not None:
            life.signal(signal.SIGSTOP)
            await asyncio.sleep(what.length_s)
            life.signal(signal.SIGCONT)
        return time.monotonic()

    async def _outlive_lease(self, what: Round) -> float:
        """A process stands still in the middle of its work until another has taken over; then it
        goes on with what it had in hand, and must be refused."""
        first = await self._one_stands_still(what)
        if first is None:
            return time.monotonic()
        shared = self._world.setting.workers > 1
        try:
            return await (self._sleep_past_lease if shared else self._rival)(first)
        finally:
            first.signal(signal.SIGCONT)

    async def _one_stands_still(self, what: Round) -> Life | None:
        world = self._world
        assert what.point is not None
        Order(what.point, what.times, "stop").write(world.orders)
        until = time.monotonic() + _BOUNDARY_S
        alive = world.crew.alive
        while time.monotonic() < until and any(life.alive for life in alive):
            for life in alive:
                if life.stands_still:
                    return life
            await asyncio.sleep(0.01)
        world.orders.unlink(missing_ok=True)
        one = world.crew.one(what.number)
        if one is not None:
            one.signal(signal.SIGSTOP)
        return one

    async def _sleep_past_lease(self, first: Life) -> float:
        """The others take what it had and go on without it; it joins them again, and lives on."""
        await self._goes_on()
        first.signal(signal.SIGCONT)
        moment = time.monotonic()
        await first.ended(1.0)
        return moment

    async def _rival(self, first: Life) -> float:
        """Alone, it loses its lock and a second process takes over."""
        world = self._world
        async with await connect(world.database_dsn) as connection:
            await connection.execute(_TAKE_LOCK.encode())
        await world.shop.send_away()
        second = world.crew.rival(world.proxied_database)
        world.crew.replace(second)
        await self._takes_over(second)
        first.signal(signal.SIGCONT)
        moment = time.monotonic()
        until = moment + 15
        while first.alive and second.alive and time.monotonic() < until:
            await asyncio.sleep(0.02)
        if first.alive and second.alive:
            self._report.exits.append("two processes ran side by side for 15 s")
            await first.kill()
        if first.alive:
            world.crew.replace(first)
        return moment

    async def _takes_over(self, second: Life) -> None:
        """Wait until the second process has appended something of its own."""
        async with await connect(self._world.database_dsn) as connection:
            ask = b"SELECT sum(last) FROM penstock.log_partitions"
            [(before,)] = await (await connection.execute(ask)).fetchall()
            until = time.monotonic() + 20
            while second.alive and time.monotonic() < until:
                [(now,)] = await (await connection.execute(ask)).fetchall()
                if now > before + 50:
                    return
                await asyncio.sleep(0.05)

    # ------------------------------------------------------------------ commands

    async def _replayed(self, what: Round) -> float:
        """Pipelines go through part of the log once more, which may change nothing."""
        world = self._world
        await self._stop_all()
        async with await connect(world.database_dsn) as connection:
            await connection.execute("ALTER TABLE penstock.consumers DISABLE TRIGGER USER")
            ask = (
                b"SELECT consumer, min(position) FROM penstock.consumers WHERE topic = 'shop'"
                b" GROUP BY consumer"
            )
            for pipeline, stands in await (await connection.execute(ask)).fetchall():
                done = await asyncio.to_thread(
                    self._command,
                    *("replay", pipeline, "--topic", "shop"),
                    *self._from_where(stands, what.times),
                )
                if done.returncode != 0:
                    self._report.exits.append(f"replay failed: {done.stderr.strip()[-300:]}")
            await connection.execute("ALTER TABLE penstock.consumers ENABLE TRIGGER USER")
        await self._changed()
        return time.monotonic()

    def _from_where(self, stands: int, times: int) -> tuple[str, str]:
        """Never ahead of where a pipeline stands: that would skip. Positions on Kafka must not
        point into an append, so there it is a time."""
        if not self._world.setting.kafka:
            return "--position", str(max(0, stands - 300 * times))
        since = datetime.now(UTC) - timedelta(seconds=10 * times)
        return "--since", since.strftime("%Y-%m-%dT%H:%M:%S")

    async def _stream_lost(self, what: Round) -> float:
        """What the stream needs is gone: it is named, and a person mends it."""
        world = self._world
        since = world.crew.length()
        if what.fault is Fault.BINLOG_PURGED:
            await self._stop_all()
            await self._changed()
        word = await world.shop.lose()
        moment = time.monotonic()
        world.start(proxied=False)
        while word not in world.crew.said(since) and time.monotonic() < moment + _NAMED_S:
            await asyncio.sleep(0.05)
        if word in world.crew.said(since):
            self._report.named_within_s.append(time.monotonic() - moment)
        else:
            self._report.exits.append(f"that the {word} is lost was not named within 30 s")
        await self._stop_all()
        await asyncio.to_thread(self._mend)
        return time.monotonic()

    def _mend(self) -> None:
        """As a person would: repair by comparison, or take all away and begin again."""
        if self._world.setting.source == "postgres":
            done = self._command("resync", "shop")
        else:
            done = self._command("drop", "--yes")
            self.begun_anew = True
        if done.returncode != 0:
            self._report.exits.append(f"mending failed: {done.stderr.strip()[-300:]}")

    def _command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "penstock", *arguments, "-f", str(self._world.file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
