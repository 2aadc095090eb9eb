"""The bar of a first load: documents and rows, chunks, rate and what remains."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

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
