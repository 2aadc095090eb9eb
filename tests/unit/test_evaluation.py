"""Measures of retrieval against cases worked out by hand, and datasets read with care."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.evaluate.dataset import read_dataset
from penstock.evaluate.metrics import (
    best_per_document,
    hit,
    ndcg,
    recall,
    reciprocal_rank,
    summary,
)
from penstock.stores.base import Filter

GAINS = {"a": 3, "b": 1, "c": 0, "d": 2}


def test_measures_of_one_ranking() -> None:
    """The relevant ones are a, b and d; c is judged and is not."""
    ranking = ["c", "b", "x", "a"]
    assert hit(ranking, GAINS) == 0
    assert hit(["b"], GAINS) == 1
    assert recall(ranking, GAINS) == pytest.approx(2 / 3)
    assert recall(ranking, GAINS, at=2) == pytest.approx(1 / 3)
    assert reciprocal_rank(ranking, GAINS) == 1 / 2
    assert reciprocal_rank(ranking, GAINS, at=1) == 0
    best = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(ranking, GAINS) == pytest.approx((1 / math.log2(3) + 3 / math.log2(5)) / best)
    assert ndcg(["a", "d", "b"], GAINS) == 1


def test_nothing_found_and_nothing_to_find() -> None:
    """Both count as zero, not as an error."""
    for ranking, gains in (([], GAINS), (["x"], {}), ([], {})):
        assert (recall(ranking, gains), reciprocal_rank(ranking, gains)) == (0, 0)
        assert (hit(ranking, gains), ndcg(ranking, gains)) == (0, 0)
    assert summary([])["ndcg@10"] == 0


def test_only_the_first_ten_count() -> None:
    """A relevant document in the eleventh place is not found."""
    ranking = [f"x{i}" for i in range(10)] + ["a"]
    assert summary([(ranking, {"a": 1})]) == {
        "hit@1": 0.0, "recall@10": 0.0, "mrr@10": 0.0, "ndcg@10": 0.0,
    }  # fmt: skip
    assert summary([(["a"], {"a": 1}), (["x", "a"], {"a": 1})]) == {
        "hit@1": 0.5, "recall@10": 1.0, "mrr@10": 0.75, "ndcg@10": 0.8155,
    }  # fmt: skip


def test_a_document_ranks_by_its_best_chunk() -> None:
    assert best_per_document([("a", 3), ("b", 2), ("a", 1), ("c", 0)]) == ["a", "b", "c"]


def write(folder: Path, corpus: str, queries: str, qrels: str | None) -> Path:
    (folder / "corpus.jsonl").write_text(corpus)
    (folder / "queries.jsonl").write_text(queries)
    if qrels is not None:
        (folder / "qrels").mkdir()
        (folder / "qrels" / "test.tsv").write_text(qrels)
    return folder


CORPUS = '{"_id": "p1", "title": "T", "text": "x"}\n\n{"_id": "p2", "text": "y"}\n'
QUERIES = (
    '{"_id": "q1", "text": "a?", "metadata": {"answers": ["x"], "title": "T"}}\n'
    '{"_id": "q2", "text": "b?", "metadata": {"answerable": false}}\n{"_id": "q3", "text": "c?"}\n'
)
QRELS = "query-id\tcorpus-id\tscore\nq1\tp1\t1\nq3\tp2\t2\n"


def test_a_dataset_is_read(tmp_path: Path) -> None:
    """With titles, answers and whether anybody says that a question can be answered."""
    data = read_dataset(write(tmp_path, CORPUS, QUERIES, QRELS))
    assert [(d.id, d.title, d.text) for d in data.documents] == [("p1", "T", "x"), ("p2", "", "y")]
    assert [q.answerable for q in data.queries] == [True, False, None]
    assert [dict(q.gains) for q in data.queries] == [{"p1": 1}, {}, {"p2": 2}]
    assert (data.queries[0].where, data.queries[0].answers) == (Filter(title="T"), ("x",))
    assert len(read_dataset(tmp_path, queries=1).queries) == 1


@pytest.mark.parametrize(
    ("corpus", "queries", "qrels", "reason"),
    [
        ("{", QUERIES, QRELS, r"corpus.jsonl:1: expected a JSON object"),
        ("[1]", QUERIES, QRELS, r"corpus.jsonl:1: expected a JSON object, got b'\[1\]'"),
        ('{"text": "x"}', QUERIES, QRELS, "expected a field '_id'"),
        ("", QUERIES, QRELS, "expected documents in"),
        (CORPUS, "", QRELS, "expected questions in"),
        (CORPUS, QUERIES, None, "expected judgements in"),
        (CORPUS, QUERIES, QRELS + "q1 p1\n", "test.tsv:4: expected query, document and score"),
    ],
)
def test_a_broken_dataset_is_refused(
    tmp_path: Path, corpus: str, queries: str, qrels: str | None, reason: str
) -> None:
    """With file and line."""
    with pytest.raises(ConfigError, match=reason):
        read_dataset(write(tmp_path, corpus, queries, qrels))


def test_a_missing_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected to read .*corpus\.jsonl"):
        read_dataset(tmp_path)
