"""``penstock answers``: why an answer was given, and what it would be now."""

from __future__ import annotations

from json import dumps
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, app, run_async
from penstock.cli.ask import AsOption
from penstock.cli.output import console, moment, print_json, table
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.project import Project
    from penstock.stores.ledger import Entry

answers = typer.Typer(
    no_args_is_help=True, help="Answers that were given: why, and whether they still hold."
)
app.add_typer(answers, name="answers")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The answer's id: ans_...")]
_LONGEST = 60


async def _entry(project: Project, name: str) -> Entry:
    found = await project.ledger().find(name)
    if found is None:
        raise ConfigError(
            f"expected the id of an answer that is kept, got {name!r}: `penstock answers list` "
            "shows the latest"
        )
    return found


@answers.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000)] = 20,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Show the latest answers, the newest first.

    Example: penstock answers list -n 5
    """

    async def work() -> None:
        from penstock.project import open_project
        from penstock.serving.ledger.replay import shown_entry

        async with open_project(file) as project:
            found = [entry async for entry in project.ledger().entries(limit=limit)]
        if json:
            print_json([shown_entry(entry) for entry in found])
            return
        console.print(table(["answer", "at", "question", "generator"], map(_row, found)))

    run_async(work())


def _row(entry: Entry) -> list[str]:
    said = entry.content
    question = f"({entry.state})" if said is None else str(said["question"])
    question = question if len(question) <= _LONGEST else f"{question[:_LONGEST]}..."
    return [entry.id, moment(entry.at), question, str(entry.facts.get("generator"))]


@answers.command()
def show(
    answer: IdArgument,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Show an answer with everything that it came from: question, who asked, passages and rows with
    their versions, positions and ages of the sources, prompt, model, what it wrote, what it cost.

    Example: penstock answers show ans_0123456789abcdef01234567
    """

    async def work() -> None:
        from penstock.project import open_project
        from penstock.serving.ledger.replay import shown_entry

        async with open_project(file) as project:
            entry = await _entry(project, answer)
            said = [one async for one in project.ledger().entries(
                kinds=["feedback"], about=entry.id)]  # fmt: skip
        shown = {**shown_entry(entry), "feedback": [shown_entry(one) for one in said]}
        if json:
            print_json(shown)
        else:
            _print(shown)

    run_async(work())


def _print(shown: dict[str, Any]) -> None:
    facts, content = shown["facts"], shown["content"] or {}
    said = {
        "answer": f"{shown['id']} (entry {shown['number']}, {shown['at']}, {shown['state']})",
        "question": content.get("question"),
        "asked by": content.get("principal"),
        "text": content.get("text"),
        "generator": facts.get("generator"),
        "author": facts.get("author"),
        "calls": content.get("calls"),
        "parameters": facts.get("parameters") or None,
        "usage": facts.get("usage"),
        "times (ms)": facts.get("timings_ms"),
        "abstained": facts.get("abstained"),
        "dropped": facts.get("dropped"),
        "raw": content.get("raw"),
    }
    for name, value in said.items():
        if value is not None:
            console.print(Text(f"{name:>10}  {value}"))
    for part in (content.get("context") or {}).get("sources", ()):
        console.print(
            Text(f"{'source':>10}  {part['source']} at {part['position']}, {part['age_ms']} ms old")
        )
    for number, item in enumerate(shown["items"], 1):
        if item is not None:
            console.print(Text(f"{number:>10}  {item['kind']} {item['source']} {item['key']}"))
    for one in shown["feedback"]:
        console.print(Text(f"{'feedback':>10}  {one['facts'].get('rating')} {one['content']}"))


@answers.command()
def replay(
    answer: IdArgument,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Ask the model again with the context and the prompt as they were, and say whether the same
    came out. Ends with 1 when it did not.

    Example: penstock answers replay ans_0123456789abcdef01234567
    """

    async def work() -> bool:
        from penstock.project import open_project
        from penstock.serving.ledger.replay import pinned, replayed

        async with open_project(file) as project:
            found = pinned(await _entry(project, answer))
            said = await replayed(project.answerer(), found, project.completions())
        if json:
            print_json(said)
        else:
            console.print("the same" if said["same"] else "another one:")
            _print_lines(said["difference"])
            if not said["generator"]["same"]:
                console.print(Text(f"generator: was {said['generator']['was']}, is "
                                   f"{said['generator']['is']}"))  # fmt: skip
        return bool(said["same"])

    if not run_async(work()):
        raise typer.Exit(1)


@answers.command()
def diff(
    answer: IdArgument,
    asking: AsOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Answer the question again as of now, for the same principal, and show what has changed:
    sources, passages and rows, the text.

    Example: penstock answers diff ans_0123456789abcdef01234567
    """

    async def work() -> None:
        from penstock.principals import principal
        from penstock.project import open_project
        from penstock.serving.ledger.replay import compared, pinned

        async with open_project(file) as project:
            other = principal(asking, project.settings.tenant) if asking else None
            found = pinned(await _entry(project, answer))
            said = await compared(project.answerer(), found, other, project.profile_wanted)
        if json:
            print_json(said)
            return
        console.print("the same text" if said["same"] else "another text:")
        _print_lines(said["difference"])
        for item in said["items"]:
            if item["change"] != "same":
                console.print(Text(f"{item['change']:>8}  {item['source']}: {item['key']}"))
                _print_lines(
                    [f"- {item['was']}"] * (item["was"] is not None)
                    + [f"+ {item['is']}"] * (item["is"] is not None)
                )
        for part in said["sources"]:
            was, now = part["position"]["was"], part["position"]["is"]
            if was != now:
                console.print(Text(f"  source  {part['source']}: was at {was}, is at {now}"))

    run_async(work())


@answers.command()
def feedback(
    answer: IdArgument,
    rating: Annotated[
        int | None, typer.Option("--rating", "-r", help="-1, 0 or 1; with --stars 1 to 5.")
    ] = None,
    stars: Annotated[bool, typer.Option("--stars", help="The rating is 1 to 5.")] = False,
    comment: Annotated[str | None, typer.Option("--comment", help="What is to be said.")] = None,
    correction: Annotated[
        str | None, typer.Option("--correction", help="What would have been right.")
    ] = None,
    asking: AsOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Say what an answer was worth.

    Example: penstock answers feedback ans_0123456789abcdef01234567 --rating -1 --comment "too old"
    """

    async def work() -> None:
        from penstock.principals import principal
        from penstock.project import open_project
        from penstock.serving.ledger.feedback import Feedback

        said = Feedback(answer, rating, "stars" if stars else "thumbs", comment, correction)
        async with open_project(file) as project:
            who = principal(asking or (), project.settings.tenant)
            name = await project.voices().rate(said, who, any_owner=True)
        if json:
            print_json({"id": name, "answer": answer})
        else:
            console.print(f"kept as {name}")

    run_async(work())


@answers.command()
def export(
    rated: Annotated[
        Literal["up", "neutral", "down"] | None,
        typer.Option("--rated", help="Only answers rated so. Default: with any feedback."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000_000)] = 10_000,
    file: FileOption = DEFAULT_PATH,
) -> None:
    """Print questions that were rated, one JSON a line, as `penstock eval answers --questions`
    reads them. A correction is the expected answer.

    Example: penstock answers export --rated down > questions.jsonl
    """

    async def work() -> None:
        from penstock.project import open_project
        from penstock.serving.ledger.feedback import question_of

        async with open_project(file) as project:
            ledger = project.ledger()
            asked: set[str] = set()
            async for said in ledger.entries(kinds=["feedback"], limit=limit):
                if said.about is None or (rated and said.facts.get("verdict") != rated):
                    continue
                entry = await ledger.find(said.about)
                question = None if entry is None else question_of(entry, said)
                if question is not None and said.about not in asked:
                    asked.add(said.about)  # the latest word counts
                    typer.echo(dumps(question, ensure_ascii=False))

    run_async(work())


def _print_lines(lines: list[str]) -> None:
    for line in lines:
        console.print(Text(f"          {line}"))
