"""``penstock profiles graph``: who is who, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption
from penstock.cli.output import console, counted, print_json
from penstock.cli.profiles import KindOption, at_desk, profiles

if TYPE_CHECKING:
    from penstock.operate.profiles import ProfileDesk


@profiles.command()
def graph(
    one: Annotated[str, typer.Argument(help="A profile, an identifier or a record.")],
    other: Annotated[str | None, typer.Argument(help="Another, in the same picture.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="An .svg or .html file. Default: PROFILE.svg, here."),
    ] = None,
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Draw the identity graph around a profile: its records, what they bear, what ties them and
    what was refused. An .html file has the evidence as a table, too.

    Example: penstock profiles graph email:ada@example.org -o ada.html
    """

    async def work(desk: ProfileDesk) -> None:
        from penstock.operate.profile_picture import evidence, html

        drawn = await desk.picture(one, other)
        path = output or Path(f"{drawn.name}.svg")
        page = path.suffix.lower() in {".html", ".htm"}
        text = html(drawn.svg, drawn.title, evidence(drawn.whole)) if page else drawn.svg
        path.write_text(text, encoding="utf-8")
        records = sum(map(len, drawn.whole.partition.parts))
        if json:
            print_json({"file": str(path), "records": records, "title": drawn.title})
            return
        console.print(f"{counted(records, 'record')} drawn in {path}", markup=False)

    at_desk(file, kind, work)
