"""Wrong project files and wrong documents: named, put aside, and nothing else is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import Home

FILES = "  documents: {type: files, path: ./documents, heartbeat: 0.1}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("project: a\nsorces: {}\n", "line 2: unknown key 'sorces': did you mean 'sources'?"),
        (
            "project: a\nsources:\n  docs: {type: files, pth: x}\n",
            "line 3: unknown key 'sources.docs.pth': did you mean 'path'?",
        ),
        (
            "project: a\nsources:\n  docs: {type: fils, path: x}\n",
            "got 'fils': did you mean 'files'?",
        ),
        (
            "project: a\nproject: b\n",
            "line 2: expected each key once, got 'project' again (first on line 1)",
        ),
        ("project: [a\n", "expected YAML"),
        ("project: a\nsources:\n  docs: {type: files, path: '${NOT_SET}'}\n", "NOT_SET to be set"),
        (
            "project: a\nsources: {shop: {type: postgres, dsn: x=y, tables: {p.*: {title: a}}}}\n",
            "expected a pattern such as 'p.*' without settings",
        ),
    ],
)
def test_project_file_with_a_mistake(home: Home, text: str, expected: str) -> None:
    """File, line, what was expected and the nearest valid name; exit 2 before anything starts."""
    home.write(text)
    said = home.run("run").sentence(2)
    assert "penstock.yaml" in said
    assert expected in said
    assert home.servers() == []


def test_no_project_file(home: Home) -> None:
    """The way out is named; with --json nothing but JSON would be on standard output."""
    ended = home.run("status", "--json")
    assert "write one with `penstock init`" in ended.sentence(2)
    assert ended.output == ""


def test_wrong_use(home: Home) -> None:
    """Unknown commands and options are sentences too."""
    assert "--help" in home.run("rnu").sentence(2)
    assert "--help" in home.run("run", "--onec").sentence(2)


def test_g13_broken_documents_wait_in_the_dead_letters(home: Home, database_url: str) -> None:
    """A broken PDF, a binary called .txt, 500 MB and wrong UTF-8: the good document is found, the
    others wait with the reason, and nothing differs; mended and tried again, one is found."""
    home.project(database_url)
    (home.documents / "good.md").write_text("# Tents\nThe yellow tent is waterproof.\n")
    (home.documents / "broken.pdf").write_bytes(b"%PDF-1.7\nthis is not one\n" * 20)
    (home.documents / "binary.txt").write_bytes(bytes(range(256)) * 200)
    (home.documents / "latin.txt").write_bytes("Grüße aus Köln, très cher".encode("latin-1"))
    (home.documents / "empty.txt").touch()
    with (home.documents / "huge.txt").open("wb") as file:
        file.truncate(500_000_000)
    loaded = home.run("run", "--once", "--json")
    assert loaded.code == 0, loaded.errors
    assert loaded.json["dead_letters"] == 4
    letters = {letter["key"]: letter for letter in home.run("dead-letters", "list", "--json").json}
    assert letters.keys() == {"broken.pdf", "binary.txt", "latin.txt", "huge.txt"}
    assert all(len(letter["reason"]) > 10 for letter in letters.values())
    found = home.run("search", "yellow tent", "--json").json
    assert found["passages"][0]["key"] == "good.md"
    verified = home.run("verify", "--json")
    assert (verified.code, verified.json["differences"]) == (0, 0)

    (home.documents / "binary.txt").write_text("The lamp is warm.\n")
    number = str(letters["binary.txt"]["id"])
    assert home.run("dead-letters", "show", number, "--json").json["id"] == int(number)
    assert home.run("dead-letters", "retry", number, "--json").json["processed"] == 1
    assert home.run("dead-letters", "drop", "--all", "--json").json == {"dropped": 3}
    assert "found none" in home.run("dead-letters", "show", number).sentence(2)


def test_empty_folder(home: Home, database_url: str) -> None:
    """Nothing there is no error; an answer says honestly that it does not know."""
    home.project(database_url)
    assert home.run("run", "--once").code == 0
    assert home.run("ask", "What is Penstock?", "--json").json["abstained"] is True
    assert home.run("verify", "--json").json["differences"] == 0


def test_missing_folder(home: Home, database_url: str) -> None:
    """The folder that is not there is named, by `check` and by `run`."""
    home.project(database_url, FILES.replace("./documents", "./papers"))
    checked, ran = home.run("check"), home.run("run", "--once")
    assert checked.code == 1
    assert "papers" in checked.output
    assert "papers" in ran.sentence()
