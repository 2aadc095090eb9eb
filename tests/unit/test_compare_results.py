"""Two results side by side: differences, their intervals, and what does not compare."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import ConfigError
from penstock.evaluate.charts import Bar, Interval, bars, histogram, intervals
from penstock.evaluate.compare import Comparison, Result, compare, read_result
from penstock.evaluate.report import page

ABOUT = {"kind": "answers", "dataset": "set", "documents": "d1", "questions": "q1"}


def detail(key: str, *, abstained: bool = False, answerable: bool = True, **measures: Any) -> Any:
    return {
        "id": key, "question": f"What of {key}?", "answerable": answerable, "answers": ["x"],
        "relevant": ["p1"], "measures": measures, "abstained": abstained, "answer": "It is. [1]",
        "citations": [{"number": 1, "key": "p1", "quote": "It is."}],
    }  # fmt: skip


def result(name: str, rows: list[Any], **about: Any) -> Result:
    return Result(Path(name), {**ABOUT, **about}, {row["id"]: row for row in rows})


def pair(before: Sequence[float | None], after: Sequence[float | None]) -> Comparison:
    sides = [
        result(f"{name}.json", [detail(f"q{i}", f1=value) for i, value in enumerate(values)])
        for name, values in (("a", before), ("b", after))
    ]
    return compare(*sides)


def test_a_difference_is_that_of_the_means() -> None:
    """(1 + 0 + .5) / 3 against (1 + 1 + 1) / 3; the same seed gives the same interval."""
    found = pair([1, 0, 0.5], [1, 1, 1]).differences[0]
    assert (found.a, found.b, found.difference) == (0.5, 1.0, 0.5)
    assert found.low == 0.0  # all three draws are the question that does not differ
    assert found.high == 1.0
    assert pair([1, 0, 0.5], [1, 1, 1]).differences[0] == found


def test_the_interval_is_paired() -> None:
    """Questions that are hard for both do not widen it: a constant difference has no width."""
    found = pair([0.1, 0.5, 0.9, 0.3], [0.2, 0.6, 1.0, 0.4]).differences[0]
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)
    assert found.verdict == "better"


def test_the_interval_is_that_of_theory() -> None:
    """Of 400 questions 40 lost 1: the standard error is sqrt(.1·.9/400) = .015."""
    found = pair([1.0] * 400, [0.0] * 40 + [1.0] * 360).differences[0]
    assert found.difference == pytest.approx(-0.1)
    assert found.low == pytest.approx(-0.1 - 1.96 * 0.015, abs=0.005)
    assert found.high == pytest.approx(-0.1 + 1.96 * 0.015, abs=0.005)
    assert found.verdict == "worse"


def test_what_is_the_same_shows_no_difference() -> None:
    found = pair([1, 0, 1], [1, 0, 1])
    assert (found.differences[0].low, found.differences[0].high) == (0, 0)
    assert found.differences[0].verdict == "no difference shown"
    assert found.changed == ()


def test_a_measure_counts_the_questions_that_have_it() -> None:
    """Each result has its own mean, as its report says; none has it on the last question."""
    found = pair([1, None, 0, None], [1, 1, 1, None]).differences[0]
    assert (found.a, found.b, found.questions) == (0.5, 1.0, 3)


def test_abstention_is_compared_by_its_f1() -> None:
    """A: 1 of 2 told, 1 of 2 refused: 2/(2+1+1). B: 2 told, none refused: 1."""
    asked = [("q1", True), ("q2", True), ("q3", False), ("q4", False)]
    sides = [
        result(
            name,
            [detail(key, answerable=can, abstained=key in silent, f1=0.0) for key, can in asked],
        )
        for name, silent in (("a", {"q1", "q3"}), ("b", {"q3", "q4"}))
    ]
    found = {one.measure: one for one in compare(*sides).differences}
    assert (found["abstention_f1"].a, found["abstention_f1"].b) == (0.5, 1.0)
    assert (found["answerable_refused"].a, found["answerable_refused"].b) == (0.5, 0.0)


def test_a_question_that_failed_is_in_no_figure() -> None:
    """It has no measures and no silence, and its page says why."""
    failed = {**detail("q2"), "failed": "the endpoint was away"}
    del failed["abstained"]
    rows = [detail("q1", f1=1.0), detail("q3", answerable=False, abstained=True, f1=1.0)]
    found = compare(result("a", [*rows, detail("q2", f1=0.0)]), result("b", [*rows, failed]))
    measured = {one.measure: one for one in found.differences}
    assert measured["f1"].a == pytest.approx(2 / 3)
    assert measured["f1"].b == 1.0
    assert (measured["abstention_f1"].a, measured["abstention_f1"].b) == (1.0, 1.0)
    assert found.changed == ()
    assert page(found)


def test_less_latency_is_better() -> None:
    sides = [
        result(name, [detail(f"q{i}", f1=1.0, latency_ms=ms + i) for i in range(20)])
        for name, ms in (("a", 50.0), ("b", 20.0))
    ]
    found = compare(*sides, by="latency_ms")
    assert found.differences[1].verdict == "better"
    assert (found.differences[1].difference, found.lost) == (-30.0, 0)


def test_questions_that_differ_come_worst_first() -> None:
    found = pair([1, 0.5, 0, 0.2], [0.2, 0.5, 1, 0])
    assert [(one.id, round(one.difference, 3)) for one in found.changed] == [
        ("q0", -0.8), ("q3", -0.2), ("q2", 1.0),
    ]  # fmt: skip
    assert (found.lost, found.by) == (2, "f1")
    assert json.dumps(found.to_dict())
    with pytest.raises(ConfigError, match="expected --by one of f1, got 'speed'"):
        compare(result("a", [detail("q", f1=1)]), result("b", [detail("q", f1=1)]), by="speed")


@pytest.mark.parametrize(
    ("about", "rows", "reason"),
    [
        ({"kind": "retrieval"}, ["q1"], "one of `eval answers` in a and one of `eval retrieval`"),
        ({"documents": "d2", "dataset": "other"}, ["q1"], "same data set, got 'set' in a and 'oth"),
        ({}, ["q2", "q3"], "same questions in both, but 1 are only in a and 2 only in b"),
        ({"questions": "q2"}, ["q1"], "read or expect otherwise"),
    ],
)
def test_results_that_do_not_compare_are_refused(
    about: dict[str, Any], rows: list[str], reason: str
) -> None:
    other = result("b", [detail(key, f1=1.0) for key in rows], **about)
    with pytest.raises(ConfigError, match=reason):
        compare(result("a", [detail("q1", f1=1.0)]), other)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "expected a result of `penstock eval` in .*, got"),
        ("[]", "got other JSON"),
        ('{"about": {"kind": "answers"}}', "got other JSON"),
        (json.dumps({"about": ABOUT}), "run it again with --details"),
        (json.dumps({"about": ABOUT, "details": []}), "expected questions in .*, got none"),
        (json.dumps({"about": ABOUT, "details": [{"id": 1}]}), "expected an id and measures"),
        (
            json.dumps({"about": ABOUT, "details": [{"id": 1, "measures": {"f1": "nan"}}]}),
            "expected an id and measures",
        ),
    ],
)
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        read_result(path)


# --------------------------------------------------------------------------- the page

NASTY = '<script>alert(\'x\')</script><img src=x onerror="y"> & "quotes"'
VOID = {"meta", "line", "circle", "rect", "img"}


class Tags(HTMLParser):
    """All tags, all of them closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes.extend(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes.extend(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_holds_nothing_but_text_of_what_it_shows() -> None:
    """Names, questions, answers, documents and settings are escaped; nothing is loaded or run."""
    rows = []
    for value in (1.0, 0.0):
        row = detail(NASTY)
        row["measures"] = {NASTY: value, "f1": value}
        row |= {"question": NASTY, "answer": NASTY, "relevant": [NASTY], "answers": [NASTY]}
        row["citations"] = [{"key": NASTY}]
        rows.append(row)
    about = {"dataset": NASTY, "settings": {"prompt": NASTY}}
    text = page(
        compare(
            result(f"{NASTY}1", [rows[0]], **about),
            result(f"{NASTY}2", [rows[1]], **(about | {"settings": {}})),
        )
    )
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert not {"script", "img", "link", "iframe", "object"} & set(tags.seen)
    assert not [name for name, _ in tags.attributes if name in ("src", "href") or name[:2] == "on"]
    assert "&lt;script&gt;" in text
    assert not re.search(r"url\(|@import|https?://", text)


def test_a_page_tells_of_a_search() -> None:
    """What each mode found first."""
    rows = [
        {
            "id": "q1", "question": "Where?", "relevant": ["p1"],
            "measures": {"hybrid ndcg@10": value}, "found": {"hybrid": found, "text": []},
        }
        for value, found in ((1.0, ["p1", "p2"]), (0.5, ["p2", "p1"]))
    ]  # fmt: skip
    text = page(compare(*(result(n, [row]) for n, row in zip("ab", rows, strict=True))))
    assert "hybrid: p2, p1" in text
    assert "text: nothing" in text
    assert page(compare(*(result(n, [rows[0]]) for n in "ab"))).count("<article>") == 0


def test_charts_stay_within_their_frame() -> None:
    """Whatever the numbers, no coordinate lies outside; nothing is divided by zero."""
    drawn = [
        bars([Bar("x", 0, 1), Bar("y", -1, 7)], "a", "b"),
        intervals([Interval("x", 0, 0, 0, "same")], better="more", worse="less"),
        intervals([Interval("x", 1e-9, -3e-9, 3e-9, "same")], better="more", worse="less"),
        intervals([Interval("x", 0.9, -1, 1, "better")], better="more", worse="less"),
        intervals([], better="more", worse="less"),
        histogram([]),
        histogram([-1, 1, 0.5, 0.0]),
    ]
    for chart in drawn:
        assert chart.startswith("<svg")
        assert "nan" not in chart
        for name in ("x", "x1", "x2", "cx"):
            places = [float(found) for found in re.findall(rf' {name}="([-\d.]+)"', chart)]
            assert all(0 <= place <= 760 for place in places)
