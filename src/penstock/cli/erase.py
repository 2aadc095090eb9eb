"""``penstock erase`` and ``export-subject``: taking somebody out; telling them what is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, app, run_async
from penstock.cli.output import console, counted, print_json, table
from penstock.cli.run import set_trap
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.operate.erasing import Outcome
    from penstock.project import Project

_SUBJECT = "A profile's id, an identifier (email:ada@example.org), a record, or a document."


@app.command()
def erase(
    subject: Annotated[list[str] | None, typer.Argument(help=_SUBJECT)] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", "-r", help="Why: kept, so name nobody in it.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", "-k", help="Which kind of profile is meant.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would go and where; erase nothing.")
    ] = False,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", help="Write the signed receipt to this file.")
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="Show erasures and what they suppress.")
    ] = False,
    lift: Annotated[
        int | None, typer.Option("--lift", help="Let new data of an erasure's subjects in again.")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option("--verify", help="Check a receipt: is it ours, and as signed?")
    ] = None,
    trim_log: Annotated[
        bool,
        typer.Option(
            "--trim-log",
            help="Remove all that was processed from a log in Kafka; replays begin behind it.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Erase somebody from everything that is kept, for good, and write a receipt.

    A person goes with all records of their profile; several may be named at once. Needs
    `penstock run` to be stopped. An erasure that was cut off is finished by the next `penstock run`
    or `penstock erase` (without a subject). What was erased cannot be restored.

    Examples:
      penstock erase email:ada@example.org --dry-run
      penstock erase email:ada@example.org --reason "request 4711" --receipt receipt.json
    """
    if sum((bool(subject), list_, lift is not None, verify is not None)) > 1:
        raise ConfigError("expected a subject, --list, --lift or --verify, got several of them")

    set_trap()

    async def work() -> None:
        from penstock.project import open_project

        async with open_project(file) as project:
            if list_:
                await _list(project, json=json)
            elif lift is not None:
                await _lift(project, lift, yes=yes)
            elif verify is not None:
                await _verify(project, verify, json=json)
            elif not subject:
                await _finish(project, json=json)
            elif dry_run:
                await _preview(project, subject, kind, json=json)
            else:
                asked = _Asked(subject, kind, reason, trim_log)
                await _erase(project, asked, receipt, yes=yes, json=json)

    run_async(work())


async def _preview(project: Project, subject: list[str], kind: str | None, *, json: bool) -> None:
    from penstock.operate.erasing import preview

    outcome = await preview(project, subject, kind)
    if json:
        print_json(outcome.to_dict())
    else:
        _show(outcome, "would be erased")


def _show(outcome: Outcome, title: str) -> None:
    rows = [(name, f"{count:,}") for name, count in outcome.holders.items()]
    console.print(table(("where", title), rows))
    for record in outcome.records:
        console.print(f"    {record}", markup=False)
    for mention in outcome.mentions:
        console.print(f"mentions them, and stays unless it is named: {mention}", markup=False)


class _Asked(NamedTuple):
    subject: list[str]
    kind: str | None
    reason: str | None
    trim_log: bool


async def _erase(
    project: Project, asked: _Asked, receipt: Path | None, *, yes: bool, json: bool
) -> None:
    from penstock.operate.erasing import erase as carry_out
    from penstock.operate.erasing import preview

    if asked.reason is None:
        raise ConfigError("expected --reason, which is kept with the erasure")
    if not yes:
        _show(await preview(project, asked.subject, asked.kind), "will be erased")
        typer.confirm("Erase this for good?", abort=True)
    with console.status("erasing") as status:
        outcome = await carry_out(
            project,
            asked.subject,
            reason=asked.reason,
            kind=asked.kind,
            trim_log=asked.trim_log,
            progress=status.update,
        )
    if receipt is not None:
        _write(receipt, outcome.receipt)
    if json:
        print_json(outcome.receipt)
        return
    _show(outcome, "erased")
    _tell(outcome.receipt)


def _tell(receipt: dict[str, Any]) -> None:
    search = receipt["search"]
    where = f"{search['tables']} tables"
    if search["files"]:
        where += f" and {search['files']:,} files ({search['bytes'] >> 20:,} MiB)"
    console.print(
        f"erasure {receipt['erasure']}: {counted(search['values'], 'value')} searched for in "
        f"{where}, {search['found']:,} found"
    )
    for place, count in {**search["left"], **search["bytes_left"]}.items():
        console.print(f"[red]still there[/]: {count:,} in {place}")
    for step in receipt["left_to_the_operator"]:
        console.print(f"left to you: {step}", markup=False)


def _write(path: Path, value: dict[str, Any]) -> None:
    import orjson

    path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")


async def _finish(project: Project, *, json: bool) -> None:
    from penstock.operate.erasing import finish_pending

    with console.status("erasing") as status:
        outcomes = await finish_pending(project, status.update)
    if json:
        print_json([outcome.receipt for outcome in outcomes])
        return
    for outcome in outcomes:
        _tell(outcome.receipt)
    if not outcomes:
        console.print("no erasure waits to be finished; name a subject to erase one")


async def _list(project: Project, *, json: bool) -> None:
    from penstock.operate.erasing import listed

    found = await listed(project)
    if json:
        print_json(found)
        return
    rows = [
        (
            one["number"],
            "lifted" if one["lifted_at"] else one["state"],
            one["reason"],
            one["requested_at"].isoformat(timespec="seconds"),
            sum(one["erased"].values()),
            one["suppressed"],
        )
        for one in found
    ]
    console.print(table(("number", "state", "reason", "requested", "erased", "suppressed"), rows))


async def _lift(project: Project, number: int, *, yes: bool) -> None:
    from penstock.operate.erasing import lift

    if not yes:
        typer.confirm(f"Let new data of the subjects of erasure {number} in again?", abort=True)
    lifted = await lift(project, number)
    console.print(f"erasure {number}: {counted(lifted, 'digest')} no longer suppressed")


async def _verify(project: Project, path: Path, *, json: bool) -> None:
    from penstock.operate.erasing.carrying import verify

    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"expected a receipt in {path}, got {error.strerror}") from error
    found = await verify(project, text)
    if json:
        print_json(found)
    else:
        console.print(
            f"as it was signed: erasure {found['erasure']} of {found['project']}, finished "
            f"{found['finished_at']}, {found['search']['found']} found afterwards"
        )


@app.command("export-subject")
def export_subject(
    subject: Annotated[str, typer.Argument(help=_SUBJECT)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file: JSON, or Markdown where it ends in .md."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", "-k", help="Which kind of profile is meant.")
    ] = None,
    file: FileOption = DEFAULT_PATH,
) -> None:
    """Give all that is known of somebody, with sources, positions and times.

    Works beside `penstock run`. Without --output the JSON is printed.

    Example: penstock export-subject email:ada@example.org --output ada.json
    """

    async def work() -> None:
        from penstock.operate.erasing.exporting import export, markdown
        from penstock.project import open_project

        async with open_project(file) as project:
            found = await export(project, subject, kind)
        if output is None:
            print_json(found)
            return
        if output.suffix == ".md":
            output.write_text(markdown(found), encoding="utf-8")
        else:
            _write(output, found)
        console.print(
            f"{counted(len(found['rows']), 'row')}, {counted(len(found['documents']), 'document')} "
            f"and {counted(len(found['history']), 'change')} in {output}",
            markup=False,
        )

    run_async(work())
