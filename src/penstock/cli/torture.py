"""``penstock torture``: a campaign against ourselves, that anybody can repeat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.app import JsonOption, app, run_async
from penstock.cli.output import console, print_json, table

if TYPE_CHECKING:
    from penstock.torture.report import Report


@app.command()
def torture(
    seed: Annotated[int, typer.Option(help="The plan and what is changed follow from it.")] = 1,
    kills: Annotated[int, typer.Option(min=0, help="How many times a process is killed.")] = 20,
    changes: Annotated[int, typer.Option(min=1, help="How many rows are changed.")] = 10_000,
    fault: Annotated[
        list[str] | None, typer.Option("--fault", help="Only this fault; again for more.")
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", help="Only this boundary, as append.before; again for more."),
    ] = None,
    repeat: Annotated[
        int, typer.Option(min=1, help="How often each fault that kills nobody comes at least.")
    ] = 1,
    source: Annotated[
        str, typer.Option(help="What is captured: postgres, or mariadb where its server is there.")
    ] = "postgres",
    log: Annotated[
        str,
        typer.Option(help="embedded, kafka (a broker of its own) or kafka://host:port."),
    ] = "embedded",
    partitions: Annotated[int, typer.Option(min=1, max=16, help="Partitions of each topic.")] = 1,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Processes that share the work.")] = 1,
    profiles: Annotated[
        bool, typer.Option("--profiles", help="Keep profiles of rows, too, and compare who is who.")
    ] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Every two faults close in time: half an hour or more.")
    ] = False,
    large: Annotated[
        int, typer.Option(min=0, help="Rows of the large transactions; 0 for none.")
    ] = 6000,
    patience: Annotated[
        float, typer.Option(min=1, help="Seconds after which what does not come back is stuck.")
    ] = 120,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first thing that is wrong.")
    ] = False,
    engine: Annotated[
        Path | None,
        typer.Option(help="A folder with another penstock.", exists=True),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Work in this folder and leave it, to look at it later.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Kill, cut, starve and freeze a project of its own while changes flow, then compare it all.

    Starts two databases and a project in a temporary folder; yours are not touched. Exits with 1
    when anything was lost, doubled or out of order.

    Example: penstock torture --seed 7 --kills 20 --changes 10000
    """

    async def work() -> Report:
        from penstock.torture.campaign import Wanted, run_campaign
        from penstock.torture.kinds import Setting, fault_named
        from penstock.torture.plan import point_named

        setting = Setting(source, log, partitions, workers, profiles)  # type: ignore[arg-type]
        setting.check()
        wanted = Wanted(
            seed=seed,
            kills=kills,
            changes=changes,
            faults=tuple(map(fault_named, fault or ())),
            points=tuple(map(point_named, at or ())),
            repeat=repeat,
            large=large,
            patience_s=patience,
            fail_fast=fail_fast,
            engine=engine,
            keep=keep,
            setting=setting,
            pairs=pairs,
        )
        if json:
            return await run_campaign(wanted, lambda _: None)
        with console.status("starting two databases") as status:

            def tell(sentence: str) -> None:
                status.update(sentence)
                if ": " in sentence:
                    console.print(sentence, markup=False)

            return await run_campaign(wanted, tell)

    report = run_async(work())
    from penstock.bench.report import machine

    found = {**report.to_dict(), "machine": machine()}
    if json:
        print_json(found)
    else:
        _show(found)
    if not report.clean:
        raise typer.Exit(1)


def _show(found: dict[str, Any]) -> None:
    console.print(table(["fault", "times"], sorted(found["faults"].items())))
    for what, why in found["skipped"].items():
        console.print(f"[yellow]skipped[/] {what}: {why}")
    recovery = found["recovery_s"] or {"p50": None, "max": None}
    console.print(
        f"{found['changes']:,} changes, {found['kills']:,} kills in {found['seconds']:,.0f} s; "
        f"first new change after p50 {recovery['p50']} s, at most {recovery['max']} s; "
        f"{found['peak_rss_mb']:,} MB at most"
    )
    colour = "green" if found["verdict"] == "clean" else "red"
    console.print(
        f"[{colour}]{found['lost']} lost, {found['duplicated']} duplicated, "
        f"{found['out_of_order']} out of order[/]"
    )
    for sentence in found["named"]:
        console.print(f"    {sentence}", markup=False)
    if found["stuck"]:
        console.print(f"stuck: {found['stuck']}", markup=False)
    if found["verdict"] != "clean":
        console.print(f"the same again: {found['replay']}", markup=False)
