"""`penstock ask` with a language model behind an endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator

import orjson
import psycopg
import pytest
from tests.acceptance.conftest import Home
from tests.acceptance.test_endpoints import KEY, until

from penstock.testing import fake_openai as fake
from penstock.testing.fake_openai import Reply, Request, ThreadedEndpoint

ANSWER = {
    "statements": [
        {"text": "It leaves at nine.", "items": [1]},
        {"text": "It is free.", "items": [77]},
    ]
}


@pytest.fixture
def endpoint() -> Iterator[ThreadedEndpoint]:
    with ThreadedEndpoint() as server:
        yield server


def writes(request: Request) -> Reply:
    wanted = request.body["response_format"]["json_schema"]["schema"]["required"]
    rewrites = wanted == ["searches"]
    text = json.dumps({"searches": ["ferry departure"]} if rewrites else ANSWER)
    body = {
        "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10}
        if rewrites
        else {"prompt_tokens": 1000, "completion_tokens": 100},
    }
    return Reply(pieces=[orjson.dumps(body)])


def test_a_question_is_answered_counted_and_refused_beyond_the_budget(
    home: Home, database_url: str, endpoint: ThreadedEndpoint
) -> None:
    """The model is named in `models`; its key is in a file; what it costs is counted in the
    database, so the budget holds over processes."""
    home.documents.mkdir(exist_ok=True)
    (home.folder / "key").write_text(KEY + "\n")
    (home.documents / "ferry.md").write_text("The ferry leaves at nine.")
    home.write(
        f'project: home\ndatabase: "{database_url}"\nserver: {{port: 0}}\n'
        "models:\n  writer:\n    type: chat\n    model: m\n    api_key_file: key\n"
        f"    base_url: {endpoint.base_url}\n    max_tokens: 100\n"
        "    input_price: 1\n    output_price: 10\n    budget: {cost_per_day: 0.003}\n"
        "knowledge: {embedder: constant}\nanswers: {generator: writer, rewrite: 2}\n"
        "sources:\n  documents: {type: files, path: ./documents, heartbeat: 0.1}\n"
    )
    running = home.start("run").wait_for("is running")
    until(home, "it is there", (database_url, "SELECT count(*) = 1 FROM penstock.chunks"))
    endpoint.fake.reacts = writes
    found = home.run("ask", "When does the ferry leave?", "--json").json
    assert found["text"] == "It leaves at nine. [1]"
    assert (found["generator"], found["dropped"]) == ("openai/m", 1)
    assert found["usage"] == {
        "requests": 2, "input_tokens": 1100, "output_tokens": 110, "cost": 0.0022,
        "cached_tokens": None, "estimated": False,
    }  # fmt: skip
    assert (found["searches"], found["notes"]) == (["ferry departure"], [])
    request = endpoint.fake.requests[-1]
    assert request.headers["authorization"] == f"Bearer {KEY}"

    refused = home.run("ask", "When does the ferry leave?")
    assert (refused.code, "budget" in refused.errors) == (1, True)
    assert len(endpoint.fake.requests) == 2
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE penstock.model_usage SET tokens = 0")

    endpoint.fake.reacts = lambda request: fake.status(401, f"wrong key {KEY}")
    failed = home.run("ask", "When does the ferry leave?")
    assert "401" in failed.errors
    assert KEY not in failed.output + failed.errors
    running.signal()
    running.end()
