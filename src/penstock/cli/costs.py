"""``penstock costs`` and ``penstock models canary``: what language models take, and how they do."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, app, run_async
from penstock.cli.models import models
from penstock.cli.output import console, print_json, table

canary = typer.Typer(
    help="A new language model for a share of those who ask: how it does, and what becomes of it.",
    no_args_is_help=True,
)
models.add_typer(canary, name="canary")


class By(StrEnum):
    """What the lines are about."""

    MODEL = "model"
    KEY = "key"
    DAY = "day"


@app.command()
def costs(
    by: Annotated[By, typer.Option(help="What each line is about.")] = By.MODEL,
    days: Annotated[int, typer.Option(min=1, max=3660, help="So many days, with today.")] = 30,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Show what language models were asked and what that cost, by model, API key or day (UTC).

    `unknown` counts requests of which nobody knows what they cost: the model has no price, or the
    endpoint broke off.

    Example: penstock costs --by key --days 7
    """

    async def work() -> None:
        from penstock.operate.costs import costs as found_costs
        from penstock.operate.costs import total
        from penstock.project import open_project

        async with open_project(file) as project:
            found = await found_costs(project, by.value, days)
        whole = total(found)
        if json:
            print_json({"by": by.value, "days": days, "lines": found, "total": whole})
            return
        names = [by.value, *whole]
        lines = [[_shown(line[name]) for name in names] for line in found]
        heads = [name.removesuffix("_tokens") for name in names]
        console.print(table(heads, [*lines, ["total", *map(_shown, whole.values())]]))

    run_async(work())


@canary.command()
def status(file: FileOption = DEFAULT_PATH, json: JsonOption = False) -> None:
    """Show how the canary does beside the other models.

    Example: penstock models canary status
    """

    async def work() -> None:
        from penstock.operate.costs import canary_standing
        from penstock.project import open_project

        async with open_project(file) as project:
            _say(await canary_standing(project), json=json)

    run_async(work())


@canary.command()
def promote(
    force: Annotated[
        bool, typer.Option("--force", help="Also where too little is known, or too much failed.")
    ] = False,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Ask the new model for everybody; the others step in where it fails. Running processes follow
    within seconds. Then put it first into the chain, and take the canary out of the project file.

    Example: penstock models canary promote
    """
    _decide("promoted", file, json=json, force=force)


@canary.command()
def rollback(file: FileOption = DEFAULT_PATH, json: JsonOption = False) -> None:
    """Ask the new model no more. Running processes follow within seconds.

    Example: penstock models canary rollback
    """
    _decide("rolled back", file, json=json)


@canary.command()
def restart(file: FileOption = DEFAULT_PATH, json: JsonOption = False) -> None:
    """Ask the new model for its share again, and count anew.

    Example: penstock models canary restart
    """
    _decide("running", file, json=json)


def _decide(
    state: Literal["promoted", "rolled back", "running"],
    file: Any,
    *,
    json: bool,
    force: bool = False,
) -> None:
    async def work() -> None:
        from penstock.operate.costs import decide_canary
        from penstock.project import open_project

        async with open_project(file) as project:
            _say(await decide_canary(project, state, force=force), json=json)

    run_async(work())


def _say(found: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(found)
        return
    console.print(
        f"{found['model']}: [bold]{found['state']}[/], asked for {found['share']:.0%}; "
        f"{found['errors']} of {found['requests']} requests failed, of the others "
        f"{found['other_errors']} of {found['other_requests']}"
    )
    console.print(
        f"{found['good']} of {found['judged']} answers and ratings were good, of the others "
        f"{found['other_good']} of {found['other_judged']}"
    )
    if found["reason"]:
        console.print(found["reason"], markup=False)
    for event in found.get("events", ()):
        console.print(f"{event['at']}  {event['state']}  {event['reason']}", markup=False)


def _shown(value: Any) -> Any:
    return f"{value:.6f}" if isinstance(value, float) else value
