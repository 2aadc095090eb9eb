"""``penstock audit``: whether what is kept of answers is what was written."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, app, run_async
from penstock.cli.output import console, print_json

audit = typer.Typer(no_args_is_help=True, help="The ledger of answers: is it as it was written?")
app.add_typer(audit, name="audit")


@audit.command()
def verify(
    expect: Annotated[
        str | None,
        typer.Option(
            "--expect",
            metavar="NUMBER:HASH",
            help="A head that was printed before, kept elsewhere.",
        ),
    ] = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Work out the chain of all entries anew, with their contents. Ends with 1 when an entry does
    not fit, and says from which on.

    Example: penstock audit verify --json
    """

    async def work() -> bool:
        from penstock.operate.audit import Auditor, shown
        from penstock.project import open_project

        async with open_project(file) as project:
            found = await Auditor(project.pool, project.settings.tenant).verify(expect)
        if json:
            print_json(shown(found))
        elif found.sound:
            erased = f", content of {found.redacted} erased" if found.redacted else ""
            console.print(f"sound: {found.entries:,} entries{erased}")
            console.print(f"head: {found.head}", soft_wrap=True)
        else:
            console.print(f"broken from entry {found.broken} on: {found.why}", markup=False)
        return found.sound

    if not run_async(work()):
        raise typer.Exit(1)
