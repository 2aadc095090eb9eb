"""``penstock ask``, ``search`` and ``sql``: what an application would do, by hand."""

from __future__ import annotations

from json import loads
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.panel import Panel
from rich.text import Text

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, app, run_async
from penstock.cli.output import age, console, counted, print_json, shown, table
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.models.base import Usage
    from penstock.stores.base import Filter

SourceOption = Annotated[
    list[str] | None, typer.Option("--source", "-s", help="Only this source; may be repeated.")
]
PathOption = Annotated[
    str | None, typer.Option("--path", help="Only documents whose path matches, as 'policies/*'.")
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Only what has this in its metadata: FIELD=TEXT, or FIELD:=JSON for numbers and the "
        "like; title=TEXT compares the title. May be repeated: all must hold.",
    ),
]
AsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--as", metavar="USER", help="Ask as this user; group:NAME adds a group. May be repeated."
    ),
]


ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="KIND:WHO",
        help="Whom it is about: a profile's id or an identifier, as customer:ada@example.org. What "
        "is known of them stands first in the context.",
    ),
]


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    source: SourceOption = None,
    path: PathOption = None,
    where: WhereOption = None,
    asking: AsOption = None,
    profile: ProfileOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Answer a question from what is true now, with citations and ages.

    Example: penstock ask "Until when can I cancel?" --source policies
    """

    async def work() -> None:
        from penstock.principals import principal as named
        from penstock.project import open_project

        chosen = _filter(source, path, where)
        async with open_project(file) as project:
            answer = await project.answer(
                question, where=chosen, principal=named(asking or ()), profile=profile
            )
            if json:
                print_json(answer.to_dict())
                return
            console.print(Panel(Text(answer.text), title=Text(question), title_align="left"))
            for citation in answer.citations:
                place = f", {citation.place}" if citation.place else ""
                console.print(
                    f"[{citation.number}] {citation.source}: {citation.key}{place}   "
                    f"as of {age(citation.age_ms)} ago",
                    markup=False,
                )
            if answer.usage is not None and answer.usage.requests:
                console.print(Text(_took(answer.usage), style="dim"))
            if answer.id is not None:
                console.print(Text(f"answer {answer.id}", style="dim"))
            if not answer.citations:
                _say_why_nothing(answer.to_dict())

    run_async(work())


def _took(usage: Usage) -> str:
    known = usage.input_tokens is not None and usage.output_tokens is not None
    tokens = (
        f"{usage.input_tokens:,} + {usage.output_tokens:,} tokens" if known else "tokens unknown"
    )
    cost = "cost unknown" if usage.cost is None else f"cost {usage.cost:.6f}"
    return f"{counted(usage.requests, 'request')} to the generator, {tokens}, {cost}"


def _filter(source: list[str] | None, path: str | None, where: list[str] | None) -> Filter:
    from penstock.stores.base import Filter

    found: dict[str, Any] = {}
    for condition in where or ():
        name, equals, value = condition.partition("=")
        name, as_json = (name[:-1], True) if name.endswith(":") else (name, False)
        try:
            found[name] = loads(value) if as_json else value
        except ValueError:
            equals = ""
        if not name or not equals:
            raise ConfigError(
                f"--where: expected FIELD=TEXT or FIELD:=JSON, got {condition!r}: "
                "as in --where language=de or --where year:=2026"
            )
    title = found.pop("title", None)
    return Filter(
        sources=source, path=path, title=None if title is None else str(title), metadata=found
    )


def _say_why_nothing(answer: dict[str, Any]) -> None:
    loading = [s["source"] for s in answer.get("sources", []) if s.get("loading")]
    if loading:
        console.print(f"note: {', '.join(loading)} is still loading: see `penstock status`")
    elif not answer.get("sources"):
        console.print("note: nothing is loaded yet: start `penstock run` in another terminal")


@app.command()
def search(
    question: Annotated[str, typer.Argument(help="What to look for.")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200)] = 8,
    mode: Annotated[
        Literal["hybrid", "vector", "text"], typer.Option(help="How passages are found.")
    ] = "hybrid",
    source: SourceOption = None,
    path: PathOption = None,
    where: WhereOption = None,
    asking: AsOption = None,
    profile: ProfileOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Show the context that a model would be given: passages, live rows, ages.

    Example: penstock search "cabin baggage" -n 3 --json
    """

    async def work() -> None:
        from penstock.principals import principal as named
        from penstock.project import open_project

        chosen = _filter(source, path, where)
        async with open_project(file) as project:
            context = await project.context(
                question,
                where=chosen,
                limit=limit,
                mode=mode,
                principal=named(asking or ()),
                profile=profile,
            )
            if json:
                print_json(context.to_dict())
                return
            for passage in context.passages:
                title = f"{passage.source}: {passage.key}  {passage.heading}".rstrip()
                console.print(Text(f"{passage.score:6.2f}  {title}", style="bold"))
                console.print(Text(f"        {passage.text.strip()}\n"))
            for row in context.rows:
                values = ", ".join(f"{name} {shown(value)}" for name, value in row.values.items())
                console.print(Text(f"{row.score:6.2f}  {row.source}: {row.table}", style="bold"))
                console.print(Text(f"        {values}\n"))
            for part in context.sources:
                console.print(f"{part.source}: as of {age(part.age_ms)} ago")

    run_async(work())


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SQL query; live tables are SOURCE.TABLE.")],
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Query live tables, read-only and at one snapshot.

    Example: penstock sql "SELECT number, price_eur FROM travel.flights ORDER BY 2 LIMIT 5"
    """

    async def work() -> None:
        from penstock.operate.query import run_query
        from penstock.project import open_project

        async with open_project(file) as project:
            columns, rows = await run_query(project, query)
            if json:
                print_json([dict(zip(columns, row, strict=True)) for row in rows])
            else:
                console.print(table(columns, rows))
                console.print(counted(len(rows), "row"), style="dim")

    run_async(work())
