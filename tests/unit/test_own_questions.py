"""Files of one's own questions are read with care."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.evaluate.questions import read_questions
from penstock.operate.comparing import read_questions as read_for_migration
from penstock.stores.base import Filter

LINES = """\
{"question": "Until when?", "relevant": ["a.md", "b.md"], "answers": ["14 days"]}

{"id": "cup", "question": "Who won?", "answerable": false}
{"question": "Where?", "relevant": ["c.md"], "where": {"source": "docs", "title": "T", "lang": 1}}
{"question": "Hm?"}
"""


def test_questions_are_read(tmp_path: Path) -> None:
    """With what they expect; the line is the name of one without an id."""
    path = tmp_path / "q.jsonl"
    path.write_text(LINES)
    first, second, third, fourth = read_questions(path)
    assert (first.id, first.gains, first.answers) == ("1", {"a.md": 1, "b.md": 1}, ("14 days",))
    assert [q.answerable for q in (first, second, third, fourth)] == [True, False, True, None]
    assert (second.id, third.id) == ("cup", "4")
    assert third.where == Filter(sources=["docs"], title="T", metadata={"lang": 1})


def test_the_same_file_serves_a_change_of_the_model(tmp_path: Path) -> None:
    """`penstock models migrate --questions` reads it too."""
    path = tmp_path / "q.jsonl"
    path.write_text(LINES)
    assert next(q.relevant for q in read_for_migration(path)) == {"a.md", "b.md"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Until when?", "line 2: expected JSON such as"),
        ("[]", "line 2: expected an object such as .*, got list"),
        ('{"relevant": ["a"]}', "line 2: expected a text in 'question', got None"),
        ('{"question": " "}', "expected a text in 'question'"),
        ('{"question": 7}', "expected a text in 'question', got 7"),
        ('{"question": "a", "relevant": [1]}', "expected a list of texts in 'relevant'"),
        ('{"question": "a", "answers": "x"}', "expected a list of texts in 'answers', got 'x'"),
        ('{"question": "a", "answers": {"x": 1}}', "expected a list of texts in 'answers'"),
        ('{"question": "a", "answers": [""]}', "expected a list of texts in 'answers'"),
        ('{"question": "a", "answerable": "no"}', "expected true or false in 'answerable'"),
        ('{"question": "a", "answerable": false, "answers": ["x"]}', "expected neither 'answers'"),
        ('{"question": "a", "where": "x"}', "expected a filter as .* in 'where', got 'x'"),
        ('{"question": "a", "where": {"path": 1}}', "expected a text in 'where.path', got 1"),
        ('{"question": "a", "relevnt": ["x"]}', "got 'relevnt' as well"),
        ('{"id": "1", "question": "a"}', "line 2: expected each id once, got '1' again"),
        ('{"question": "' + "a" * 20_001 + '"}', "expected at most 20000 characters"),
        ('{"question": "\xff"}', "line 2: expected JSON such as"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "fine?"}\n' + line + "\n", encoding="latin-1")
    with pytest.raises(ConfigError, match=reason):
        read_questions(path)


def test_all_bad_lines_are_named_up_to_ten(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("x\n" * 15)
    with pytest.raises(ConfigError) as caught:
        read_questions(path)
    said = str(caught.value).splitlines()
    assert len(said) == 11
    assert (", line 10: " in said[9], said[10]) == (True, "5 more lines are amiss")


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("\n\n")
    with pytest.raises(ConfigError, match="expected questions in"):
        read_questions(path)
    with pytest.raises(ConfigError, match="expected to read"):
        read_questions(tmp_path / "none.jsonl")
