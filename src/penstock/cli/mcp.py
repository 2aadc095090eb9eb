"""``penstock mcp``: the tools of a project for an assistant on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, app, run_async


@app.command()
def mcp(
    asking: Annotated[
        list[str] | None,
        typer.Option(
            "--as", metavar="USER", help="Ask as this user; group:NAME adds a group; repeat it."
        ),
    ] = None,
    file: FileOption = DEFAULT_PATH,
) -> None:
    """Serve the Model Context Protocol on standard input and output (extra `mcp`).

    An assistant on this machine starts this command and gets the tools search, fetch, ask,
    get_profile and query_table. Over HTTP they are at /mcp of `penstock run` and `penstock serve`,
    with a key.

    Example: penstock mcp --as ada -f /srv/handbook/penstock.yaml
    """
    run_async(_mcp(file, asking or []))


async def _mcp(file: Any, asking: list[str]) -> None:
    from dataclasses import replace

    from penstock.principals import principal as named
    from penstock.project import open_project
    from penstock.serving.mcp import server

    async with open_project(file) as project:
        who = replace(named(asking), tenant=project.settings.tenant)
        made = server(project.services(), lambda _: who)
        await made.run_stdio_async()
