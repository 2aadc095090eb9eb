"""The bars of a first load and of a repair: how much, how fast, and what remains."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from penstock.operate.resync import Resynced
    from penstock.project import Project


async def loading_bar(project: Project, waiting: asyncio.Future[Any], console: Console) -> None:
    """One line per pipeline until ``waiting`` is done."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[tuple[str, str], Any] = {}
        while not waiting.done():
            ends = {info.topic: info.last for info in await project.log.describe()}
            for key, meter in project.meters.pipelines.items():
                total = ends.get(meter.topic, 0)
                if key not in tasks:
                    if meter.position >= total:
                        continue
                    name = meter.topic.removesuffix(".bulk")
                    tasks[key] = progress.add_task(f"{name}: {meter.name}", detail="")
                chunks = meter.embedded + meter.reused
                rate = chunks / max(time.monotonic() - began, 0.001)
                progress.update(
                    tasks[key],
                    total=total,
                    completed=min(meter.position, total),
                    detail=f"{chunks:,} chunks, {rate:,.0f}/s" if chunks else "",
                )
            await asyncio.wait([waiting], timeout=0.25)
    await waiting


class RepairBar:
    """One line per table while a repair compares it."""

    def __init__(self, console: Console, *, show: bool) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=not show,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, result: Resynced) -> None:
        """What was compared so far."""
        for table in result.tables:
            if table.stream not in self._tasks:
                self._tasks[table.stream] = self._progress.add_task(table.stream, detail="")
            task = self._tasks[table.stream]
            speed = next(t for t in self._progress.tasks if t.id == task).speed
            rate = f", {speed:,.0f} rows/s" if speed else ""
            self._progress.update(
                task,
                total=table.compared if table.done else max(table.expected, table.compared),
                completed=table.compared,
                detail=f"{table.upserts + table.deletes:,} differ{rate}",
            )
