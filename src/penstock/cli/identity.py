"""``penstock eval identity``: who is taken for whom, measured on records whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.cli.app import JsonOption, run_async
from penstock.cli.evaluating import evaluate
from penstock.cli.output import console, print_json, table
from penstock.errors import ConfigError


@evaluate.command("identity")
def identity(
    records: Annotated[
        list[Path],
        typer.Option(
            help="A CSV file with a header. Give it again for each system that has records.",
            exists=True,
            dir_okay=False,
        ),
    ],
    truth: Annotated[
        str, typer.Option(help="The column that says who is who. Matching does not see it.")
    ],
    ignore: Annotated[
        list[str] | None, typer.Option(help="A column that matching does not see. Repeatable.")
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(help="OLD=NEW: files name a column differently. Repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random order.")] = 1,
    json: JsonOption = False,
) -> None:
    """Learn who is who without being told, stream the records in random order, and compare.

    Example: penstock eval identity --records customers.csv --truth person_id --json
    """

    async def work() -> dict[str, Any]:
        from penstock.evaluate.identity import evaluate_identity

        def tell(text: str) -> None:
            if not json:
                console.print(text, style="dim", markup=False)

        return await evaluate_identity(
            records,
            truth,
            ignore=ignore or (),
            rename=dict(map(_renamed, rename or ())),
            seed=seed,
            tell=tell,
        )

    report = run_async(work())
    if json:
        print_json(report)
        return
    names = ["records", "clusters", "precision", "recall", "f1", "seconds"]
    console.print(table(names, [[report[name] for name in names]]))
    rules = report["rules"]
    rows = [
        [name, what["kind"] or "not used", what["why"]] for name, what in rules["columns"].items()
    ]
    console.print(table(["column", "read as", "because"], rows))
    if rules["one_record_per_source"]:
        console.print("each file has everybody once: its records are never linked with each other")
    expected = report["expected"]
    console.print(
        f"expected before looking at the truth: precision {expected['precision']:.3f}, "
        f"recall {expected['recall']:.3f}"
    )


def _renamed(said: str) -> tuple[str, str]:
    old, sign, new = said.partition("=")
    if not sign or not old.strip() or not new.strip():
        raise ConfigError(f"expected `--rename OLD=NEW`, got {said!r}")
    return old.strip(), new.strip()
