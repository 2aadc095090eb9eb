"""``penstock run``: keep the stores in step until told to stop."""

from __future__ import annotations

import asyncio
import math
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.app import (
    DEFAULT_PATH,
    FileOption,
    JsonOption,
    app,
    configure_events,
    run_async,
    say_error,
)
from penstock.cli.output import console, print_json
from penstock.errors import FatalError, UnavailableError

if TYPE_CHECKING:
    from penstock.project import Project
    from penstock.runtimes.embedded import EmbeddedRuntime

TRIES = 7
"""How often `run --once` tries a source that cannot be reached."""


@app.command()
def run(
    once: Annotated[
        bool, typer.Option("--once", help="Stop when everything there is now is in the stores.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, max=64, help="Share the work among so many processes."),
    ] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print problems only.")] = False,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Capture all sources and keep live tables and knowledge base in step.

    Ctrl-C stops in order; whatever ends it, the next run goes on where this one stopped.

    Examples:
      penstock run

      penstock run --once --json      # a first load in a script

      penstock run --workers 4        # with log.partitions: 4 or more
    """
    configure_events(verbose=not quiet and not json)
    try:
        run_async(_run(file, once=once, workers=workers, quiet=quiet, json=json))
    except KeyboardInterrupt:
        print("stopped; the next run goes on from here", file=sys.stderr)  # noqa: T201
        raise


def set_trap() -> None:
    """Obey a campaign, if one has started us."""
    from penstock.config import boundary_file

    file = boundary_file()
    if file is not None:
        from penstock.torture import trap

        trap.set_trap(file)


@app.command()
def worker(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print problems only.")] = False,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", hidden=True, help="End when standard input ends.")
    ] = False,
    file: FileOption = DEFAULT_PATH,
) -> None:
    """Take a share of a project's work, beside `penstock run` and other workers.

    Sources and partitions of topics are shared equally; what a worker that dies had is taken over
    by the others within seconds. Have as many partitions (log.partitions) as workers, or more.

    Example: penstock worker
    """
    configure_events(verbose=not quiet)
    set_trap()
    run_async(_work(file, with_parent=with_parent))


async def _work(file: Any, *, with_parent: bool) -> None:
    from penstock.cli.children import parent_gone
    from penstock.project import open_project

    async with open_project(file, patient=True) as project, project.running(joining=True):
        print(f"worker {project.worker} of {project.settings.project}", flush=True)  # noqa: T201
        await (parent_gone() if with_parent else asyncio.Event().wait())


async def _run(file: Any, *, once: bool, workers: int, quiet: bool, json: bool) -> None:
    from penstock.cli.children import Children
    from penstock.project import open_project

    set_trap()
    show = not quiet and not json
    async with (
        open_project(file, patient=not once) as project,
        project.running() as runtime,
        Children(workers - 1, ["worker", "--quiet", "--with-parent", "--file", str(file)]),
    ):
        if once:
            await _once(project, show=show and console.is_terminal, json=json)
        else:
            await _for_ever(project, runtime, show=show)


async def _once(project: Project, *, show: bool, json: bool) -> None:
    """One load; what cannot be reached by now is an error instead of a reason to wait."""
    from penstock.operate.status import status, store_report

    loading = asyncio.ensure_future(_load(project, show=show))
    while not loading.done():
        await asyncio.wait([loading], timeout=0.5)
        for meter in project.meters.sources.values():
            if meter.state == "waiting" and meter.errors >= TRIES and not loading.done():
                loading.cancel()
                raise UnavailableError(f"gave up on source {meter.name}: {meter.last_error}")
    await loading
    if json:
        await store_report(project)
        print_json(await status(project))
    elif show:
        console.print(f"[bold]{project.settings.project}[/]: everything is in step")


async def _for_ever(project: Project, runtime: EmbeddedRuntime, *, show: bool) -> None:
    from penstock.runtimes.base import patiently

    async with project.serving(mounted=runtime.receivers()) as address:
        if show:
            console.print(
                f"[bold]{project.settings.project}[/] is running, API, metrics and health at "
                f"{address}; Ctrl-C stops it"
            )
        try:
            looked_at = show and sys.stdout.isatty()
            # A database that is restarted meanwhile is waited for here as everywhere else.
            await patiently(
                lambda: _load(project, show=looked_at),
                limit_s=math.inf,
                clock=project.clock,
                what="database",
            )
            if show:
                console.print("everything is in step; [bold]penstock status --watch[/] shows how")
        except FatalError as error:
            say_error(f"{error}\nthe rest goes on; mend it and start again")
        await asyncio.Event().wait()


async def _load(project: Project, *, show: bool) -> None:
    """Wait for the first load, with a bar when somebody looks."""
    if not show:
        await project.caught_up(limit_s=float("inf"))
        return
    from penstock.cli.progress import loading_bar

    waiting = asyncio.ensure_future(project.caught_up(limit_s=float("inf")))
    try:
        await loading_bar(project, waiting, console)
    finally:
        waiting.cancel()
