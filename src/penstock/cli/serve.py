"""``penstock serve``: the API alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Annotated, Final

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, app, configure_events, run_async
from penstock.cli.output import console

_AFTER_DRAIN_S: Final = 10.0
"""Seconds that the end of a process may take beside waiting for its requests."""


@app.command()
def serve(
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, max=64, help="Serve one address by so many processes."),
    ] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print problems only.")] = False,
    listener: Annotated[
        int | None, typer.Option("--listener", hidden=True, help="A socket that is open already.")
    ] = None,
    file: FileOption = DEFAULT_PATH,
) -> None:
    """Serve the API of a project that `penstock run` keeps in step elsewhere.

    `penstock run` serves it too. Applications need a key: `penstock keys create`. Documents that
    are pushed here go to the process that runs, through the database.

    Examples:
      penstock serve

      penstock serve --workers 4      # one for each core
    """
    configure_events(verbose=not quiet)
    run_async(_serve(file, workers=workers, quiet=quiet, descriptor=listener))


async def _serve(file: Path, *, workers: int, quiet: bool, descriptor: int | None) -> None:
    from penstock.cli.children import Children, parent_gone
    from penstock.config import read_settings
    from penstock.operate.mail import mailing
    from penstock.project import open_project
    from penstock.serving.api.server import listening

    server = read_settings(file).server
    listener = (
        listening(server.host, server.port)
        if descriptor is None
        else socket.socket(fileno=descriptor)
    )
    arguments = ["serve", "--quiet", "--file", str(file), "--listener", str(listener.fileno())]
    children = Children(
        workers - 1,
        arguments,
        descriptors=[listener.fileno()],
        stop_s=server.limits.drain + _AFTER_DRAIN_S,
    )
    with contextlib.closing(listener):
        async with open_project(file, patient=True) as project, mailing(project), children:
            try:
                async with project.serving(listener=listener) as address:
                    if not quiet:
                        by = f", served by {workers} processes" if workers > 1 else ""
                        console.print(
                            f"[bold]{project.settings.project}[/]: the API is at {address}{by}"
                        )
                    try:
                        await (asyncio.Event().wait() if descriptor is None else parent_gone())
                    finally:
                        children.end()  # all wait for their requests at the same time
            finally:
                children.end()
