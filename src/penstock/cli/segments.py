"""``penstock profiles segment``: who fits a condition, and who came and left."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, run_async
from penstock.cli.output import console, counted, moment, print_json, table
from penstock.cli.profiles import KindOption, LimitOption, profiles


@profiles.command()
def segment(
    name: Annotated[str, typer.Argument(help="The segment's name, as the project file has it.")],
    events: Annotated[bool, typer.Option("--events", help="Who came and left, in order.")] = False,
    after: Annotated[
        str, typer.Option("--after", help="Only behind this id; of events, behind this number.")
    ] = "",
    limit: LimitOption = 100,
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Show who is in a segment, or with --events who entered and left it: whoever reads on from the
    last number misses nothing. Kept up to date by a running `penstock run`.

    Example: penstock profiles segment frequent --events --after 120 --json
    """

    async def opened() -> None:
        from penstock.operate.segments import segment_events, segment_members
        from penstock.project import open_project

        async with open_project(file) as project:
            rows: list[tuple[str, ...]]
            if events:
                happened = await segment_events(project, kind, name, after=after, limit=limit)
                shown = [one._asdict() for one in happened]
                rows = [(str(e.number), moment(e.at), e.profile, e.event) for e in happened]
            else:
                found = await segment_members(project, kind, name, after=after, limit=limit)
                shown = [one._asdict() for one in found]
                rows = [(one.profile, moment(one.since)) for one in found]
        if json:
            print_json(shown)
            return
        console.print(table(("number", "at", "id", "event") if events else ("id", "since"), rows))
        console.print(counted(len(rows), "event" if events else "profile"), style="dim")

    run_async(opened())
