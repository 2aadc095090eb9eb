from __future__ import annotations

from pathlib import Path

import pytest

from penstock.database.queries import load_queries, parse_queries
from penstock.errors import FatalError


def test_statements_are_found_by_name_without_the_comments_above_them(tmp_path: Path) -> None:
    """What reaches the server is the statement; comments inside of it stay."""
    path = tmp_path / "some.sql"
    path.write_text(
        "-- About this file.\n\n-- name: one\n-- Why.\nSELECT 1 -- kept\nFROM t;\n\n"
        "--name: two\nSELECT '-- name: no'\n",
        encoding="utf-8",
    )
    assert load_queries(path) == {
        "one": "SELECT 1 -- kept\nFROM t",
        "two": "SELECT '-- name: no'",
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("-- name: a\nSELECT 1\n-- name: a\nSELECT 2", "each name once"),
        ("SELECT 1", "expected '-- name: ...'"),
        ("-- name: a\n-- only a comment\n", "found none"),
    ],
)
def test_a_malformed_file_is_refused(text: str, sentence: str) -> None:
    """A typo in a file of statements is found when it is loaded, not when it is used."""
    with pytest.raises(FatalError, match=sentence):
        parse_queries(text)
