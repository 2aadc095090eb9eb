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
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from penstock.project import Project


async def loading_bar(project: Project, waiting: asyncio.Future[Any], console: Console) -> None:
    """One line per pipeline until ``waiting`` is done."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[tuple[str, str], Any] = {}
        while not waiting.done():
            ends = {info.topic: info.last for info in await project.log.describe()}
            for key, meter in project.meters.pipelines.items():
                total = ends.get(meter.topic, 0)
                if not total:
                    continue
                if key not in tasks:
                    tasks[key] = progress.add_task(f"{meter.name}: {meter.topic}", detail="")
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
