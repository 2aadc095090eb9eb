"""Round after round: changes flow, something breaks, everything comes back, and is judged."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import psycopg

from penstock.boundaries import Point
from penstock.database.queries import load_queries
from penstock.torture import compare as stores
from penstock.torture.faults import Faults
from penstock.torture.kinds import DATABASE_WIRES, DEFAULT, KILLS, Fault, Setting, why_not
from penstock.torture.ledger import Judge, Place, partition_of
from penstock.torture.pairs import pairs_of
from penstock.torture.plan import Round, make_plan
from penstock.torture.report import Report
from penstock.torture.shop import KEYS, PULSES, connect
from penstock.torture.workload import Pace
from penstock.torture.world import World, open_world

Connection = psycopg.AsyncConnection[Any]
Tell = Callable[[str], None]

_WITNESS: Final = load_queries(Path(__file__).with_name("witness.sql"))
_SESSIONS: Final = 4
_LEAST_SHARE: Final = 100
"""So many changes at least flow in each round."""
_ROUND_S: Final = 4.0
"""How long a round waits for its changes before the fault comes anyway."""
_WATCH: Final = """
CREATE OR REPLACE TRIGGER torture BEFORE UPDATE ON shop.{} FOR EACH ROW
WHEN (NEW.version < OLD.version) EXECUTE FUNCTION torture.row_went_back()
"""
_EARLY: Final = ("migrate.before", "migrate.after", "chunk.before", "chunk.after")


class StuckError(Exception):
    """Something does not come back."""


class WrongError(Exception):
    """Something was lost, doubled or out of order, and that is enough."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What campaign is asked for."""

    seed: int
    kills: int
    changes: int
    faults: tuple[Fault, ...] = ()
    points: tuple[Point, ...] = ()
    repeat: int = 1
    large: int = 6000
    comparisons: int = 8
    patience_s: float = 120.0
    """A stream that has not gone on, or stores that do not agree, after this time are stuck."""
    fail_fast: bool = False
    engine: Path | None = None
    keep: Path | None = None
    setting: Setting = DEFAULT
    pairs: bool = False

    def command(self) -> str:
        """What to type to have the same again."""
        parts = [
            f"penstock torture --seed {self.seed} --kills {self.kills} --changes {self.changes}"
        ]
        parts += self.setting.words()
        parts += ["--pairs"] if self.pairs else []
        parts += [f"--fault {fault}" for fault in self.faults]
        parts += [f"--at {point}" for point in self.points]
        if self.repeat != 1:
            parts.append(f"--repeat {self.repeat}")
        if self.large != Wanted.__dataclass_fields__["large"].default:
            parts.append(f"--large {self.large}")
        return " ".join(parts)


class Campaign:
    """One campaign in one world."""

    def __init__(self, wanted: Wanted, world: World, tell: Tell) -> None:
        self._wanted = wanted
        self._world = world
        self._tell = tell
        self._report = Report(wanted.seed, wanted.command(), wanted.setting)
        self._pace = Pace()
        self._faults = Faults(
            world,
            self._report,
            self._pace,
            changed=self._check_acknowledged,
            goes_on=self._goes_on,
        )
        self._judges: list[list[Judge]] = []
        self._begin_anew()
        self._beat = 0

    async def run(self) -> Report:
        """All rounds, then the last comparison."""
        began = time.monotonic()
        wanted, pace = self._wanted, self._pace
        plan = self._plan()
        sessions = [
            self._world.shop.session(number, wanted.seed, pace, wanted.large)
            for number in range(_SESSIONS)
        ]
        running = [asyncio.create_task(session.run()) for session in sessions]
        self._memory = asyncio.create_task(self._world.watch_memory())
        try:
            await self._rounds(plan)
            pace.finish()
            await asyncio.wait_for(asyncio.gather(*running), 60)
            await self._final()
        except StuckError as error:
            self._report.stuck = str(error)
        except WrongError:
            pass  # it is in the report
        finally:
            pace.finish()
            for task in (*running, self._memory):
                task.cancel()
            await asyncio.gather(*running, self._memory, return_exceptions=True)
            self._conclude(time.monotonic() - began)
        return self._report

    def _plan(self) -> list[Round]:
        wanted = self._wanted
        for fault in wanted.faults:
            if (why := why_not(fault, wanted.setting)) is not None:
                self._report.skipped[fault] = why
        plan = make_plan(
            wanted.seed,
            wanted.kills,
            wanted.faults,
            wanted.points,
            wanted.repeat,
            setting=wanted.setting,
            pairs=wanted.pairs,
        )
        kinds = {what.fault for what in plan}
        self._report.possible_pairs = len(pairs_of(sorted(kinds)))
        return plan

    async def _rounds(self, plan: Sequence[Round]) -> None:
        large = self._wanted.large * sum(Fault.KILL_IN_LARGE in what.faults for what in plan)
        share = max(_LEAST_SHARE, (self._wanted.changes - large) // max(1, len(plan)))
        every = max(1, len(plan) // max(1, self._wanted.comparisons))
        documents = asyncio.create_task(self._world.documents.run())
        try:
            for number, what in enumerate(plan, start=1):
                await self._round(what, share, f"{number}/{len(plan)}")
                if number % every == 0 and number < len(plan):
                    documents.cancel()
                    await self._settle()
                    documents = asyncio.create_task(self._world.documents.run())
        finally:
            documents.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await documents

    # ------------------------------------------------------------------ one round

    async def _round(self, what: Round, share: int, place: str) -> None:
        early = what.fault is Fault.KILL_AT and str(what.point) in _EARLY
        if not early:
            await self._ready(what)
        self._pace.allow(share)
        if not early:
            await self._changed(share * what.share)
        self._tell(f"{place} {what}")
        since = await self._faults.inject(what)
        for one in (what, *what.also):
            self._report.count(str(replace(one, also=())), KILLS.get(one.fault, 0))
        self._report.together(what.faults)
        await self._faults.heal()
        if self._faults.begun_anew:
            self._begin_anew()
        if early:
            return
        await self._beats(since, what)
        self._world.shop.proxy.let_go()
        await self._look()
        self._tell(f"{place} {what}: {self._state()}")
        if self._wanted.fail_fast and self._wrongs():
            raise WrongError

    async def _ready(self, what: Round) -> None:
        """Our processes run, and by way of the proxy where the fault needs that."""
        crew = self._world.crew
        if DATABASE_WIRES & set(what.faults) and not crew.proxied():
            await crew.stop()
            self._world.start(proxied=True)
            await self._beats(time.monotonic(), None)
        elif not crew.complete:
            self._supervise(what)
            await self._beats(time.monotonic(), None)

    async def _changed(self, changes: float) -> None:
        """Wait until so many changes of this round were made."""
        wanted = self._pace.made + changes
        until = time.monotonic() + _ROUND_S
        while self._pace.made < min(wanted, self._pace.allowed) and time.monotonic() < until:
            await asyncio.sleep(0.01)

    def _supervise(self, what: Round | None) -> None:
        """Start those of our processes that do not run, as a supervisor would; why they ended is
        kept."""
        crew = self._world.crew
        if crew.complete:
            return
        self._report.exits += crew.reasons()
        self._world.start(proxied=what is None or what.times % 4 != 0)

    async def _beats(self, since: float, what: Round | None) -> None:
        """Wait until a change that is made now is in its live table."""
        self._beat += 1
        until = time.monotonic() + self._wanted.patience_s
        self._supervise(what)
        await self._write_beat(until)
        while not await self._is_beating():
            if time.monotonic() > until:
                said = " / ".join(self._world.crew.said().strip().splitlines()[-5:])[-600:]
                raise StuckError(
                    f"no new change came within {self._wanted.patience_s:.0f} s after {what}; "
                    f"our process says: {said}"
                )
            await asyncio.sleep(0.02)
            self._supervise(what)
        if what is not None:
            named = "together" if what.also else what.fault
            self._report.recovered(named, time.monotonic() - since)

    async def _goes_on(self) -> None:
        """As it is, with one of several that stands still."""
        await self._beats(time.monotonic(), None)

    async def _write_beat(self, until: float) -> None:
        while True:
            try:
                await self._world.shop.beat(self._beat)
                return
            except OSError:
                if time.monotonic() > until:
                    raise
                await self._world.shop.start()
                await asyncio.sleep(0.02)

    async def _is_beating(self) -> bool:
        try:
            async with await connect(self._world.database_dsn) as connection:
                for _ in range(25):
                    cursor = await connection.execute("SELECT count(*), min(beat) FROM shop.pulse")
                    row = await cursor.fetchone()
                    if row is not None and row[0] == PULSES and row[1] >= self._beat:
                        return True
                    await asyncio.sleep(0.02)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            pass
        except psycopg.OperationalError:
            await self._world.start_database()
        return False

    def _begin_anew(self) -> None:
        """All was taken away and loaded anew: a new log, new tables."""
        self._faults.begun_anew = False
        partitions = self._wanted.setting.partitions
        self._judges.append([Judge(number, partitions) for number in range(partitions)])
        self._world.eye.forget()
        self._versions: dict[Place, int] = {}
        self._witnessed = False

    # ------------------------------------------------------------------ looking

    async def _look(self) -> None:
        """What must hold at any time."""
        world = self._world
        await self._check_acknowledged()
        async with await connect(world.database_dsn) as target:
            await self._witness(target)
            await world.eye.follow(target, self._judges[-1])
            for sentence in await stores.torn(target):
                self._wrong("lost", f"values that do not belong together: {sentence}")
            now = await stores.versions(target, world.shop)
            for key, version in now.items():
                if version < self._versions.get(key, 0):
                    self._wrong(
                        "out_of_order",
                        f"live row {key} went from {self._versions[key]} to {version}",
                    )
            self._versions.update(now)

    async def _witness(self, target: Connection) -> None:
        if not self._witnessed:
            await target.execute(_WITNESS["ledger"].encode())
            for table in KEYS:
                await target.execute(_WATCH.format(table).encode())
            self._witnessed = True
        cursor = await target.execute("DELETE FROM torture.witnessed RETURNING *")
        for what, subject, was, became in await cursor.fetchall():
            self._wrong("out_of_order", f"{what}: {subject[:120]} from {was} to {became}")

    async def _check_acknowledged(self) -> None:
        """What the source was told to forget is in the log: asked in this order, the log can only
        be further than it was. Of a process that is dead, the last word is waited for."""
        world = self._world
        until = time.monotonic() + 2
        try:
            while True:
                confirmed = await world.shop.confirmed()
                over = confirmed is None or not confirmed.read or time.monotonic() > until
                if over or world.crew.complete:
                    break
                await asyncio.sleep(0.01)
            async with await connect(world.database_dsn) as target:
                held = await world.eye.held(target)
        except (psycopg.Error, OSError):
            return
        if confirmed is not None and held is not None and confirmed.place > held:
            self._report.acknowledged_too_early += 1
            missing = confirmed.place - held
            self._wrong("lost", f"{missing} bytes that the source may forget are not in the log")

    async def _settle(self) -> None:
        """Let everything come to rest and compare; what differs for long differs."""
        world = self._world
        self._tell("comparing")
        await self._beats(time.monotonic(), None)
        until = time.monotonic() + self._wanted.patience_s
        while True:
            async with await connect(world.database_dsn) as target:
                found = await stores.compare(
                    world.shop, target, world.documents, profiles=self._wanted.setting.profiles
                )
            self._supervise(None)
            if not found.named:
                break
            if time.monotonic() > until:
                self._report.lost += found.lost
                self._report.duplicated += found.duplicated
                self._report.named += found.named
                raise StuckError(f"sources and stores differ after {self._wanted.patience_s:.0f} s")
            await asyncio.sleep(0.3)
        self._report.comparisons += 1
        self._report.compared += found.compared

    async def _final(self) -> None:
        """Everything once more, and what the source's own ledger says."""
        await self._settle()
        await self._look()
        versions, self._report.changes = await self._world.shop.ledger()
        partitions = self._wanted.setting.partitions
        for judge in self._judges[-1]:
            judge.compare(
                {
                    place: version
                    for place, version in versions.items()
                    if judge.partition == partition_of(*place, partitions)
                }
            )

    def _wrong(self, what: str, sentence: str) -> None:
        setattr(self._report, what, getattr(self._report, what) + 1)
        self._report.named.append(f"{what}: {sentence}")

    def _wrongs(self) -> int:
        report = self._report
        judges = chain.from_iterable(self._judges)
        wrong = sum(j.lost + j.duplicated + j.out_of_order for j in judges)
        return wrong + report.lost + report.duplicated + report.out_of_order

    def _state(self) -> str:
        judged, wrong = sum(judge.changes for judge in self._judges[-1]), self._wrongs()
        last = self._report.last_recovery_s
        return f"{self._pace.made:,} changes made, {judged:,} judged, {wrong} wrong" + (
            f", back after {last:.1f} s" if last else ""
        )

    def _conclude(self, seconds: float) -> None:
        report = self._report
        report.seconds = seconds
        report.documents = self._world.documents.changes
        report.peak_rss_mb = self._world.peak_rss >> 20
        report.log["streams_begun_again"] = self._world.shop.proxy.resent
        report.tracebacks = self._world.crew.said().count("Traceback (most recent call last)")
        for judge in chain.from_iterable(self._judges):
            report.lost += judge.lost
            report.duplicated += judge.duplicated
            report.out_of_order += judge.out_of_order
            report.named += judge.named
            for name in ("changes", "copied", "truncates", "unchanged_values"):
                report.log[name] = report.log.get(name, 0) + getattr(judge, name)
            report.log["repeated"] = report.log.get("repeated", 0) + judge.duplicated


async def run_campaign(wanted: Wanted, tell: Tell) -> Report:
    """A campaign in a world of its own."""
    async with open_world(
        wanted.seed, wanted.setting, engine=wanted.engine, keep=wanted.keep
    ) as world:
        campaign = Campaign(wanted, world, tell)
        return await campaign.run()
