"""A dataset goes through the real pipeline and store, and is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.evaluate.run import evaluate_dataset


@pytest.mark.timeout(120)
async def test_a_small_dataset_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All figures are there; words find what a model without meaning cannot."""
    subjects = ["river", "turbine", "valve", "bridge", "harbour", "garden", "window", "market"]
    corpus = [
        {
            "_id": f"p{i}",
            "title": word.title(),
            "text": f"The {word} number {i} was built in 19{i}0.",
            "metadata": {"half": i // 4},
        }
        for i, word in enumerate(subjects)
    ]
    queries = [
        {"_id": f"q{i}", "text": f"When was the {word} built?",
         "metadata": {"answers": [f"19{i}0"], "answerable": True, "half": i // 4}}
        for i, word in enumerate(subjects)
    ]  # fmt: skip
    queries.append(
        {"_id": "q9", "text": "Who sings?", "metadata": {"answerable": False, "answers": []}}
    )
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "qrels").mkdir()
    judged = [f"q{i}\tp{i}\t1" for i in range(len(subjects))]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))

    report = await evaluate_dataset(tmp_path, embedder="constant")
    assert set(report) == {
        "vector", "text", "hybrid", "latency_ms", "chunks", "documents", "answers",
        "abstention", "about",
    }  # fmt: skip
    assert report["text"] == {"hit@1": 1.0, "recall@10": 1.0, "mrr@10": 1.0, "ndcg@10": 1.0}
    assert set(report["vector"]) == set(report["hybrid"]) == set(report["text"])
    assert (report["documents"], report["chunks"]) == (8, 8)
    assert set(report["latency_ms"]) == {"p50", "p95", "p99"}
    assert report["answers"]["answerable_questions"] == 8
    assert report["answers"]["abstained_when_unanswerable"] == 1.0
    refused = report["abstention"]["answerable_refused"]
    assert refused == pytest.approx(1 - report["answers"]["answered_when_answerable"])
    assert report["abstention"]["f1"] == pytest.approx(2 / (2 + 8 * refused), abs=1e-3)
    assert "8 of 8 documents" in capsys.readouterr().err
    assert json.dumps(report)

    report = await evaluate_dataset(tmp_path, embedder="constant", filter_field="half", quiet=True)
    assert report["filter"] == {"field": "half", "hit@5": 1.0}
    with pytest.raises(ConfigError, match="no document has 'quarter': documents have half, title"):
        await evaluate_dataset(tmp_path, embedder="constant", filter_field="quarter", quiet=True)
    with pytest.raises(ConfigError, match="no question has 'title'"):
        await evaluate_dataset(tmp_path, embedder="constant", filter_field="title", quiet=True)
