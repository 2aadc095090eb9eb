"""Answers afterwards, as an operator asks for them: show, replay, diff; feedback, audit."""

from __future__ import annotations

import psycopg
from tests.acceptance.conftest import Home

from penstock.evaluate.questions import read_questions

POLICY = "# Cancellation\n\nA flight can be cancelled free of charge until {} before departure.\n"
CANCEL = "Until when can a flight be cancelled free of charge?"


def test_g8_an_operator_says_why_an_answer_was_given(home: Home, database_url: str) -> None:
    """From the question to the entry, what it rested on, the same again, what it would be now."""
    home.project(database_url)
    policy = home.documents / "policy.md"
    policy.write_text(POLICY.format("24 hours"), encoding="utf-8")
    home.start("run").wait_for("everything is in step").signal().end()
    told = home.run("ask", CANCEL, "--as", "ada", "--json").json
    name = told["id"]
    shown = home.run("answers", "show", name, "--json").json
    assert shown["content"]["principal"]["user"] == "ada"
    assert shown["content"]["text"] == told["text"]
    assert shown["items"][0]["key"] == "policy.md"
    assert shown["content"]["context"]["sources"][0]["age_ms"] is not None
    policy.write_text(POLICY.format("48 hours"), encoding="utf-8")
    home.start("run").wait_for("everything is in step").signal().end()
    assert "the same" in home.run("answers", "replay", name).output
    changed = home.run("answers", "diff", name)
    assert "another text" in changed.output
    assert "48 hours" in changed.output


def test_g8_what_is_said_of_answers_is_kept_and_a_change_is_found(
    home: Home, database_url: str
) -> None:
    """Feedback by the answer's id, questions for a measurement from it, and the audit."""
    home.project(database_url)
    asked = home.run("ask", CANCEL)
    (entry,) = home.run("answers", "list", "--json").json
    assert f"answer {entry['id']}" in asked.output
    home.run("answers", "feedback", entry["id"], "-r", "-1", "--correction", "48 hours before")
    exported = home.run("answers", "export", "--rated", "down").output
    (home.folder / "questions.jsonl").write_text(exported, encoding="utf-8")
    (question,) = read_questions(home.folder / "questions.jsonl")
    assert (question.text, question.answers) == (CANCEL, ("48 hours before",))
    assert "sound: 2 entries" in home.run("audit", "verify").output
    assert "expected the id of an answer" in home.run("answers", "show", "ans_none").sentence(2)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE penstock.ledger_entries SET at = at + 1 WHERE number = 2")
    broken = home.run("audit", "verify")
    assert (broken.code, broken.output.startswith("broken from entry 2 on")) == (1, True)
