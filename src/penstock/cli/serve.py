"""``penstock serve``: the API alone, in as many processes as are wanted."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, app, configure_events, run_async
from penstock.cli.output import console

if TYPE_CHECKING:
    from penstock.project import Project


@app.command()
def serve(
    workers: Annotated[
        int,
        typer.Option(
            "--workers", min=1, max=64, help="Share the questions among so many processes."
        ),
    ] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print problems only.")] = False,
    socket_number: Annotated[
        int | None, typer.Option("--socket", hidden=True, help="The parent's open socket.")
    ] = None,
    file: FileOption = DEFAULT_PATH,
) -> None:
    """Serve the API of a project that `penstock run` keeps in step elsewhere.

    `penstock run` serves it too. Applications need a key: `penstock keys create`.

    Limits of requests (server.limits) count in each of the processes.

    Examples:
      penstock serve

      penstock serve --workers 4      # as many as there are cores to spare
    """
    configure_events(verbose=not quiet)
    if socket_number is not None:
        run_async(_share(file, socket_number))
    else:
        run_async(_serve(file, workers=workers, quiet=quiet))


async def _serve(file: Any, *, workers: int, quiet: bool) -> None:
    from penstock.project import open_project

    async with contextlib.AsyncExitStack() as stack:
        project = await stack.enter_async_context(open_project(file, patient=True))
        address = await stack.enter_async_context(_shared(project, workers, file))
        if not quiet:
            console.print(f"[bold]{project.settings.project}[/]: the API is at {address}")
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def _shared(project: Project, workers: int, file: Any) -> AsyncIterator[str]:
    """The API in this process, and in ``workers`` - 1 others that take clients from its socket."""
    from penstock.cli.children import Children
    from penstock.serving.api.server import listening

    if workers == 1:
        async with project.serving() as address:
            yield address
        return
    server = project.settings.server
    listener = listening(server.host, server.port)
    number = listener.fileno()
    command = ["serve", "--quiet", "--socket", str(number), "--file", str(file)]
    async with (
        project.serving(listener=listener) as address,
        Children(workers - 1, command, shared=[number]),
    ):
        yield address


async def _share(file: Any, number: int) -> None:
    """As one of several; ends with the process that started it."""
    from penstock.cli.children import parent_gone
    from penstock.project import open_project

    listener = socket.socket(fileno=number)
    listener.setblocking(False)
    async with open_project(file, patient=True) as project, project.serving(listener=listener):
        await parent_gone()
