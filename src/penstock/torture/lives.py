"""The processes under test: one `penstock run`, or one beside workers that share its work."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import psutil

LEASE_S: Final = 3.0
"""How long a worker may be silent before others take over what it has."""


class Place(NamedTuple):
    """Where processes of ours are started: the project, another engine, where orders are given."""

    file: Path
    orders: Path
    output: Path
    engine: Path | None


class Life:
    """One process of ours, from its start to its end. ``database`` replaces the project's."""

    def __init__(self, place: Place, role: str, database: str | None) -> None:
        environment = {**os.environ, "PENSTOCK_BOUNDARIES": str(place.orders)}
        if place.engine is not None:
            environment["PYTHONPATH"] = str(place.engine)
        if database is not None:
            environment["PENSTOCK_DATABASE"] = database
        self.role = role
        self.proxied = database is not None
        self.reported = False
        self.output = place.output
        with place.output.open("ab") as output:
            self.begun_at = output.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "penstock", role, "--quiet", "-f", str(place.file)],
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def stands_still(self) -> bool:
        """Whether it was stopped and not continued."""
        try:
            return psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            return False

    def signal(self, number: signal.Signals) -> None:
        """To the process and what it has started, as far as it is in the same group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    async def ended(self, limit_s: float) -> bool:
        """Wait for its end; False when it lives on."""
        until = time.monotonic() + limit_s
        while self.alive and time.monotonic() < until:
            await asyncio.sleep(0.01)
        return not self.alive

    async def kill(self) -> None:
        """SIGKILL, and the end of it."""
        self.signal(signal.SIGKILL)
        await self.ended(10)

    def why_ended(self) -> str | None:
        """What it said at last, when it ended by itself and nobody has asked yet."""
        code = self.process.returncode
        if self.reported or code in {None, -signal.SIGKILL, -signal.SIGTERM, 130}:
            return None
        self.reported = True
        with self.output.open("rb") as output:
            output.seek(self.begun_at)
            said = output.read().decode(errors="replace").strip().splitlines()
        errors = [line for line in said if "error:" in line] or said[-1:] or ["nothing"]
        return f"{code} {errors[-1][:300]}"

    def rss(self) -> int:
        """Bytes in memory now."""
        try:
            return int(psutil.Process(self.process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return 0


class Crew:
    """So many processes that share one project. The first is `penstock run`, the others workers."""

    def __init__(self, place: Place, size: int) -> None:
        self.size = size
        self._place = place
        self._lives: list[Life | None] = [None] * size

    @property
    def alive(self) -> Sequence[Life]:
        """Those that live."""
        return [life for life in self._lives if life is not None and life.alive]

    @property
    def complete(self) -> bool:
        """Whether all live."""
        return len(self.alive) == self.size

    def proxied(self) -> bool:
        """Whether all live, and reach the database through its proxy."""
        return self.complete and all(life.proxied for life in self.alive)

    def one(self, number: int) -> Life | None:
        """One of those that live, by any number."""
        alive = self.alive
        return alive[number % len(alive)] if alive else None

    def start(self, database: str | None) -> None:
        """Start those that do not live."""
        for number, life in enumerate(self._lives):
            if life is None or not life.alive:
                self._lives[number] = self._begin(number, database)

    def _begin(self, number: int, database: str | None) -> Life:
        place = self._place
        if number:
            place = place._replace(output=place.output.with_name(f"worker-{number}.log"))
        return Life(place, "worker" if number else "run", database)

    def rival(self, database: str) -> Life:
        """A second `penstock run` beside the first."""
        return self._begin(0, database)

    def replace(self, life: Life) -> None:
        """This is the first one from now on."""
        self._lives[0] = life

    def reasons(self) -> list[str]:
        """Why those ended that ended by themselves."""
        told = [life.why_ended() for life in self._lives if life is not None]
        return [why for why in told if why is not None]

    async def kill(self) -> None:
        """All at once."""
        alive = self.alive
        for life in alive:
            life.signal(signal.SIGKILL)
        for life in alive:
            await life.ended(10)

    async def any_ended(self, limit_s: float) -> bool:
        """Wait for the end of one of those that live now; False when all live on."""
        alive = self.alive
        until = time.monotonic() + limit_s
        while alive and all(life.alive for life in alive) and time.monotonic() < until:
            await asyncio.sleep(0.01)
        return not all(life.alive for life in alive)

    async def stop(self, limit_s: float = 30.0) -> list[Life]:
        """SIGTERM to all; those that did not end in time, which are killed then."""
        alive = self.alive
        for life in alive:
            life.signal(signal.SIGTERM)
        until = time.monotonic() + limit_s
        late = [life for life in alive if not await life.ended(until - time.monotonic())]
        for life in late:
            await life.kill()
        return late

    def said(self, since: int = 0) -> str:
        """What all processes have printed; of the first, from there on."""
        told = []
        for number in range(self.size):
            output = self._place.output
            file = output.with_name(f"worker-{number}.log") if number else output
            if file.exists():
                with file.open("rb") as opened:
                    opened.seek(0 if number else since)
                    told.append(opened.read().decode(errors="replace"))
        return "".join(told)

    def length(self) -> int:
        """How much the first has printed."""
        output = self._place.output
        return output.stat().st_size if output.exists() else 0
