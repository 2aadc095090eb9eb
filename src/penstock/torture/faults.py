"""How each fault is done. Each returns when it is over and tells from when recovery counts."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import psycopg

from penstock.boundaries import Boundary, Point
from penstock.torture.plan import Fault, Round
from penstock.torture.report import Report
from penstock.torture.trap import Order
from penstock.torture.workload import Pace
from penstock.torture.world import Life, World, connect

_BOUNDARY_S: Final = 30.0
"""How long a boundary may take to be reached."""
_NAMED_S: Final = 30.0
_SLOT: Final = "penstock_torture_shop"
_TAKE_LOCK: Final = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted
"""
_TAKE_SENDERS: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND application_name LIKE 'penstock%'
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
    ) -> None:
        self.begun_anew = False
        self._world = world
        self._report = report
        self._pace = pace
        self._changed = changed
        self._ways: Mapping[Fault, Callable[[Round], Awaitable[float]]] = {
            Fault.KILL: self._kill,
            Fault.KILL_AT: self._kill_at,
            Fault.KILL_TWICE: self._kill_twice,
            Fault.KILL_IN_LARGE: self._kill_in_large,
            Fault.KILL_DATABASE: self._kill_database,
            Fault.KILL_SOURCE: self._kill_source,
            Fault.KILL_EVERYTHING_TWICE: self._kill_everything_twice,
            Fault.STOP: self._stop,
            Fault.FREEZE: self._freeze,
            Fault.FREEZE_DATABASE: self._freeze_database,
            Fault.OUTLIVE_LEASE: self._outlive_lease,
            Fault.HALF_OPEN_SOURCE: self._half_open_source,
            Fault.HALF_OPEN_DATABASE: self._half_open_database,
            Fault.RESENT: self._resent,
            Fault.REPLAYED: self._replayed,
            Fault.SLOT_DROPPED: self._slot_dropped,
            Fault.DISK_FULL: self._disk_full,
        }

    async def inject(self, what: Round) -> float:
        """Do it; returns the moment from which recovery is counted."""
        way = self._ways.get(what.fault)
        if way is not None:
            return await way(what)
        return await self._on_the_wire(what)

    async def heal(self) -> None:
        """Everything that is not ours runs again: servers, wires."""
        world = self._world
        world.orders.unlink(missing_ok=True)
        world.source_proxy.manner = world.database_proxy.manner = "through"
        await world.start_source()
        life = world.life
        if life is not None and life.alive and not life.proxied:
            # Its own supervisor starts the database again.
            until = time.monotonic() + 5
            while world.database.server_pid() is None and time.monotonic() < until:
                await asyncio.sleep(0.02)
        await world.start_database()

    # ------------------------------------------------------------------ our process

    async def _kill_life(self) -> float:
        life = self._world.life
        moment = time.monotonic()
        if life is not None:
            life.signal(signal.SIGKILL)
            await life.ended(10)
        return moment

    async def _kill(self, what: Round) -> float:  # noqa: ARG002 - all ways look alike
        moment = await self._kill_life()
        await self._changed()
        return moment

    async def _kill_at(self, what: Round) -> float:
        world = self._world
        assert what.point is not None
        Order(what.point, what.times, "kill").write(world.orders)
        life = world.start(proxied=bool(what.times % 2))
        if not await life.ended(_BOUNDARY_S):
            self._report.count(f"{what.point} was not reached", 0)
            world.orders.unlink(missing_ok=True)
            return await self._kill_life()
        moment = time.monotonic()
        if what.point.boundary is not Boundary.MIGRATE:
            await self._changed()
        return moment

    async def _kill_twice(self, what: Round) -> float:
        await self._kill_life()
        self._world.start(proxied=True)
        await asyncio.sleep(what.length_s)
        return await self._kill_life()

    async def _kill_in_large(self, what: Round) -> float:
        """Three large transactions come one after the other; between two appends all is over."""
        before = self._pace.large_made
        for _ in range(3):
            self._pace.allow_large()
        until = time.monotonic() + 60
        while self._pace.large_made == before and time.monotonic() < until:
            await asyncio.sleep(0.01)
        life = self._world.life
        assert life is not None
        Order(Point(Boundary.APPEND, "after"), what.times, "kill").write(self._world.orders)
        if not await life.ended(_BOUNDARY_S):
            return await self._kill_life()
        moment = time.monotonic()
        await self._changed()
        return moment

    async def _stop(self, what: Round) -> float:  # noqa: ARG002
        life = self._world.life
        moment = time.monotonic()
        if life is not None:
            life.signal(signal.SIGTERM)
            if not await life.ended(30):
                self._report.exits.append("did not end within 30 s after SIGTERM")
                await self._kill_life()
        await self._changed()
        return moment

    async def _freeze(self, what: Round) -> float:
        life = self._world.life
        assert life is not None
        life.signal(signal.SIGSTOP)
        await asyncio.sleep(what.length_s)
        life.signal(signal.SIGCONT)
        return time.monotonic()

    async def _outlive_lease(self, what: Round) -> float:
        """The process stands still in the middle of its work; its lock is lost and a second process
        takes over; then the first goes on with what it had in hand, and must be refused."""
        world = self._world
        assert what.point is not None
        first = world.life
        assert first is not None
        Order(what.point, what.times, "stop").write(world.orders)
        until = time.monotonic() + _BOUNDARY_S
        while not first.stands_still and first.alive and time.monotonic() < until:
            await asyncio.sleep(0.01)
        world.orders.unlink(missing_ok=True)
        if not first.stands_still:
            first.signal(signal.SIGSTOP)
        async with await connect(world.database_dsn) as connection:
            await connection.execute(_TAKE_LOCK.encode())
        async with await connect(world.source_dsn) as connection:
            await connection.execute(_TAKE_SENDERS.encode())
        second = world.life = Life(world, proxied=True)
        await self._takes_over(second)
        first.signal(signal.SIGCONT)
        moment = time.monotonic()
        until = moment + 15
        while first.alive and second.alive and time.monotonic() < until:
            await asyncio.sleep(0.02)
        if first.alive and second.alive:
            self._report.exits.append("two processes ran side by side for 15 s")
            first.signal(signal.SIGKILL)
            await first.ended(10)
        world.life = second if second.alive else first
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

    # ------------------------------------------------------------------ servers

    async def _kill_database(self, what: Round) -> float:  # noqa: ARG002
        self._world.kill_server(self._world.database)
        return time.monotonic()

    async def _kill_source(self, what: Round) -> float:  # noqa: ARG002
        self._world.kill_server(self._world.source)
        return time.monotonic()

    async def _kill_everything_twice(self, what: Round) -> float:
        world = self._world
        for _ in range(2):
            await self._kill_life()
            world.kill_server(world.database)
            world.kill_server(world.source)
            moment = time.monotonic()
            await world.start_source()
            await world.start_database()
            world.start(proxied=True)
            await asyncio.sleep(what.length_s / 2)
        return moment

    async def _freeze_database(self, what: Round) -> float:
        world = self._world
        world.signal_server(world.database, signal.SIGSTOP)
        await asyncio.sleep(what.length_s)
        world.signal_server(world.database, signal.SIGCONT)
        return time.monotonic()

    async def _disk_full(self, what: Round) -> float:
        world = self._world
        if not world.disk_bounded:
            self._report.skipped[what.fault] = "mounting a tmpfs needs root on Linux"
            return time.monotonic()
        with world.full_disk():
            await asyncio.sleep(what.length_s + 2)
        return time.monotonic()

    # ------------------------------------------------------------------ wires

    async def _on_the_wire(self, what: Round) -> float:
        world = self._world
        manner, _, side = what.fault.value.partition("_")
        proxy = world.source_proxy if side == "source" else world.database_proxy
        if manner in {"cut", "reset"}:
            proxy.cut(reset=manner == "reset")
        else:
            proxy.manner = "slow" if manner == "slow" else "bytewise"
            await asyncio.sleep(what.length_s + 0.5)
            proxy.manner = "through"
        return time.monotonic()

    async def _half_open_source(self, what: Round) -> float:  # noqa: ARG002
        self._world.source_proxy.forget()
        return time.monotonic()

    async def _half_open_database(self, what: Round) -> float:
        proxy = self._world.database_proxy
        proxy.manner = "silent"
        await asyncio.sleep(what.length_s * 2)
        moment = time.monotonic()
        if what.times % 2:  # what it has sent to the database in the meantime never arrives
            moment = await self._kill_life()
            self._report.kills += 1
        proxy.cut(reset=True)
        proxy.manner = "through"
        await self._changed()
        return moment

    async def _resent(self, what: Round) -> float:
        """Confirmations do not reach the source for a while; then it sends all of that again."""
        world = self._world
        world.source_proxy.hold_back()
        await asyncio.sleep(what.length_s)
        moment = time.monotonic()
        if what.times % 2:
            world.kill_server(world.source)
            await world.start_source()
        else:
            world.source_proxy.cut()
        return moment

    async def _replayed(self, what: Round) -> float:
        """Pipelines go through part of the log once more, which may change nothing."""
        world = self._world
        await self._stop(what)
        async with await connect(world.database_dsn) as connection:
            await connection.execute("ALTER TABLE penstock.consumers DISABLE TRIGGER USER")
            ask = b"SELECT consumer, position FROM penstock.consumers WHERE topic = 'shop'"
            for pipeline, stands in await (await connection.execute(ask)).fetchall():
                since = str(max(0, stands - 300 * what.times))  # never ahead: that would skip
                done = await asyncio.to_thread(
                    self._command, "replay", pipeline, "--topic", "shop", "--position", since
                )
                if done.returncode != 0:
                    self._report.exits.append(f"replay failed: {done.stderr.strip()[-300:]}")
            await connection.execute("ALTER TABLE penstock.consumers ENABLE TRIGGER USER")
        return time.monotonic()

    # ------------------------------------------------------------------ the slot

    async def _slot_dropped(self, what: Round) -> float:  # noqa: ARG002
        world = self._world
        since = world.log.tell()
        await self._drop_slot()
        moment = time.monotonic()
        while "slot" not in world.said(since) and time.monotonic() < moment + _NAMED_S:
            await asyncio.sleep(0.05)
        if "slot" in world.said(since):
            self._report.named_within_s.append(time.monotonic() - moment)
        else:
            self._report.exits.append("the loss of the slot was not named within 30 s")
        if world.life is not None:
            world.life.signal(signal.SIGTERM)
            if not await world.life.ended(30):
                await self._kill_life()
        await asyncio.to_thread(self._mend_slot)
        return time.monotonic()

    async def _drop_slot(self) -> None:
        async with await connect(self._world.source_dsn) as connection:
            until = time.monotonic() + 20
            while True:
                await connection.execute(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots "
                    "WHERE slot_name = %s AND active_pid IS NOT NULL",
                    [_SLOT],
                )
                try:
                    await connection.execute(
                        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
                        "WHERE slot_name = %s",
                        [_SLOT],
                    )
                except psycopg.errors.ObjectInUse:
                    if time.monotonic() > until:
                        raise
                    await asyncio.sleep(0.01)
                else:
                    return

    def _mend_slot(self) -> None:
        """As a person would: repair by comparison, or take all away and begin again."""
        if self._command("resync", "--help").returncode == 0:
            done = self._command("resync", "shop")
        else:
            done = self._command("drop", "--yes")
            self.begun_anew = True
        if done.returncode != 0:
            self._report.exits.append(f"mending failed: {done.stderr.strip()[-300:]}")

    def _command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        named = [] if "--help" in arguments else ["-f", str(self._world.file)]
        return subprocess.run(
            [sys.executable, "-m", "penstock", *arguments, *named],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
