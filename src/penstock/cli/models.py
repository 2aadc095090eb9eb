"""``penstock models``: which there are, and changing to another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, app, run_async
from penstock.cli.output import console, print_json, table
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.operate.models import Estimate, Filled, Target
    from penstock.project import Project

models = typer.Typer(
    help="The models behind the vectors: which there are, and changing to another one.",
    no_args_is_help=True,
)
app.add_typer(models, name="models")


@models.command("list")
def list_models(file: FileOption = DEFAULT_PATH, json: JsonOption = False) -> None:
    """Show which model is searched, which are being filled or kept, and how far they are.

    Example: penstock models list
    """

    async def work() -> None:
        from penstock.operate.models import listed
        from penstock.project import open_project

        async with open_project(file) as project:
            found = await listed(project)
        if json:
            print_json(found)
            return
        console.print(f"{found['chunks']:,} chunks; searched: [bold]{found['serving']}[/]")
        names = ["model", "role", "dimensions", "storage", "vectors", "lacking"]
        console.print(table(names, [[line[name] for name in names] for line in found["stored"]]))
        for line in found["declared"]:
            console.print(f"{line['name']}: {line.get('model', line.get('problem'))}", markup=False)

    run_async(work())


@models.command()
def migrate(
    to: Annotated[
        str | None,
        typer.Option(help="One of the project file's models; default: knowledge.embedder."),
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say what it takes: cost, time, space.")
    ] = False,
    fill: Annotated[
        bool, typer.Option("--fill", help="Fill and compare, but do not change over yet.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Go back to the model before.")
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Drop the vectors of models that are not searched.")
    ] = False,
    questions: Annotated[
        Path | None, typer.Option(help="Your questions: one a line, or JSON lines.")
    ] = None,
    without_refused: Annotated[
        bool, typer.Option("--without-refused", help="Go on without texts that it does not take.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Change to another model without an outage, beside `penstock run`.

    Its vectors are filled in while the present model is searched; then both are compared on your
    questions, and one transaction changes over. Killed, it goes on where it was. The former
    model's vectors are kept, for --rollback, until --finish.

    Example: penstock models migrate --to small --estimate
    """
    if rollback + finish + estimate + fill > 1:
        raise ConfigError("expected one of --estimate, --fill, --rollback and --finish, got more")

    async def work() -> None:
        from penstock.operate import models as operate
        from penstock.project import open_project

        async with open_project(file) as project:
            if finish:
                _say(await operate.finish(project), json=json)
                return
            chosen = await (operate.former(project) if rollback else operate.target(project, to))
            steps = _Steps(project, chosen, json=json, yes=yes)
            await steps.take(
                only_estimate=estimate,
                only_fill=fill,
                questions=questions,
                without=without_refused,
            )

    run_async(work())


def _say(result: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(result)
    else:
        for name, value in result.items():
            console.print(f"{name}: {value}", markup=False, soft_wrap=True)


class _Steps:
    """Estimate, fill, compare, cut over; one report of all that was done."""

    def __init__(self, project: Project, to: Target, *, json: bool, yes: bool) -> None:
        self._project = project
        self._to = to
        self._json = json
        self._yes = yes

    async def take(
        self, *, only_estimate: bool, only_fill: bool, questions: Path | None, without: bool
    ) -> None:
        from penstock.operate import models as operate

        estimated = await operate.estimate(self._project, self._to)
        report: dict[str, Any] = {"estimate": operate.as_dict(estimated)}
        self._tell(_sentence(estimated))
        if only_estimate:
            self._end(report)
            return
        if not self._yes and not self._json and estimated.texts:
            typer.confirm("Fill in its vectors now?", abort=True)
        filled = await operate.fill(self._project, self._to, on_step=self._on_step(estimated))
        report["filled"] = {
            "texts": filled.texts,
            "characters": filled.characters,
            "seconds": round(filled.seconds, 3),
            "refused": filled.refused,
        }
        report["compared"] = await self._compare(questions)
        self._tell("; ".join(f"{k} {v}" for k, v in report["compared"].items()))
        if not only_fill:
            if not self._yes and not self._json:
                typer.confirm(f"Search with {self._to.embedder.name} from now on?", abort=True)
            await operate.cut_over(self._project, self._to, filled, without=without)
            report["serving"] = await self._project.models().serving()
            self._tell(
                f"{report['serving']} is searched now; the model before is kept: --rollback goes "
                "back to it, --finish drops it"
            )
        self._end(report)

    async def _compare(self, path: Path | None) -> dict[str, Any]:
        from penstock.operate.comparing import before_and_after, read_questions, stand_ins

        found = read_questions(path) if path else await stand_ins(self._project)
        compared = await before_and_after(self._project, found, self._to.embedder)
        return {"of": "questions" if path else "headings", **compared}

    def _on_step(self, estimated: Estimate) -> Any:
        def tell(filled: Filled) -> None:
            waiting = ", waiting for the endpoint" if filled.seconds < 0 else ""
            self._tell(f"{filled.texts:,} of {estimated.texts:,} texts{waiting}")

        return tell

    def _tell(self, sentence: str) -> None:
        if not self._json:
            console.print(sentence, markup=False, soft_wrap=True)

    def _end(self, report: dict[str, Any]) -> None:
        if self._json:
            print_json(report)


def _sentence(found: Estimate) -> str:
    cost = "price unknown" if found.cost is None else f"cost {found.cost:g}"
    time = "" if found.seconds is None else f", about {found.seconds:,.0f} s at the rate of now"
    cut = f"; {found.too_long:.0%} of them are longer than it reads" if found.too_long else ""
    return (
        f"{found.before} -> {found.model}: {found.texts:,} texts of {found.chunks:,} chunks lack a "
        f"vector ({found.characters:,} characters, {found.tokens:,} tokens, {cost}{time}{cut}); "
        f"{found.bytes_per_chunk} bytes a vector"
    )
