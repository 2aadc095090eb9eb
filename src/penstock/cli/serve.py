"""``penstock serve``: the API alone."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, app, configure_events, run_async
from penstock.cli.output import console


@app.command()
def serve(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print problems only.")] = False,
    file: FileOption = DEFAULT_PATH,
) -> None:
    """Serve the API of a project that `penstock run` keeps in step elsewhere.

    `penstock run` serves it too. Applications need a key: `penstock keys create`.

    Example: penstock serve
    """
    configure_events(verbose=not quiet)
    run_async(_serve(file, quiet=quiet))


async def _serve(file: Any, *, quiet: bool) -> None:
    from penstock.operate.mail import mailing
    from penstock.project import open_project

    async with (
        open_project(file, patient=True) as project,
        mailing(project),
        project.serving() as address,
    ):
        if not quiet:
            console.print(f"[bold]{project.settings.project}[/]: the API is at {address}")
        await asyncio.Event().wait()
