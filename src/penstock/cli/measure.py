"""``penstock eval edits`` and ``penstock bench``: figures on your own machine and data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from penstock.cli.app import JsonOption, app, run_async
from penstock.cli.evaluating import evaluate
from penstock.cli.output import console, print_json, table


@evaluate.command("edits")
def edits(
    history: Annotated[
        Path,
        typer.Option(
            help="JSON lines (.jsonl or .jsonl.xz): op (create, update, delete), path, text.",
            exists=True,
            dir_okay=False,
        ),
    ],
    embedder: Annotated[
        Literal["minilm", "constant"],
        typer.Option(help="Which embedder; characters are counted with either."),
    ] = "constant",
    json: JsonOption = False,
) -> None:
    """Replay an edit history and count what is embedded again, beside what others would embed.

    Counted are the edits: the first version of a document costs the same whichever way.

    Example: penstock eval edits --history ./history.jsonl.xz --json
    """

    async def work() -> dict[str, Any]:
        from penstock.evaluate.edits import evaluate_edits

        def tell(text: str) -> None:
            if not json:
                console.print(text, style="dim", markup=False)

        return await evaluate_edits(history, embedder=embedder, tell=tell)

    report = run_async(work())
    if json:
        print_json(report)
        return
    whole = report["characters_whole_document"]
    names = {
        "edited chunks only": "characters_embedded",
        "1,000-character windows": "characters_fixed_size",
        "whole documents": "characters_whole_document",
    }
    rows = [
        [what, f"{report[name]:,}", f"{report[name] / max(1, whole):.3f}"]
        for what, name in names.items()
    ]
    console.print(table(["what is embedded again", "characters", "share"], rows))
    equal = "equal to" if report["equal_to_final_state"] else "DIFFERENT from"
    console.print(
        f"{report['events']:,} events, {report['edits']:,} of them edits, in "
        f"{report['seconds']:.1f} s; {report['documents']:,} documents in chunks of "
        f"{report['mean_chunk_characters']:.0f} characters on average; the result is "
        f"{equal} an index of the last state"
    )


@app.command()
def bench(
    name: Annotated[
        Literal["freshness", "load", "query", "change", "rows"],
        typer.Argument(help="What to measure."),
    ],
    size: Annotated[
        int | None, typer.Option("--size", min=1, help="How much work; the default takes a minute.")
    ] = None,
    embedder: Annotated[
        Literal["minilm", "constant"] | None, typer.Option(help="Which embedder.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure on this machine, beside what the machine itself can do.

    freshness: from commit to visible while 100 changes a second flow. load: documents to
    searchable. query: question to context. change: one sentence, one column, one delete.
    rows: source to live table.

    Example: penstock bench query --json
    """

    async def work() -> dict[str, Any]:
        from penstock.bench.run import run_bench

        return await run_bench(name, size=size, embedder=embedder)

    report = run_async(work())
    if json:
        print_json(report)
        return
    columns = ["measure", "value", "unit", "limit", "ratio"]
    console.print(table(columns, [[row.get(c) for c in columns] for row in report["results"]]))
    console.print(str(report["machine"]), style="dim", markup=False)
