"""``penstock demo``: the main job, told in the terminal."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.app import JsonOption, app, run_async
from penstock.cli.output import console, print_json


@app.command()
def demo(
    serve: Annotated[
        bool, typer.Option("--serve", help="Keep it running afterwards, to play with.")
    ] = False,
    changes: Annotated[
        int, typer.Option(min=0, max=100_000, help="How many changes to measure with.")
    ] = 300,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Where to put it; default: a folder that is removed."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Watch a database and a folder become live context, change, and be right again.

    Starts two small PostgreSQL servers in a temporary folder and leaves nothing behind.

    Examples:
      penstock demo

      penstock demo --serve --folder ./travel
    """
    from penstock.demo.narrator import Narrator
    from penstock.demo.story import tell

    # Not tempfile's own default place: a private one may be closed to the server's user.
    place = (folder or Path(tempfile.mkdtemp(prefix="penstock-demo-"))).resolve()
    if folder is None:
        place.chmod(0o755)
    try:
        result = run_async(
            tell(place, Narrator(console, silent=json), changes=changes, serve=serve)
        )
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)
    if json:
        print_json(result.to_dict())
