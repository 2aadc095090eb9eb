"""``penstock eval``: how well questions find their documents, and how good the answers are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, app, run_async
from penstock.cli.ask import AsOption
from penstock.cli.output import console, print_json, table
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.evaluate.run import Asked

evaluate = typer.Typer(no_args_is_help=True, help="How well it finds: quality on your own data.")
app.add_typer(evaluate, name="eval")

_WORST = 5
"""Questions that are shown of a comparison."""

FolderArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[DATASET]",
        help="A folder with corpus.jsonl, queries.jsonl and qrels/*.tsv (the BEIR layout).",
        exists=True,
        file_okay=False,
        show_default=False,
    ),
]
DatasetOption = Annotated[
    Path | None,
    typer.Option(help="The same, as an option.", exists=True, file_okay=False),
]
QuestionsOption = Annotated[
    Path | None,
    typer.Option(
        help="Instead of a dataset: JSON lines with questions about the documents of the project "
        "in --file, and what they expect.",
        exists=True,
        dir_okay=False,
    ),
]
QueriesOption = Annotated[
    int | None, typer.Option("--queries", min=1, help="Only the first so many.")
]
SampleOption = Annotated[
    int | None, typer.Option("--sample", min=1, help="Only so many, chosen by chance.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="The same chance again.")]
EmbedderOption = Annotated[
    Literal["minilm", "constant"] | None,
    typer.Option(help="The model to measure a dataset with; default: minilm."),
]
LikeOption = Annotated[
    Path | None,
    typer.Option(
        help="Measure a dataset with the models, knowledge and answers of this project file.",
        exists=True,
        dir_okay=False,
    ),
]
FilterOption = Annotated[
    str | None,
    typer.Option(
        "--filter",
        help="A metadata field (or title): ask each question of the documents that share it.",
    ),
]
DetailsOption = Annotated[
    bool,
    typer.Option("--details", help="Keep each question in the JSON, for `penstock eval compare`."),
]


@evaluate.command("retrieval")
def retrieval(
    folder: FolderArgument = None,
    dataset: DatasetOption = None,
    questions: QuestionsOption = None,
    queries: QueriesOption = None,
    sample: SampleOption = None,
    seed: SeedOption = 1,
    embedder: EmbedderOption = None,
    like: LikeOption = None,
    filter_field: FilterOption = None,
    asking: AsOption = None,
    details: DetailsOption = False,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Measure how well questions find their documents: hit@1, recall@10, MRR@10, nDCG@10.

    A dataset is loaded into a database of its own; your own questions are asked of your project.

    Examples:
    penstock eval retrieval --dataset ./squad --json

    penstock eval retrieval --questions questions.jsonl -f penstock.yaml
    """
    _expect_json(details=details, json=json)
    wanted = _asked(folder or dataset, questions, file, asking, like, embedder, filter_field)

    async def work() -> dict[str, Any]:
        from dataclasses import replace

        from penstock.evaluate.run import evaluate_retrieval

        chosen = replace(
            wanted, queries=queries, sample=sample, seed=seed, details=details, quiet=json
        )
        return await evaluate_retrieval(chosen)

    report = run_async(work())
    if json:
        print_json(report)
        return
    _show_retrieval(report)


def _show_retrieval(report: dict[str, Any]) -> None:
    names = ["hit@1", "recall@10", "mrr@10", "ndcg@10"]
    rows = [
        [mode, *(f"{report[mode][n]:.3f}" for n in names)]
        for mode in ("vector", "text", "hybrid", "reranked")
        if mode in report
    ]
    console.print(table(["mode", *names], rows))
    latency = report["latency_ms"]
    console.print(
        f"{report['documents']:,} documents, {report['chunks']:,} chunks; a query takes "
        f"p50 {latency['p50']:.1f}, p95 {latency['p95']:.1f}, p99 {latency['p99']:.1f} ms"
    )
    if "filter" in report:
        console.print(f"hit@5 within {report['filter']['field']}: {report['filter']['hit@5']:.3f}")
    _show_abstention(report)
    for name, value in report.get("answers", {}).items():
        console.print(f"{name}: {value}")


def _show_abstention(report: dict[str, Any]) -> None:
    if "abstention" in report:
        told = report["abstention"]
        console.print(
            f"abstention: F1 {told['f1']:.3f}, {told['answerable_refused']:.1%} of the answerable "
            "questions refused"
        )


@evaluate.command("answers")
def answers(
    folder: FolderArgument = None,
    dataset: DatasetOption = None,
    questions: QuestionsOption = None,
    queries: QueriesOption = None,
    sample: SampleOption = None,
    seed: SeedOption = 1,
    embedder: EmbedderOption = None,
    like: LikeOption = None,
    filter_field: FilterOption = None,
    asking: AsOption = None,
    details: DetailsOption = False,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Measure answers: exact match and F1, citations, groundedness, abstention, latency and cost.

    Questions say what they expect: in a dataset by metadata.answers, metadata.answerable and
    qrels, in a file of your own by answers, answerable and relevant.

    Examples:
    penstock eval answers ./squad --sample 200

    penstock eval answers --questions questions.jsonl -f penstock.yaml --json --details
    """
    _expect_json(details=details, json=json)
    wanted = _asked(folder or dataset, questions, file, asking, like, embedder, filter_field)

    async def work() -> dict[str, Any]:
        from dataclasses import replace

        from penstock.evaluate.run import evaluate_answers

        chosen = replace(
            wanted, queries=queries, sample=sample, seed=seed, details=details, quiet=False
        )
        return await evaluate_answers(chosen)

    report = run_async(work())
    if json:
        print_json(report)
        return
    _show_answers(report)


def _show_answers(report: dict[str, Any]) -> None:
    rows = [
        [name.replace("_", " "), "-" if value is None else f"{value:.3f}"]
        for name, value in report["answers"].items()
    ]
    console.print(table(["measure", "mean"], rows))
    console.print(
        f"{report['questions']:,} questions, {report['unanswerable']:,} of them without an answer; "
        f"{report['abstained']:,} not answered"
    )
    if report["failed"]:
        console.print(f"{report['failed']:,} failed, and are in no figure")
    _show_abstention(report)
    latency, cost = report["latency_ms"], report["cost"]
    price = "not known" if cost["per_question"] is None else f"{cost['per_question']:.6g}"
    console.print(
        f"by {report['generator']}: an answer takes p50 {latency['p50']:.1f}, p95 "
        f"{latency['p95']:.1f} ms, and costs {price}",
        markup=False,
    )


def _expect_json(*, details: bool, json: bool) -> None:
    if details and not json:
        raise ConfigError("expected --json with --details, which are kept there: add --json")


def _asked(
    dataset: Path | None,
    questions: Path | None,
    file: Path,
    asking: list[str] | None,
    like: Path | None,
    embedder: str | None,
    filter_field: str | None,
) -> Asked:
    """What is measured; `ConfigError` for options that do not go together."""
    from penstock.evaluate.run import Asked
    from penstock.principals import principal

    if (dataset is None) == (questions is None):
        raise ConfigError(
            "expected a dataset or --questions FILE, got "
            + ("neither" if dataset is None else "both")
        )
    if like is not None and embedder is not None:
        raise ConfigError("expected --embedder or --like, got both: the file names an embedder")
    if questions is None:
        if asking:
            raise ConfigError("expected --as with --questions, got it with a dataset")
        return Asked(dataset, like=like, embedder=embedder or "minilm", filter_field=filter_field)
    for name, value in (("--embedder", embedder), ("--like", like), ("--filter", filter_field)):
        if value is not None:
            raise ConfigError(
                f"expected {name} with a dataset, got it with --questions: the project has its own "
                "models, and each question its own 'where'"
            )
    return Asked(questions=questions, project=file, principal=principal(asking or ()))


@evaluate.command("compare")
def compare_results(
    a: Annotated[Path, typer.Argument(help="A result, of --json --details.", dir_okay=False)],
    b: Annotated[Path, typer.Argument(help="Another one, of the same questions.", dir_okay=False)],
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with charts here.", dir_okay=False)
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="The measure by which questions are listed.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the intervals.")] = 1,
    json: JsonOption = False,
) -> None:
    """Lay two results side by side: by how much they differ, how sure that is, and on what.

    Both are of `penstock eval retrieval` or of `penstock eval answers`, with --json --details.

    Example: penstock eval compare before.json after.json --html report.html
    """
    from penstock.evaluate.compare import compare, read_result

    found = compare(read_result(a), read_result(b), seed=seed, by=by)
    if html is not None:
        from penstock.evaluate.report import page

        try:
            html.write_text(page(found), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"expected to write {str(html)!r}, got: {error}") from error
    if json:
        print_json(found.to_dict())
        return
    rows = [
        [
            one.measure.replace("_", " "),
            f"{one.a:.4g}",
            f"{one.b:.4g}",
            f"{one.difference:+.4g}",
            f"{one.low:+.4g} to {one.high:+.4g}",
            "" if one.verdict == "no difference shown" else one.verdict,
        ]
        for one in found.differences
    ]
    console.print(table(["measure", found.a, found.b, "difference", "95 % interval", ""], rows))
    console.print(
        f"{found.questions:,} questions; {len(found.changed):,} differ in {found.by}, "
        f"{found.lost:,} of them for the worse",
        markup=False,
    )
    for one in found.changed[:_WORST]:
        console.print(f"{one.difference:+.3f}  {one.id}: {one.question[:200]}", markup=False)
    if html is not None:
        console.print(f"the page is in {html}", markup=False)
