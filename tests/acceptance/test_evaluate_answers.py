"""`penstock eval answers`, `eval compare` and questions of one's own, from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.conftest import Home

from penstock.testing.fake_openai import Reply, Request, ThreadedEndpoint

SUBJECTS = ["river", "turbine", "valve", "bridge", "harbour", "garden"]


@pytest.fixture
def endpoint() -> Iterator[ThreadedEndpoint]:
    with ThreadedEndpoint() as server:
        yield server


def beavers(request: Request) -> Reply:
    """A language model that answers everything with what is not there."""
    written = {"statements": [{"text": "In 1999, by beavers.", "items": [1]}]}
    body = {
        "choices": [{"message": {"content": json.dumps(written)}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 20},
    }
    return Reply(pieces=[json.dumps(body).encode()])


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def dataset(folder: Path) -> Path:
    """Six documents, six questions with an answer and two without."""
    folder.mkdir()
    lines(
        folder / "corpus.jsonl",
        [
            {"_id": f"p{i}", "title": word.title(), "text": f"The {word} was built in 19{i}0."}
            for i, word in enumerate(SUBJECTS)
        ],
    )
    queries: list[dict[str, Any]] = [
        {
            "_id": f"q{i}", "text": f"When was the {word} built?",
            "metadata": {"answers": [f"19{i}0"], "answerable": True},
        }
        for i, word in enumerate(SUBJECTS)
    ]  # fmt: skip
    queries += [
        {"_id": f"n{i}", "text": text, "metadata": {"answerable": False, "answers": []}}
        for i, text in enumerate(("Who sings in Vienna?", "Why does cheese melt?"))
    ]
    lines(folder / "queries.jsonl", queries)
    (folder / "qrels").mkdir()
    judged = [f"q{i}\tp{i}\t1" for i in range(len(SUBJECTS))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query\tcorpus\tscore", *judged]))
    return folder


@pytest.mark.timeout(240)
def test_answers_of_two_configurations_are_measured_and_compared(
    home: Home, endpoint: ThreadedEndpoint
) -> None:
    """By extraction, and by a language model of which tokens and prices are known: it answers
    everything with what is not there, so it is worse, and the page says on which questions."""
    folder = dataset(home.folder / "set")
    ended = home.run("eval", "answers", str(folder), "--json", "--details")
    a = ended.json
    assert "answered 8 of 8 questions" in ended.errors
    assert (a["questions"], a["answerable"], a["unanswerable"]) == (8, 6, 2)
    assert a["abstention"]["recall"] == 1.0
    assert a["abstention"]["answerable_refused"] <= 0.5
    assert a["answers"]["citation_precision"] == a["answers"]["grounded"] == 1.0
    assert a["answers"]["exact"] == pytest.approx(2 / 8)  # silence, twice; sentences are no years
    assert a["cost"]["per_question"] == 0.0
    assert 0 < a["latency_ms"]["p50"] <= a["latency_ms"]["p95"]
    assert [row["id"] for row in a["details"]] == [*(f"q{i}" for i in range(6)), "n0", "n1"]
    (home.folder / "a.json").write_text(ended.output)

    endpoint.fake.reacts = beavers
    home.write(
        "project: other\nsources: {documents: {type: files, path: ./documents}}\n"
        "answers:\n  generator: {type: openai, model: m, api_key: sk-canary, "
        f"base_url: '{endpoint.base_url}', input_price: 2, output_price: 10}}\n"
    )
    ended = home.run("eval", "answers", str(folder), "--like", "penstock.yaml", "--json",
                     "--details")  # fmt: skip
    b = ended.json
    assert "sk-canary" not in ended.output
    assert b["generator"] == "openai/m"
    assert b["cost"]["per_question"] == pytest.approx((1000 * 2 + 20 * 10) / 1e6)
    assert b["cost"]["input_tokens"] == 8 * 1000
    assert (b["answers"]["f1"], b["answers"]["grounded"]) == (0.0, 0.0)
    assert b["abstention"]["answerable_refused"] == b["abstention"]["recall"] == 0.0
    (home.folder / "b.json").write_text(ended.output)

    ended = home.run("eval", "compare", "a.json", "b.json", "--html", "r.html", "--json")
    found = {row["measure"]: row for row in ended.json["measures"]}
    assert found["grounded"]["verdict"] == "worse"
    assert found["cost"]["verdict"] == "worse"
    assert found["f1"]["difference"] == pytest.approx(-a["answers"]["f1"], abs=1e-4)
    assert found["abstention_f1"]["a"] == pytest.approx(a["abstention"]["f1"], abs=1e-4)
    differences = [row["difference"] for row in ended.json["changed"]]
    assert differences == sorted(differences)
    assert {row["id"] for row in ended.json["changed"][:2]} == {"n0", "n1"}
    page = (home.folder / "r.html").read_text()
    assert page.count("<svg") == 3
    assert "In 1999, by beavers" in page

    shown = home.run("eval", "compare", "a.json", "b.json")
    assert "8 questions" in shown.output
    assert shown.code == 0

    sampled = home.run("eval", "answers", str(folder), "--sample", "3", "--seed", "7",
                       "--embedder", "constant", "--json", "--details")  # fmt: skip
    assert sampled.json["questions"] == 3
    (home.folder / "c.json").write_text(sampled.output)
    said = home.run("eval", "compare", "a.json", "c.json").sentence(2)
    assert "expected the same questions in both" in said


@pytest.mark.timeout(240)
def test_questions_of_ones_own_are_asked_of_a_project(home: Home, database_url: str) -> None:
    """With what they expect, as a user may see it; what cannot be meant is named by its line."""
    home.project(database_url)
    for i, word in enumerate(SUBJECTS):
        (home.documents / f"{word}.md").write_text(f"# {word}\n\nThe {word} was built in 19{i}0.\n")
    assert home.run("run", "--once", "--quiet").code == 0
    questions = home.folder / "questions.jsonl"
    rows: list[dict[str, Any]] = [
        {"question": "When was the river built?", "relevant": ["river.md"], "answers": ["1900"]},
        {"question": "When was the valve built?", "relevant": ["valve.md", "gone.md"]},
        {"question": "When was the bridge built?", "relevant": ["bridge.md"],
         "where": {"path": "bridge*"}},
        {"question": "Who sings in Vienna?", "answerable": False},
    ]  # fmt: skip
    lines(questions, rows)
    ended = home.run("eval", "retrieval", "--questions", "questions.jsonl", "--json", "--details")
    report = ended.json
    assert report["text"]["hit@1"] == 1.0
    assert report["text"]["recall@10"] == pytest.approx(2.5 / 3, abs=1e-4)
    assert report["missing_documents"] == ["gone.md"]
    assert [row["found"]["text"][0] for row in report["details"]] == [
        "river.md", "valve.md", "bridge.md",
    ]  # fmt: skip
    (home.folder / "a.json").write_text(ended.output)
    assert home.run("eval", "compare", "a.json", "a.json", "--json").json["changed"] == []

    lines(questions, [*rows, {"question": "Is it so?"}])
    ended = home.run("eval", "answers", "--questions", "questions.jsonl")
    assert "note: 1 of 5 questions do not say what they expect" in ended.errors
    assert "1 of the 4 expected documents are not in the knowledge base" in ended.errors
    assert "4 questions, 1 of them without an answer" in ended.output

    lines(questions, [rows[0], {"question": "Where?", "where": {"colour": "red"}}])
    said = home.run("eval", "answers", "--questions", "questions.jsonl").sentence(2)
    assert "question 2: expected 'where' to name a field of the documents, got 'colour'" in said
    lines(questions, [rows[0], {"question": "Where?", "relevnt": ["a"]}])
    said = home.run("eval", "retrieval", "--questions", "questions.jsonl").sentence(2)
    assert "line 2: expected the fields" in said
    lines(questions, [{"question": "Where?"}])
    for command in ("retrieval", "answers"):
        said = home.run("eval", command, "--questions", "questions.jsonl").sentence(2)
        assert "expected at least one question that" in said
    for wrong in ([], ["--questions", "questions.jsonl", "--dataset", "."],
                  ["--questions", "questions.jsonl", "--embedder", "constant"]):  # fmt: skip
        assert "expected" in home.run("eval", "answers", *wrong).sentence(2)
