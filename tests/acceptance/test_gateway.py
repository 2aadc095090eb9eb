"""Several language models behind a running project: OpenAI's own client with tools, a model that
fails, what it cost, and a budget that is used up."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import orjson
import pytest
from tests.acceptance.conftest import Home

from penstock.keys import id_of
from penstock.testing import fake_openai as fake
from penstock.testing.fake_models import anthropic, openai_chat
from penstock.testing.fake_openai import Reply, Request, ThreadedEndpoint

KEY = "sk-canary-0123456789"
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "book",
        "description": "Books a seat.",
        "parameters": {"type": "object", "properties": {"seat": {"type": "string"}}},
    },
}
SCHEMA: dict[str, object] = {"type": "object"}
QUESTION = "When does the ferry leave?"


@pytest.fixture
def endpoint() -> Iterator[ThreadedEndpoint]:
    with ThreadedEndpoint() as server:
        yield server


def models(request: Request) -> Reply:
    """Claude is overloaded; the other calls a tool, and says what became of it."""
    if request.path.endswith("/messages"):
        return fake.status(529, f"overloaded, {KEY}")
    body = request.body
    if "response_format" in body:
        said = {"statements": [{"text": "It leaves at nine.", "items": [1]}]}
        return openai_chat(json.dumps(said), usage=USAGE)
    if body.get("tools") and body["messages"][-1]["role"] == "user":
        call = {"index": 0, "id": "t1", "function": {"name": "book", "arguments": '{"seat": "7"}'}}
        return openai_chat(finish="tool_calls", calls=[call], usage=USAGE)
    return openai_chat("Seat 7 is booked;", " it leaves at nine [1][9].", usage=USAGE)


def penstock_of(completion: Any) -> dict[str, Any]:
    """What is ours in a completion of OpenAI's client."""
    found: dict[str, Any] = completion.model_extra["penstock"]
    return found


def test_an_application_asks_several_models_as_one(
    home: Home, database_url: str, endpoint: ThreadedEndpoint
) -> None:
    """The chain's first model is overloaded: nobody notices. Tools are passed through, costs are
    kept by key and model, and a key beyond its budget is told so as OpenAI tells it."""
    endpoint.fake.reacts = models
    home.documents.mkdir(exist_ok=True)
    (home.documents / "ferry.md").write_text("The ferry leaves at nine.")
    home.write(
        f'project: home\ndatabase: "{database_url}"\nserver: {{port: 0}}\n'
        "models:\n"
        f"  claude: {{type: anthropic, model: claude-sonnet-4-5, api_key: {KEY}, "
        f"base_url: {endpoint.base_url}}}\n"
        f"  writer: {{type: chat, model: m, api_key: {KEY}, base_url: {endpoint.base_url}, "
        "max_tokens: 100, input_price: 1, output_price: 10}\n"
        f"  new: {{type: chat, model: m2, api_key: {KEY}, base_url: {endpoint.base_url}, "
        "input_price: 1, output_price: 10}\n"
        "knowledge: {embedder: constant}\n"
        "answers:\n  generator:\n    type: gateway\n    chain: [claude, writer]\n"
        "    canary: {model: new, share: 0.000001}\n    budgets: {per_key: 0.03}\n"
        "sources:\n  documents: {type: files, path: ./documents, heartbeat: 0.1}\n"
    )
    checked = home.run("check")
    assert "generator claude" in checked.output
    assert "529" in checked.output
    assert KEY not in checked.output + checked.errors
    running = home.start("run")
    running.wait_for("everything is in step")
    found = re.search(r"http://\S+", running.output)
    assert found is not None
    token = home.run("keys", "create", "test", "--json").json
    client = openai.OpenAI(
        base_url=f"{found[0].rstrip(';')}/v1", api_key=token["token"], max_retries=0
    )
    asked: list[Any] = [{"role": "user", "content": QUESTION}]

    whole = client.chat.completions.create(model="penstock", messages=asked, tools=[TOOL])
    assert whole.choices[0].finish_reason == "tool_calls"
    [call] = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("book", '{"seat": "7"}')
    sent = endpoint.fake.requests[-1].body
    assert "The ferry leaves at nine." in sent["messages"][-1]["content"]

    asked += [
        whole.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "booked"},
    ]
    done = client.chat.completions.create(model="penstock", messages=asked, tools=[TOOL])
    message = done.choices[0].message
    assert message.content == "Seat 7 is booked; it leaves at nine [1]."
    [mark] = message.annotations or []
    assert mark.url_citation.url == "penstock://documents/ferry.md"
    assert done.usage is not None
    assert done.usage.prompt_tokens == 1000
    assert endpoint.fake.requests[-1].body["messages"][-1] == {
        "role": "tool", "tool_call_id": "t1", "content": "booked",
    }  # fmt: skip

    rules: list[Any] = [{"role": "system", "content": "Be brief."}, *asked]
    stream = client.chat.completions.create(
        model="penstock", messages=rules, tools=[TOOL], stream=True, temperature=0.5, seed=7,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Seat 7 is booked; it leaves at nine [1][9]."
    assert chunks[-1].usage is not None
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    sent = endpoint.fake.requests[-1].body
    assert "Be brief." in sent["messages"][0]["content"]
    assert (sent["temperature"], sent["seed"]) == (0.5, 7)

    plain = client.chat.completions.create(model="penstock", messages=asked[:1])
    assert plain.choices[0].message.content == "It leaves at nine. [1]"

    def until_refused() -> None:
        for _ in range(20):
            client.chat.completions.create(model="penstock", messages=asked, tools=[TOOL])

    with pytest.raises(openai.RateLimitError, match="holds no further call") as refused:
        until_refused()
    assert refused.value.code == "insufficient_quota"

    metrics = httpx2.get(f"{found[0].rstrip(';')}/metrics", trust_env=False)
    assert 'penstock_model_breaker_state{model="claude"} 2.0' in metrics.text
    assert 'penstock_model_fallbacks_total{model="claude"}' in metrics.text
    client.close()
    running.signal().end()
    assert KEY not in running.output + running.errors

    costs = home.run("costs", "--by", "key", "--json").json
    [line] = [line for line in costs["lines"] if line["key"] == id_of(token["token"])]
    assert line["cost"] == pytest.approx(0.002 * (line["requests"] - line["failed"]))
    assert 0.01 < line["cost"] <= 0.03
    by_model = home.run("costs").output
    assert all(word in by_model for word in ("claude", "writer", "total"))
    assert "new" not in by_model


def test_a_person_decides_on_a_canary(home: Home, database_url: str) -> None:
    """What is decided is recorded, and shown with how both sides do."""
    home.write(
        f'project: home\ndatabase: "{database_url}"\nserver: {{port: 0}}\n'
        f"models:\n  writer: {{type: chat, model: m, api_key: {KEY}}}\n"
        f"  new: {{type: chat, model: m2, api_key: {KEY}}}\n"
        "knowledge: {embedder: constant}\n"
        "answers:\n  generator: {type: gateway, chain: [writer], canary: {model: new}}\n"
        "sources:\n  documents: {type: files, path: ./documents}\n"
    )
    home.documents.mkdir(exist_ok=True)
    standing = home.run("models", "canary", "status", "--json").json
    assert (standing["state"], standing["requests"]) == ("running", 0)
    refusal = home.run("models", "canary", "promote")
    assert "expected at least 20 requests to new" in refusal.sentence(2)
    promoted = home.run("models", "canary", "promote", "--force", "--json").json
    assert (promoted["state"], promoted["share"]) == ("promoted", 1.0)
    assert home.run("models", "canary", "rollback", "--json").json["share"] == 0.0
    standing = home.run("models", "canary", "status", "--json").json
    assert [event["state"] for event in standing["events"]] == ["rolled back", "promoted"]
    assert (standing["judged"], standing["quality"]) == (0, None)


def test_g8_a_completion_with_tools_is_kept_and_asked_again(
    home: Home, database_url: str, endpoint: ThreadedEndpoint
) -> None:
    """With the conversation, the calls, the model and its parameters."""
    endpoint.fake.reacts = models
    home.documents.mkdir(exist_ok=True)
    (home.documents / "ferry.md").write_text("The ferry leaves at nine.")
    home.write(
        f'project: home\ndatabase: "{database_url}"\nserver: {{port: 0}}\n'
        f"models:\n  writer: {{type: chat, model: m, api_key: {KEY}, "
        f"base_url: {endpoint.base_url}, max_tokens: 100}}\n"
        "knowledge: {embedder: constant}\nanswers: {generator: {type: gateway, chain: [writer]}}\n"
        "sources:\n  documents: {type: files, path: ./documents, heartbeat: 0.1}\n"
    )
    running = home.start("run").wait_for("everything is in step")
    found = re.search(r"http://\S+", running.output)
    assert found is not None
    token = home.run("keys", "create", "test", "--json").json["token"]
    client = openai.OpenAI(base_url=f"{found[0].rstrip(';')}/v1", api_key=token, max_retries=0)
    asked: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": QUESTION},
    ]
    done = client.chat.completions.create(
        model="penstock", messages=asked, tools=[TOOL], temperature=0.5, seed=7
    )
    name = penstock_of(done)["id"]
    kept = home.run("answers", "show", name, "--json").json
    assert kept["content"]["conversation"]["messages"][0]["text"] == "Be brief."
    assert kept["content"]["conversation"]["tools"][0]["name"] == "book"
    assert kept["content"]["calls"] == [
        {"id": "t1", "name": "book", "arguments": '{"seat": "7"}'},
    ]  # fmt: skip
    assert kept["facts"]["author"]["name"] == "writer"
    assert kept["facts"]["author"]["model"] == "m-1"
    parameters = kept["facts"]["parameters"]
    assert parameters["models"]["writer"]["max_tokens"] == 100
    assert parameters["asked"] == {"temperature": 0.5, "seed": 7}
    assert KEY not in json.dumps(kept)
    look: list[Any] = [
        {"role": "user", "content": [
            {"type": "text", "text": QUESTION},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        ]},
    ]  # fmt: skip
    seen = client.chat.completions.create(
        model="penstock", messages=look, service_tier="flex",
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    )  # fmt: skip
    assert json.loads(seen.choices[0].message.content or "")["statements"][0]["items"] == [1]
    sent = endpoint.fake.requests[-1].body
    assert sent["response_format"]["json_schema"]["schema"] == SCHEMA
    assert sent["messages"][-1]["content"][1]["image_url"]["url"] == "data:image/png;base64,AAAA"
    again = home.run("answers", "replay", name, "--json").json
    assert (again["same"], again["calls"]["is"][0]["name"]) == (True, "book")
    client.close()
    running.signal().end()


def test_a_single_model_of_anthropics_answers(
    home: Home, database_url: str, endpoint: ThreadedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key from the environment, its price from the list."""
    said = {"statements": [{"text": "It leaves at nine.", "items": [1]}]}
    tools = [("t", "written", [orjson.dumps(said).decode()])]
    endpoint.fake.reacts = lambda _: anthropic(stop="tool_use", tools=tools, read=100, written=50)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    home.documents.mkdir(exist_ok=True)
    (home.documents / "ferry.md").write_text("The ferry leaves at nine.")
    home.write(
        f'project: home\ndatabase: "{database_url}"\nserver: {{port: 0}}\n'
        f"models:\n  claude: {{type: anthropic, model: claude-sonnet-4-5, "
        f"base_url: {endpoint.base_url}}}\n"
        "knowledge: {embedder: constant}\nanswers: {generator: claude}\n"
        "sources:\n  documents: {type: files, path: ./documents, heartbeat: 0.1}\n"
    )
    running = home.start("run")
    running.wait_for("everything is in step")
    found = home.run("ask", QUESTION, "--json").json
    assert found["text"] == "It leaves at nine. [1]"
    assert found["generator"] == "anthropic/claude-sonnet-4-5"
    assert found["usage"]["cost"] == pytest.approx((100 * 3 + 50 * 15) / 1e6)
    assert endpoint.fake.requests[-1].headers["x-api-key"] == KEY
    running.signal().end()
    [line] = home.run("costs", "--json").json["lines"]
    assert (line["model"], line["requests"]) == ("anthropic/claude-sonnet-4-5", 1)
