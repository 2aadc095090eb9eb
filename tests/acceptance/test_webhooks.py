"""Deliveries over HTTP to a running process, and what they leave in live tables and documents."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import httpx2
import psycopg
import pytest

from penstock.testing.webhooks import SECRET, signed_headers

from .conftest import Home, Program

SOURCES = f"""
  shop:
    type: webhook
    secret: {SECRET}
    max_size: 20 kB
    heartbeat: 0.2
    tables:
      orders: {{key: [id], columns: {{id: bigint, total: numeric, paid: boolean, data: jsonb}}}}
  notes:
    type: webhook_documents
    secret: {SECRET}
    heartbeat: 0.2
"""


class Shop:
    """A running process, with somebody who sends to it."""

    def __init__(self, home: Home, database_url: str) -> None:
        self.home = home
        self.url = database_url
        home.project(database_url, sources=SOURCES)
        self.start()

    def start(self) -> None:
        self.program: Program = self.home.start("run")
        self.program.wait_for("Ctrl-C stops it")
        said = self.program.output + self.program.errors
        found = re.search(r"http://127\.0\.0\.1:\d+", re.sub(r"\s+", "", said))
        assert found is not None, said
        self.address = found[0]

    def post(
        self, path: str, payload: Any, message_id: str, headers: dict[str, str] | None = None
    ) -> httpx2.Response:
        """Send, and again while the source says that it is not ready."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        deadline = time.monotonic() + 20
        while True:
            sent = headers or signed_headers(message_id, body, now_s=time.time())
            answer = httpx2.post(f"{self.address}/hooks/{path}", content=body, headers=sent)
            if answer.status_code != 503 or time.monotonic() > deadline:
                return answer

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(statement.encode()).fetchall()

    def eventually(self, statement: str, expected: list[tuple[Any, ...]]) -> None:
        deadline = time.monotonic() + 20
        found: list[tuple[Any, ...]] | None = None
        while found != expected:
            assert time.monotonic() < deadline, found
            try:
                found = self.query(statement)
            except psycopg.errors.UndefinedTable:
                found = None


@pytest.fixture
def shop(home: Home, database_url: str) -> Shop:
    return Shop(home, database_url)


ROWS = "SELECT id::text, total::text, paid, data::text FROM shop.orders ORDER BY id"


def test_g2_what_was_answered_with_2xx_is_there_after_a_kill(shop: Shop) -> None:
    """Killed right after the answer: the row comes, and the same id again changes nothing."""
    row = {"id": 1, "total": 10.10, "paid": False, "data": {"n": [1, None]}}
    assert shop.post("shop/orders", row, "one").status_code == 204
    shop.program.kill()
    shop.start()
    shop.eventually(ROWS, [("1", "10.1", False, '{"n": [1, null]}')])
    again = shop.post("shop", {**row, "total": 99}, "one")
    assert again.status_code == 200
    assert shop.post("shop", [{"id": 2}, {"id": 1, "op": "delete"}], "two").status_code == 204
    shop.eventually(ROWS, [("2", None, None, None)])


def test_bad_deliveries_are_told_and_change_nothing(shop: Shop) -> None:
    """Forged, replayed, unreadable, too large: each has its status and sentence, and the canary
    stays as it is."""
    canary = {"id": 7, "total": 1, "paid": True, "data": {}}
    assert shop.post("shop/orders", canary, "canary").status_code == 204
    good = signed_headers("forged", b"{}", now_s=time.time())
    bad = {"id": 7, "total": "x"}
    old = signed_headers("old", json.dumps(canary).encode(), now_s=time.time() - 400)
    answers = {
        "other body": shop.post("shop", canary, "", good),
        "not signed": shop.post("shop", canary, "", {"x": "y"}),
        "old": shop.post("shop", canary, "", old),
        "replayed": shop.post("shop", {**canary, "total": 2}, "canary"),
        "no such table": shop.post("shop/nothing", canary, "a"),
        "value": shop.post("shop/orders", bad, "b"),
        "no key": shop.post("shop/orders", {"total": 1}, "c"),
        "half good": shop.post("shop/orders", [{"id": 8}, bad], "d"),
        "not JSON": shop.post("shop/orders", b"\xff{", "e"),
        "deep": shop.post("shop/orders", b"[" * 15_000, "f"),
        "large": shop.post("shop/orders", b" " * 30_000, "g"),
    }
    assert {name: answer.status_code for name, answer in answers.items()} == {
        "other body": 401,
        "not signed": 401,
        "old": 401,
        "replayed": 200,
        "no such table": 404,
        "value": 422,
        "no key": 422,
        "half good": 422,
        "not JSON": 422,
        "deep": 422,
        "large": 413,
    }
    problem = answers["value"]
    assert problem.headers["content-type"] == "application/problem+json"
    assert "expected a value of type numeric, got" in problem.json()["detail"]
    assert httpx2.get(f"{shop.address}/hooks/shop").status_code == 405
    assert httpx2.get(f"{shop.address}/healthz").status_code == 200
    assert shop.post("shop/orders", {"id": 9}, "last").status_code == 204
    expected = [("7", "1", True, "{}"), ("9", None, None, None)]
    shop.eventually(ROWS, expected)


def test_pushed_documents_are_searched_and_taken_away(shop: Shop) -> None:
    """A document comes, is replaced and goes."""
    for number, text in enumerate(("first words", "other words")):
        note = {"path": "a/note.md", "text": text, "title": "Note"}
        assert shop.post("notes", note, f"n{number}").status_code == 204
    shop.eventually("SELECT key, deleted_at IS NULL FROM penstock.documents", [("a/note.md", True)])
    assert shop.post("notes", {"path": "a/note.md", "op": "delete"}, "gone").status_code == 204
    shop.eventually("SELECT count(*) FROM penstock.documents WHERE deleted_at IS NULL", [(0,)])
