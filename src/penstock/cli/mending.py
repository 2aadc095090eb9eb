"""``penstock verify``, ``resync``, ``replay`` and ``drop``: comparing, repairing, taking away."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, app, run_async
from penstock.cli.output import console, print_json
from penstock.errors import ConfigError


@app.command()
def verify(
    limit: Annotated[int, typer.Option(help="Name at most so many differences.")] = 100,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Compare sources with stores: rows by hash, documents by content and chunks.

    Works beside `penstock run`. Exits with 1 when there is a difference, and names each.

    Example: penstock verify --json
    """

    async def work() -> int:
        from penstock.operate.verify import verify as compare
        from penstock.project import open_project

        async with open_project(file) as project:
            report = await compare(project, limit=limit)
        if json:
            print_json(report.to_dict())
            return report.differences
        for part in report.sources:
            mark = (
                "[green]equal[/]" if not part.differences else f"[red]{part.differences} differ[/]"
            )
            where = part.source or "inside"
            console.print(f"[bold]{where}[/] {part.what}: {part.compared:,} compared, {mark}")
            for named in part.named:
                console.print(f"    {named}", markup=False)
        return report.differences

    if run_async(work()):
        raise typer.Exit(1)


@app.command()
def reconcile(
    repair: Annotated[bool, typer.Option("--repair", help="Put right what is wrong.")] = False,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Find, and repair, what was lost or added in the stores behind our back.

    Chunks without vectors, vectors and posting lists without chunks, documents whose chunks are
    missing, and rows of second stores that are missing, stale or too many. Exits with 1 when
    something is wrong and not repaired. Repairing needs `penstock run` to be stopped.

    Example: penstock reconcile --repair
    """

    async def work() -> int:
        from penstock.operate.reconcile import reconcile as look
        from penstock.project import open_project

        async with open_project(file) as project:
            with console.status("looking") as status:
                report = await look(project, repair=repair, progress=status.update)
        if json:
            print_json(report.to_dict())
            return report.wrong
        for what, count in report.found.items():
            left = "" if report.left is None else f", {report.left[what]:,} after the repair"
            if count:
                console.print(f"[red]{count:,}[/] {what.replace('_', ' ')}{left}")
        for part in report.stores:
            mark = "repaired" if part.repaired else "not repaired"
            note = f", {mark}" if part.differences else ""
            console.print(
                f"second store {part.store}: {part.chunks:,} chunks, {part.missing:,} missing, "
                f"{part.stale:,} stale, {part.superfluous:,} too many{note}"
            )
        for line in [*report.named, *(n for part in report.stores for n in part.named)]:
            console.print(f"    {line}", markup=False)
        if report.advice:
            console.print(report.advice, markup=False)
        verdict = "all of it fits together" if not report.wrong else f"{report.wrong:,} wrong"
        console.print(f"{report.chunks:,} chunks looked at in {report.seconds:.1f} s: {verdict}")
        return report.wrong

    if run_async(work()):
        raise typer.Exit(1)


@app.command()
def resync(
    source: Annotated[str, typer.Argument(help="The source, as the project file names it.")],
    table: Annotated[
        list[str] | None, typer.Option("--table", "-t", help="Only this table; may be repeated.")
    ] = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Repair live tables and knowledge base by comparing every row with the source.

    Only rows that differ are carried again. Mends what a lost slot, a lost server or a hand in the
    live tables has left behind, without loading anew. Needs `penstock run` to be stopped.

    Example: penstock resync shop --table orders
    """

    async def work() -> None:
        from penstock.cli.progress import RepairBar
        from penstock.operate.resync import resync as repair
        from penstock.project import open_project

        async with open_project(file) as project:
            with RepairBar(console, show=console.is_terminal and not json) as bar:
                result = await repair(project, source, tables=table or (), on_step=bar.show)
        if json:
            print_json(result.to_dict())
            return
        if result.slot:
            console.print(result.slot, markup=False, soft_wrap=True)
        for part in result.tables:
            note = f" ({part.note})" if part.note else ""
            console.print(
                f"{part.stream}: {part.compared:,} rows compared, {part.upserts:,} put right, "
                f"{part.deletes:,} taken away{note}",
                markup=False,
            )
        console.print(
            f"[bold]{source}[/] is as at its source: {result.differences:,} differences mended, "
            f"{result.embedded:,} texts embedded, in {result.seconds:.1f} s"
        )

    run_async(work())


@app.command()
def replay(
    pipeline: Annotated[str, typer.Argument(help="tables, knowledge or profiles.")],
    topic: Annotated[str | None, typer.Option(help="Only this topic.")] = None,
    position: Annotated[
        int | None, typer.Option(help="Go on after this log position; 0 is the beginning.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Go on from what was appended at this time (UTC).")
    ] = None,
    skip: Annotated[
        bool,
        typer.Option("--skip", help="Also go ahead: what lies between is never processed."),
    ] = False,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Have a pipeline process part of the log again at the next run.

    Repeating changes nothing that is right already; it mends what is missing. A position ahead of
    where the pipeline stands is refused, unless you say --skip.

    Example: penstock replay knowledge --position 0
    """
    if (position is None) == (since is None):
        raise ConfigError("expected either --position or --since, to say from where")

    async def work() -> None:
        from penstock.operate.replay import replay as again
        from penstock.project import open_project

        time = None if since is None else int(since.replace(tzinfo=UTC).timestamp() * 1e6)
        async with open_project(file) as project:
            moved = await again(
                project, pipeline, topic=topic, position=position, time=time, skip=skip
            )
        if json:
            print_json(moved)
            return
        for step in moved:
            console.print(
                f"{step['pipeline']} on {step['topic']}/{step['partition']}: "
                f"{step['from']:,} -> {step['to']:,} (the log ends at {step['end']:,})"
            )

    run_async(work())


@app.command()
def drop(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Take away what Penstock made: slots, publications, live tables, knowledge base, log.

    Sources and documents themselves are not touched.
    """
    if not yes:
        typer.confirm("Drop everything that Penstock made for this project?", abort=True)

    async def work() -> None:
        from penstock.operate.drop import drop as take_away
        from penstock.project import open_project

        async with open_project(file) as project:
            removed = await take_away(project)
        if json:
            print_json({"removed": removed})
        else:
            for line in removed:
                console.print(f"removed {line}", markup=False)

    run_async(work())
