"""``penstock run``: keep the stores in step until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, app, configure_events, run_async
from penstock.cli.output import console, print_json

if TYPE_CHECKING:
    from penstock.project import Project


@app.command()
def run(
    once: Annotated[
        bool, typer.Option("--once", help="Stop when everything there is now is in the stores.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print problems only.")] = False,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Capture all sources and keep live tables and knowledge base in step.

    Ctrl-C stops in order; whatever ends it, the next run goes on where this one stopped.

    Examples:
      penstock run

      penstock run --once --json      # a first load in a script
    """
    configure_events(verbose=not quiet and not json)
    run_async(_run(file, once=once, quiet=quiet, json=json))


async def _run(file: Any, *, once: bool, quiet: bool, json: bool) -> None:
    from penstock.operate.status import status
    from penstock.project import open_project
    from penstock.serving.api.server import serve

    async with (
        open_project(file) as project,
        project.running(),
        contextlib.AsyncExitStack() as stack,
    ):
        address = ""
        if not once:
            address = await stack.enter_async_context(
                serve(
                    project.meters,
                    host=project.settings.server.host,
                    port=project.settings.server.port,
                    problems=project.problems,
                )
            )
        if not quiet and not json:
            console.print(
                f"[bold]{project.settings.project}[/] is running"
                + (f", metrics and health at {address}" if address else "")
                + "; Ctrl-C stops it"
            )
        show = not quiet and not json
        if once:
            await _load(project, show=show)
            if json:
                print_json(await status(project))
            return
        if show and sys.stdout.isatty():
            await _load(project, show=True)
            console.print("everything is in step; [bold]penstock status --watch[/] shows how")
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
