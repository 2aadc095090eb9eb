"""Answers afterwards, as an operator asks for them: list, show, replay, diff, feedback, audit."""

from __future__ import annotations

import psycopg
from tests.acceptance.conftest import Home

from penstock.evaluate.questions import read_questions

POLICY = "# Cancellation\n\nA flight can be cancelled free of charge until {} before departure.\n"
CANCEL = "Until when can a flight be cancelled free of charge?"


def test_g8_an_operator_says_why_an_answer_was_given(home: Home, database_url: str) -> None:
    """From the question to the entry, what it rested on, the same again, what it would be now, what
    was said of it, and whether anybody changed it since."""
    files = "{type: files, path: ./documents, heartbeat: 0.1}"
    home.project(database_url, f"  documents: {files}\n")
    policy = home.documents / "policy.md"
    policy.write_text(POLICY.format("24 hours"), encoding="utf-8")
    running = home.start("run").wait_for("everything is in step")
    told = home.run("ask", CANCEL, "--as", "ada", "--json").json
    name = told["id"]
    assert name in home.run("ask", CANCEL).output or name.startswith("ans_")
    listed = home.run("answers", "list", "--json").json
    assert name in [entry["id"] for entry in listed]
    shown = home.run("answers", "show", name, "--json").json
    assert shown["content"]["principal"]["user"] == "ada"
    assert shown["content"]["text"] == told["text"]
    assert shown["items"][0]["key"] == "policy.md"
    assert shown["content"]["context"]["sources"][0]["position"]
    assert "the same" in home.run("answers", "replay", name).output
    running.signal().end()
    policy.write_text(POLICY.format("48 hours"), encoding="utf-8")
    home.start("run").wait_for("everything is in step").signal().end()
    assert "the same" in home.run("answers", "replay", name).output
    changed = home.run("answers", "diff", name)
    assert "another text" in changed.output
    assert "48 hours" in changed.output
    home.run("answers", "feedback", name, "--rating", "-1", "--correction", "48 hours before")
    assert "from 1 to 5" in home.run(
        "answers", "feedback", name, "--rating", "9", "--stars"
    ).sentence(2)
    exported = home.run("answers", "export", "--rated", "down").output
    (home.folder / "questions.jsonl").write_text(exported, encoding="utf-8")
    (question,) = read_questions(home.folder / "questions.jsonl")
    assert (question.text, question.answers) == (CANCEL, ("48 hours before",))
    assert "sound: " in home.run("audit", "verify").output
    assert "expected the id of an answer" in home.run("answers", "show", "ans_none").sentence(2)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE penstock.ledger_entries SET at = at + 1 WHERE number = 2")
    broken = home.run("audit", "verify")
    assert (broken.code, broken.output.startswith("broken from entry 2 on")) == (1, True)
