"""``penstock acl``: who may see what, and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, app, run_async
from penstock.cli.output import console, print_json, table

acl = typer.Typer(no_args_is_help=True, help="Permissions: who may see which document, and why.")
app.add_typer(acl, name="acl")


@acl.command()
def explain(
    user: Annotated[str, typer.Argument(help="The user who would ask.")],
    document: Annotated[str, typer.Argument(help="The document's path, or a row's TABLE/KEY.")],
    group: Annotated[
        list[str] | None,
        typer.Option("--group", "-g", help="A group that the application vouches for; repeat it."),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", "-s", help="Its source, where several have the path.")
    ] = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Say whether a user may see a document, and why: which entry, through which group, from which
    source and since when.

    Example: penstock acl explain ada hr/salaries.md --json
    """

    async def work() -> None:
        from penstock.operate.permissions import explain as explained
        from penstock.principals import Principal
        from penstock.project import open_project

        principal = Principal(user, tuple(group or ()))
        async with open_project(file) as project:
            found = await explained(project, principal, document, source=source)
        if json:
            print_json(found.to_dict())
            return
        console.print(found.reason, markup=False)
        for ground in (*found.denied_by, *found.allowed_by):
            console.print(f"  {ground.sentence()}", markup=False)
        for sentence in (*found.problems, *found.hints):
            console.print(f"  note: {sentence}", markup=False)

    run_async(work())


@acl.command("list")
def list_(file: FileOption = DEFAULT_PATH, json: JsonOption = False) -> None:
    """Show how the documents of each source are permitted, and what is wrong with lists.

    Example: penstock acl list
    """

    async def work() -> None:
        from penstock.operate.permissions import findings, overview
        from penstock.project import open_project

        async with open_project(file) as project:
            found = await overview(project)
        notes = [finding for finding in findings(found) if finding.level != "ok"]
        if json:
            print_json(
                {
                    "sources": [part._asdict() for part in found.sources],
                    "findings": [asdict(finding) for finding in notes],
                }
            )
            return
        rows = [
            (part.source, part.documents, part.everybody, part.nobody, part.lists)
            for part in found.sources
        ]
        console.print(table(("source", "documents", "everybody", "nobody", "lists"), rows))
        for note in notes:
            console.print(f"{note.level}: {note.message}: {note.mend}", markup=False)

    run_async(work())
