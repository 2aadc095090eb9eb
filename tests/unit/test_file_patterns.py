"""Which paths a folder source reads."""

from __future__ import annotations

import pytest

from penstock.errors import ConfigError
from penstock.sources.documents.patterns import EVERYTHING, HIDDEN_AND_TEMPORARY, Patterns


@pytest.mark.parametrize(
    ("pattern", "path", "wanted"),
    [
        ("**/*.md", "a.md", True),
        ("**/*.md", "x/y/a.md", True),
        ("**/*.md", "a.txt", False),
        ("*.md", "x/a.md", False),
        ("x/**", "x/y/z", True),
        ("x/**", "xy/z", False),
        ("x/**/z", "x/z", True),
        ("x/**/z", "x/a/b/z", True),
        ("x/*/z", "x/a/b/z", False),
        ("?.txt", "a.txt", True),
        ("[ab].txt", "b.txt", True),
        ("[!ab].txt", "b.txt", False),
        ("[!ab].txt", "/.txt", False),
        ("[.txt", "[.txt", True),
        ("**/a\nb", "x/a\nb", True),
        ("**/*.(md)", "x.(md)", True),
    ],
)
def test_patterns_as_in_a_shell(pattern: str, path: str, wanted: bool) -> None:
    """A star stays in its folder, two stars do not."""
    assert Patterns([pattern], []).wanted(path) is wanted


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("a.md", True),
        (".git/config", False),
        ("x/.hidden/a.md", False),
        ("x/a.md~", False),
        ("x/.a.md.swp", False),
        ("~$report.docx", False),
        ("4913", False),
        ("x/photo.JPG", False),
        ("node_modules/x/readme.md", False),
        ("a.b.c/d", True),
    ],
)
def test_hidden_temporary_and_textless_files_are_passed_over(path: str, wanted: bool) -> None:
    """By default, in any folder, also when a folder above is meant."""
    assert Patterns(EVERYTHING, HIDDEN_AND_TEMPORARY).wanted(path) is wanted


@pytest.mark.parametrize("pattern", ["/etc/*", "", "a\\b"])
def test_patterns_must_be_relative(pattern: str) -> None:
    """Refused when the configuration is read."""
    with pytest.raises(ConfigError, match="relative to the folder"):
        Patterns([pattern], [])


def test_many_stars_take_no_time() -> None:
    """Stars beside each other are one."""
    assert not Patterns(["**/" * 30 + "*" * 30 + "x"], []).wanted("a/" * 40 + "b" * 200)
