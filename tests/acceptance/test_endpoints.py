"""An endpoint that fails and recovers beneath `penstock run`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from tests.acceptance.conftest import Home

from penstock.testing import fake_openai as fake
from penstock.testing.fake_openai import Reply, Request, ThreadedEndpoint

LIMIT_S = 40.0
KEY = "sk-canary-0123456789"


@pytest.fixture
def endpoint() -> Iterator[ThreadedEndpoint]:
    with ThreadedEndpoint(dimensions=16) as server:
        yield server


def project(home: Home, database_url: str, endpoint: ThreadedEndpoint, more: str = "") -> None:
    home.documents.mkdir(exist_ok=True)
    (home.folder / "key").write_text(KEY + "\n")
    home.write(
        f'project: home\ndatabase: "{database_url}"\nserver: {{port: 0}}\n'
        "knowledge:\n  embedder:\n    type: openai\n    model: m\n    dimensions: 16\n"
        f"    base_url: {endpoint.base_url}\n    api_key_file: key\n    batch: 8\n    timeout: 2\n"
        f"{more}sources:\n  documents: {{type: files, path: ./documents, heartbeat: 0.1}}\n"
    )


def until(home: Home, sentence: str, what: Any) -> Any:
    """What a query gives once it gives something that is true."""
    deadline = time.monotonic() + LIMIT_S
    with psycopg.connect(what[0], autocommit=True) as connection:
        while time.monotonic() < deadline:
            found = connection.execute(what[1]).fetchone()
            if found is not None and found[0]:
                return found[0]
            time.sleep(0.1)
    raise AssertionError(f"never: {sentence}")


def state(home: Home) -> dict[str, Any]:
    found: dict[str, Any] = home.run("status", "--json").json
    return found


def knowledge_says(home: Home, text: str) -> dict[str, Any]:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        found = state(home)
        if text in json.dumps(found):
            return found
    raise AssertionError(f"status never said {text!r}: {found}")


def test_the_endpoint_fails_and_recovers(
    home: Home, database_url: str, endpoint: ThreadedEndpoint
) -> None:
    """While it fails the version before serves and the reason is on screen; one poisoned document
    goes to the dead letters alone; when it recovers everything is there, right."""
    project(home, database_url, endpoint)
    for number in range(20):
        (home.documents / f"d{number}.md").write_text(f"Ferry {number} leaves at nine.")
    running = home.start("run").wait_for("is running")
    chunks = "SELECT count(*) = 20 FROM penstock.chunks"
    until(home, "all are there", (database_url, chunks))

    # It is down: the version before serves, and status says why.
    endpoint.fake.reacts = lambda request: fake.status(503, "overloaded")
    (home.documents / "d3.md").write_text("Ferry 3 leaves at ten.")
    (home.documents / "d4.md").write_text("POISON is here.")
    said = knowledge_says(home, '"texts": ')  # how many, since when, why, and when next
    [waiting] = [p["waiting"] for p in said["pipelines"] if p["waiting"]]
    assert waiting["texts"] in (1, 2)
    assert "overloaded" in waiting["reason"]
    assert waiting["since"] < waiting["next_try"]
    assert "waiting for the endpoint since" in home.run("status").output.replace("\n", " ")
    old = "SELECT bool_or(text LIKE 'Ferry 3 leaves at nine%') FROM penstock.chunks"
    until(home, "the version before serves", (database_url, old))
    found = home.run("search", "Ferry 3", "--mode", "text", "--json").json
    assert "nine" in json.dumps(found["passages"])

    # It recovers, but answers HTML for a while and never takes the poison.
    pages = iter([fake.html()] * 2)

    def react(request: Request) -> Reply | None:
        if any("POISON" in text for text in request.texts):
            return fake.status(500)
        return next(pages, None)

    endpoint.fake.reacts = react
    new = "SELECT bool_or(text LIKE 'Ferry 3 leaves at ten%') FROM penstock.chunks"
    until(home, "the new version is there", (database_url, new))
    letters = "SELECT string_agg(key::text, ',') FROM penstock.dead_letters"
    assert until(home, "the poison is put aside", (database_url, letters)) == '["d4.md"]'
    still = "SELECT bool_or(text LIKE 'Ferry 4 leaves%') FROM penstock.chunks"
    until(home, "its version before serves", (database_url, still))

    # Silently another model: nothing of it is stored.
    endpoint.fake.weights = "other"
    (home.documents / "d5.md").write_text("Ferry 5 leaves at eleven.")
    knowledge_says(home, "bring the former model back")
    same = "SELECT count(*) = 0 FROM penstock.chunks WHERE text LIKE '%eleven%'"
    until(home, "nothing of another model", (database_url, same))

    running.signal()
    ended = running.end()
    assert KEY not in ended.output + ended.errors
    assert KEY not in json.dumps([request.body for request in endpoint.fake.requests])
    assert all(r.headers["authorization"] == f"Bearer {KEY}" for r in endpoint.fake.requests)


def test_a_budget_is_kept_over_a_restart(
    home: Home, database_url: str, endpoint: ThreadedEndpoint
) -> None:
    """What was used today counts after a restart too; status says until when it waits."""
    project(home, database_url, endpoint, "    budget: {characters_per_day: 2000}\n")
    for number in range(40):
        (home.documents / f"d{number}.md").write_text(f"Ferry {number} leaves at nine. " * 6)
    for _ in range(2):
        running = home.start("run").wait_for("is running")
        knowledge_says(home, "2,000 characters a day holds no further request")
        running.signal()
        running.end()
    sent = sum(len(text) for request in endpoint.fake.requests for text in request.texts)
    assert 0 < sent <= 2000
