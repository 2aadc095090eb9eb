"""``penstock status``, ``check``, ``tail`` and ``dead-letters``: looking at a project."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, app, run_async
from penstock.cli.output import age, console, counted, moment, print_json, table
from penstock.errors import ConfigError

dead_letters = typer.Typer(
    no_args_is_help=True, help="Records that could not be processed: look, mend, try again."
)
app.add_typer(dead_letters, name="dead-letters")


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep showing it.")] = False,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Show positions, lag, freshness and dead letters of each source and pipeline.

    Example: penstock status --watch
    """

    async def work() -> None:
        from penstock.operate.status import status as look
        from penstock.project import open_project

        async with open_project(file) as project:
            report = await look(project)
            if json:
                print_json(report)
                return
            if not watch:
                console.print(_status(report))
                return
            with Live(_status(report), console=console, refresh_per_second=4) as live:
                while True:
                    await asyncio.sleep(1)
                    live.update(_status(await look(project)))

    run_async(work())


def _status(report: dict[str, Any]) -> Group:
    state = "[green]running[/]" if report["running"] else "[yellow]not running[/]"
    head = Text.from_markup(
        f"[bold]{report['project']}[/]  {state}   documents {report['documents']:,}   "
        f"chunks {report['chunks']:,}   dead letters {report['dead_letters']:,}   "
        f"database {report['database_bytes'] / 1e6:,.0f} MB"
    )
    sources = table(
        ["source", "state", "age", "changes", "position", "WAL held"],
        [
            [
                source["source"],
                "loading"
                if source["loading"] and source["state"] == "running"
                else source["state"],
                age(source["age_ms"]),
                source["changes"],
                source["position"],
                _bytes(source["retained_wal_bytes"]),
            ]
            for source in report["sources"]
        ],
    )
    pipelines = table(
        ["pipeline", "topic", "state", "position", "lag", "p50", "p95", "p99"],
        [
            [
                pipeline["pipeline"],
                f"{pipeline['topic']}/{pipeline['partition']}",
                pipeline["state"],
                pipeline["position"],
                pipeline["lag"],
                *_percentiles(pipeline["freshness_ms"]),
            ]
            for pipeline in report["pipelines"]
        ],
    )
    copies = [
        Text(f"{source['source']}: copying {_copy(copy)}", style="cyan")
        for source in report["sources"]
        for copy in source["copies"]
    ]
    errors = [
        Text(f"{part.get('pipeline') or part['source']}: {part['last_error']}", style="red")
        for part in (*report["sources"], *report["pipelines"])
        if part["last_error"]
    ]
    waiting = [
        Text(f"{part['pipeline']} {part['topic']}/{part['partition']}: {_waiting(part['waiting'])}")
        for part in report["pipelines"]
        if part["waiting"]
    ]
    below = (*waiting, *errors, *_worries(report))
    return Group(head, Text(), sources, *copies, Text(), pipelines, *below)


def _waiting(texts: dict[str, Any]) -> str:
    """The texts that wait for an endpoint, as a line; why is said by the error."""
    return (
        f"{counted(texts['texts'], 'text')} waiting for the endpoint since {texts['since'][:19]}Z, "
        f"tried {counted(texts['tries'], 'time')}, next at {texts['next_try'][:19]}Z"
    )


def _copy(copy: dict[str, Any]) -> str:
    """How far a table is that is being copied."""
    said = f"{copy['stream']}: {copy['rows']:,} rows"
    if copy["rows_per_s"] is None or copy["remaining_s"] is None:
        return f"{said}, about {copy['remaining_rows']:,} to go"
    return (
        f"{said} at {copy['rows_per_s']:,.0f} a second, about {copy['remaining_rows']:,} to go "
        f"({copy['remaining_s']:,.0f} s)"
    )


def _worries(report: dict[str, Any]) -> list[Text]:
    """What is not well with the way from the sources, and the tables that are left out."""
    found = []
    for source in report["sources"]:
        health = source["health"]
        if health is not None and health["level"] != "ok":
            mend = f"; {health['mend']}" if health["mend"] else ""
            style = "red" if health["level"] == "error" else "yellow"
            found.append(Text(f"{source['source']}: {health['message']}{mend}", style=style))
        found += [
            Text(f"{source['source']}: {stream} is left out: {reason}", style="red")
            for stream, reason in source["parked"].items()
        ]
    return found


def _percentiles(freshness: dict[str, Any] | None) -> list[str]:
    if not freshness or not freshness["samples"]:
        return ["-", "-", "-"]
    return [age(freshness[name]) for name in ("p50", "p95", "p99")]


def _bytes(number: int | None) -> str:
    return "-" if number is None else f"{number / 1e6:,.1f} MB"


@app.command()
def check(file: FileOption = DEFAULT_PATH, json: JsonOption = False) -> None:
    """Connect to everything and say what would go wrong, and how to mend it.

    Changes nothing. Exits with 1 when something must be mended before `penstock run`.

    Example: penstock check --json
    """

    async def work() -> bool:
        from penstock.operate.check import check as look

        findings = await look(file)
        if json:
            print_json({"findings": [vars_of(f) for f in findings], "guarantees": guarantees()})
        else:
            marks = {"ok": "[green]ok[/]", "warning": "[yellow]warn[/]", "error": "[red]error[/]"}
            for finding in findings:
                console.print(f"{marks[finding.level]:<20} [bold]{finding.subject}[/]: ", end="")
                console.print(finding.message, markup=False, soft_wrap=True)
                if finding.mend:
                    mend = f"           mend: {finding.mend}"
                    console.print(mend, markup=False, style="cyan", soft_wrap=True)
            console.print()
            for line in guarantees():
                console.print(f"  {line}", markup=False, style="dim", soft_wrap=True)
        return any(finding.level == "error" for finding in findings)

    if run_async(work()):
        raise typer.Exit(1)


def vars_of(finding: Any) -> dict[str, Any]:
    """A finding as JSON."""
    return {name: getattr(finding, name) for name in ("subject", "level", "message", "mend")}


def guarantees() -> list[str]:
    """What every project has, in a line each."""
    return [
        "G1 order per key, G2 nothing lost or twice, G3 whole versions, G4 deletes are changes,",
        "G5 least work, G6 one snapshot, G7 fail closed, G12 bounded, G13 bad records put aside:",
        "kept by every configuration; whole source transactions need log.partitions: 1.",
    ]


@app.command()
def tail(
    topic: Annotated[str, typer.Argument(help="A source's name, or NAME.bulk.")],
    beginning: Annotated[bool, typer.Option("--beginning", "-b", help="From the start.")] = False,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Stop after so many changes.")
    ] = None,
    stream: Annotated[str | None, typer.Option(help="Only this table, as public.flights.")] = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Follow the changes of a topic; with --json in Debezium's envelope, one a line.

    Example: penstock tail travel --stream public.flights
    """

    async def work() -> None:
        from penstock.debezium.envelope import to_debezium
        from penstock.log.tail import tail as follow
        from penstock.project import open_project
        from penstock.records import BEGINNING

        left = count
        async with open_project(file) as project:
            known = {info.topic for info in await project.log.describe()}
            if topic not in known:
                raise ConfigError(
                    f"expected one of the topics {', '.join(sorted(known)) or '(none yet)'}, "
                    f"got {topic!r}"
                )
            if count is None:
                print(f"following {topic}; Ctrl-C ends it", file=sys.stderr)  # noqa: T201
            async for batch in follow(project.log, topic, BEGINNING if beginning else None):
                for change in batch.changes:
                    if stream and change.schema.stream != stream:
                        continue
                    if json:
                        print_json(to_debezium(change), indent=False)
                    else:
                        console.print(_line(change), highlight=False)
                    if left is not None:
                        left -= 1
                        if left == 0:
                            return

    run_async(work())


def _line(change: Any) -> Text:
    names = {"c": "create", "u": "update", "d": "delete", "r": "read", "t": "truncate"}
    key = "/".join(str(part) for part in change.key)
    text = Text(f"{moment(change.committed_at)}  ")
    text.append(f"{names[change.op.value]:<9}", style="bold")
    text.append(f"{change.schema.stream} {key}  ", style="cyan")
    if change.after is not None:
        pairs = zip(change.schema.names, change.after, strict=True)
        text.append(", ".join(f"{name}={str(value)[:60]!r}" for name, value in pairs), style="dim")
    return text


@dead_letters.command("list")
def list_letters(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1)] = 50,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """List what was put aside, newest first, with the reason."""

    async def work() -> None:
        from penstock.operate import letters
        from penstock.project import open_project

        async with open_project(file) as project:
            found = await letters.listed(project, limit=limit)
            if json:
                print_json(found)
                return
            for row in found:
                tries = f", tried {row['attempts']} times" if row["attempts"] > 1 else ""
                where = f"{row['pipeline']} of {row['source']}, {row['buried_at']}{tries}"
                console.print(
                    Text(f"{row['id']:>5}  {row['key']}", style="bold"), Text(where, style="dim")
                )
                console.print(Text(f"       {row['reason']}"), soft_wrap=True)
            console.print(counted(len(found), "dead letter"), style="dim")

    run_async(work())


@dead_letters.command("show")
def show_letter(
    number: Annotated[int, typer.Argument(metavar="ID")],
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Show one in full, with the change that it holds."""

    async def work() -> None:
        from penstock.operate import letters
        from penstock.project import open_project

        async with open_project(file) as project:
            letter = await letters.shown(project, number)
            if json:
                print_json(letter)
            else:
                console.print(table(["what", "value"], list(letter.items())))

    run_async(work())


@dead_letters.command("retry")
def retry_letters(
    numbers: Annotated[list[int] | None, typer.Argument(metavar="[ID]...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Process again, after the cause was mended. A document is read again from its folder."""
    _mend(numbers, everything=everything, file=file, json=json, verb="retry")


@dead_letters.command("drop")
def drop_letters(
    numbers: Annotated[list[int] | None, typer.Argument(metavar="[ID]...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Throw away what is not wanted any more."""
    _mend(numbers, everything=everything, file=file, json=json, verb="drop")


def _mend(numbers: list[int] | None, *, everything: bool, file: Any, json: bool, verb: str) -> None:
    if bool(numbers) == everything:
        raise ConfigError("expected either the numbers of dead letters or --all")

    async def work() -> None:
        from penstock.operate import letters
        from penstock.project import open_project

        async with open_project(file) as project:
            act = letters.retry if verb == "retry" else letters.drop
            done = await act(project, None if everything else numbers)
            if json:
                print_json(done)
            else:
                console.print(", ".join(f"{count} {what}" for what, count in done.items()))

    run_async(work())
