"""The API of a running project, as applications call it: OpenAI's own client, and plain HTTP."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx2
import openai
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import TextResourceContents
from tests.acceptance.conftest import Home

POLICY = """# Cancellation

A flight can be cancelled free of charge until 24 hours before departure.

# Luggage

Each traveller may take one bag of 23 kilograms.
"""
SECRET = "# Salaries\n\nThe pilot Amelia earns 9000 euros a month.\n"
CANCEL = "Until when can a flight be cancelled free of charge?"


class Served:
    """A project that runs, its address, and a key."""

    def __init__(self, home: Home, database: str) -> None:
        self.home = home
        files = "{type: files, path: ./documents, heartbeat: 0.1, permissions: sidecars}"
        home.project(database, f"  documents: {files}\n")
        (home.documents / "policy.md").write_text(POLICY, encoding="utf-8")
        (home.documents / "hr").mkdir()
        (home.documents / "hr" / "salaries.md").write_text(SECRET, encoding="utf-8")
        (home.documents / "hr.acl.yaml").write_text("allow: [user:ada]\n", encoding="utf-8")
        (home.documents / "policy.md.acl.yaml").write_text("allow: [everyone]\n", encoding="utf-8")
        self.program = home.start("run")
        self.program.wait_for("everything is in step")
        found = re.search(r"http://\S+", self.program.output)
        assert found is not None
        self.address = found[0].rstrip(";")

    def key(self, *more: str) -> str:
        ended = self.home.run("keys", "create", "test", "--json", *more)
        return str(ended.json["token"])

    def client(self, key: str | None = None, **headers: str) -> httpx2.Client:
        authorization = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx2.Client(
            base_url=self.address, headers={**authorization, **headers}, trust_env=False
        )


@pytest.fixture
def served(home: Home, database_url: str) -> Iterator[Served]:
    made = Served(home, database_url)
    yield made
    home.close()


def test_openais_client_asks_and_gets_cited_answers(served: Served) -> None:
    """Its examples, with another base_url: models, a completion whole and streamed, embeddings, a
    search in a vector store; what it refuses is its own kind of error."""
    key = served.key("--scope", "ask", "--scope", "embed")
    client = openai.OpenAI(base_url=f"{served.address}/v1", api_key=key, max_retries=0)
    names = [model.id for model in client.models.list()]
    assert names[0] == "penstock"
    asked: list[Any] = [{"role": "user", "content": CANCEL}]
    whole = client.chat.completions.create(model="penstock", messages=asked)
    message = whole.choices[0].message
    assert message.content is not None
    assert "24 hours before departure" in message.content
    assert message.annotations is not None
    cited = message.annotations[0].url_citation
    assert cited.url == "penstock://documents/policy.md"
    assert message.content[cited.start_index : cited.end_index] == "[1]"
    assert whole.model_extra is not None
    told = whole.model_extra["penstock"]
    assert told["citations"][0]["quote"] in POLICY
    assert told["sources"][0]["age_ms"] >= 0
    assert whole.usage is not None
    assert whole.usage.total_tokens > 0
    pieces = list(
        client.chat.completions.create(
            model="penstock", messages=asked, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert text == message.content
    assert pieces[-1].usage == whole.usage
    vectors = client.embeddings.create(model=names[1], input=["one", "two"])
    assert len(vectors.data) == 2
    assert len(vectors.data[0].embedding) == 384
    found = client.vector_stores.search("documents", query="luggage of a traveller")
    assert found.data[0].filename == "policy.md"
    with pytest.raises(openai.NotFoundError, match="expected a model that /v1/models lists"):
        client.chat.completions.create(model="gpt", messages=asked)
    with pytest.raises(openai.AuthenticationError, match="expected a valid key"):
        client.with_options(api_key="psk_nonsense").models.list()


def test_g7_who_asks_is_known_by_the_key_and_its_users(served: Served) -> None:
    """A key sees what its principal may; only one that may act as users can name another."""
    question = {"question": "How much does the pilot Amelia earn?", "limit": 10}

    def keys_found(client: httpx2.Client) -> set[str]:
        with client:
            answer = client.post("/v1/context", json=question)
        assert answer.status_code == 200, answer.text
        return {passage["key"] for passage in answer.json()["passages"]}

    plain, ada, trusted = (
        served.key(),
        served.key("--user", "ada"),
        served.key("-s", "ask", "-s", "act-as"),
    )
    assert "hr/salaries.md" not in keys_found(served.client(plain))
    assert "hr/salaries.md" in keys_found(served.client(ada))
    assert "hr/salaries.md" in keys_found(served.client(trusted, **{"Penstock-User": "ada"}))
    assert "hr/salaries.md" not in keys_found(served.client(trusted, **{"Penstock-User": "bob"}))
    with served.client(plain, **{"Penstock-User": "ada"}) as client:
        refused = client.post("/v1/context", json=question)
    assert refused.status_code == 403
    assert refused.headers["content-type"] == "application/problem+json"
    assert "act-as" in refused.json()["detail"]


def test_a_revoked_key_opens_nothing_within_a_second(served: Served) -> None:
    """The process that serves remembers a key for half a second at most."""
    key = served.key()
    with served.client(key) as client:
        assert client.get("/v1/models").status_code == 200
        listed = served.home.run("keys", "list", "--json").json
        assert key not in json.dumps(listed)
        served.home.run("keys", "revoke", listed[0]["key"]).sentence(0)
        served.program.look(0.6)
        assert client.get("/v1/models").status_code == 401
    assert "expected the name of a key" in served.home.run("keys", "revoke", "abc").sentence(2)


def test_answers_and_searches_over_plain_http(served: Served) -> None:
    """Penstock's own routes; a stream ends with the whole answer."""
    with served.client(served.key()) as client:
        answer = client.post("/v1/answer", json={"question": CANCEL}).json()
        assert answer["citations"][0]["key"] == "policy.md"
        with client.stream("POST", "/v1/answer", json={"question": CANCEL, "stream": True}) as told:
            lines = [line for line in told.iter_lines() if line]
        assert lines[-2] == "event: answer"
        assert json.loads(lines[-1].removeprefix("data: "))["text"] == answer["text"]
        found = client.post("/v1/search", json={"question": "luggage", "limit": 3}).json()
        assert found["results"][0]["kind"] == "passage"
        only = {"question": "luggage", "where": {"path": "nothing/*"}}
        assert client.post("/v1/search", json=only).json()["results"] == []


async def _walk(client: Client) -> dict[str, Any]:
    """What an assistant does: find, read, ask."""
    async with client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"search", "fetch", "ask", "get_profile", "query_table"}
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools.values())
        found = await client.call_tool("search", {"query": "the pilot Amelia's salary, luggage"})
        assert found.structured_content is not None
        results = found.structured_content["results"]
        read = await client.call_tool("fetch", {"id": results[0]["id"]})
        assert read.structured_content is not None
        answered = await client.call_tool("ask", {"question": CANCEL})
        templates = (await client.list_resource_templates()).resource_templates
        assert {template.uri_template for template in templates} == {
            "profile://{kind}/{who}",
            "document://{source}/{key}",
        }
        name = quote(results[0]["url"].partition("//documents/")[2], safe="")
        whole = await client.read_resource(f"document://documents/{name}")
        [part] = whole.contents
        assert isinstance(part, TextResourceContents)
        document = json.loads(part.text)
        assert document["text"] == read.structured_content["text"]
        with pytest.raises(MCPError, match="expected a document that you may see"):
            await client.read_resource("document://documents/nothing.md")
        missing = await client.call_tool("fetch", {"id": "documents/nothing.md"})
        assert missing.is_error
        assert answered.structured_content is not None
        return {
            "found": {result["url"] for result in results},
            "read": read.structured_content,
            "answered": answered.structured_content,
        }


async def test_the_official_mcp_client_finds_reads_and_asks(served: Served) -> None:
    """Over standard input and output as a user, and over HTTP with a key."""
    arguments = ["-m", "penstock", "mcp", "--as", "ada", "-f", str(served.home.file)]
    local = await _walk(Client(StdioServerParameters(command=sys.executable, args=arguments)))
    assert "penstock://documents/hr/salaries.md" in local["found"]
    assert "24 hours before departure" in local["answered"]["text"]
    assert local["read"]["text"] in (POLICY.strip(), SECRET.strip())
    async with httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {served.key()}"}, trust_env=False
    ) as http:
        transport = streamable_http_client(f"{served.address}/mcp", http_client=http)
        remote = await _walk(Client(transport))
    assert remote["found"] == {"penstock://documents/policy.md"}
    assert remote["read"]["text"] == POLICY.strip()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 422, "JSON"),
        (b"[" * 100_000, 400, "expected a body of JSON"),
        (b'{"question": ""}', 422, "question: "),
        (b'{"question": "x", "limit": -1}', 422, "limit: "),
        (b'{"question": "x", "limit": 1e9}', 422, "limit: "),
        (b'{"question": "x", "surprise": 1}', 422, "surprise: "),
        (b'{"question": "x", "where": {"metadata": {"nonsense": 1}}}', 400, "nonsense"),
        (b'{"question": "\\u0000"}', 400, "expected a question"),
        (b'{"question": "' + b"x" * 5_000_000 + b'"}', 413, "at most 4,000,000 bytes"),
    ],
)
def test_bad_input_is_told_in_a_sentence(
    served: Served, body: bytes, status: int, said: str
) -> None:
    """Problem details, whatever comes; and the next request is answered."""
    with served.client(served.key()) as client:
        refused = client.post(
            "/v1/context", content=body, headers={"Content-Type": "application/json"}
        )
        assert (refused.status_code, said in refused.json()["detail"]) == (status, True), (
            refused.text
        )
        assert client.post("/v1/context", json={"question": "luggage"}).status_code == 200


def test_openais_client_gets_responses(served: Served) -> None:
    """Their examples: whole, from a conversation, with a file search and its results, streamed."""
    client = openai.OpenAI(base_url=f"{served.address}/v1", api_key=served.key(), max_retries=0)
    whole = client.responses.create(model="penstock", input=CANCEL)
    assert "24 hours before departure" in whole.output_text
    [said] = whole.output
    assert said.type == "message"
    [part] = said.content
    assert part.type == "output_text"
    mark = part.annotations[0]
    assert mark.type == "url_citation"
    assert mark.url == "penstock://documents/policy.md"
    assert part.text[mark.start_index : mark.end_index] == "[1]"
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    assert whole.model_extra is not None
    assert whole.model_extra["penstock"]["sources"][0]["age_ms"] >= 0
    conversation: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": CANCEL}]},
    ]
    search: Any = {"type": "file_search", "vector_store_ids": ["documents"]}
    found = client.responses.create(
        model="penstock",
        input=conversation,
        tools=[search],
        include=["file_search_call.results"],
    )
    searched, said = found.output
    assert searched.type == "file_search_call"
    assert searched.results is not None
    assert searched.results[0].filename == "policy.md"
    assert searched.results[0].text is not None
    assert said.type == "message"
    assert {mark.type for mark in said.content[0].annotations} == {  # type: ignore[union-attr]
        "url_citation", "file_citation",
    }  # fmt: skip
    with client.responses.stream(model="penstock", input=CANCEL, tools=[search]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert {"response.file_search_call.completed", "response.output_text.delta",
            "response.output_text.annotation.added"} <= set(kinds)  # fmt: skip
    assert final.output_text == whole.output_text


def test_what_a_response_cannot_be_is_refused_in_openais_form(served: Served) -> None:
    """Plainly, with what to do instead."""
    client: Any = openai.OpenAI(
        base_url=f"{served.address}/v1", api_key=served.key(), max_retries=0
    )
    function = {"type": "function", "name": "pay", "parameters": {}}
    for more, said in (
        ({"previous_response_id": "resp_1"}, "send the conversation as `input`"),
        ({"tools": [function]}, "only file_search can be used, got function"),
        ({"background": True}, "a response comes at once"),
        ({"text": {"format": {"type": "json_object"}}}, "answers are text with citations"),
    ):
        with pytest.raises(openai.BadRequestError, match=said):
            client.responses.create(model="penstock", input=CANCEL, **more)
    with pytest.raises(openai.NotFoundError, match="or one of its sources"):
        client.responses.create(
            model="penstock",
            input=CANCEL,
            tools=[{"type": "file_search", "vector_store_ids": ["other"]}],
        )
