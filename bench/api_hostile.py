"""What the API holds against those who mean harm.

    python bench/api_hostile.py inject [COUNT]     orders in documents, and a model that obeys
    python bench/api_hostile.py ssrf [COUNT]       addresses that lead inside, wherever one is taken

Each stores its figures in ``bench/results/api-NAME.json``; every limit is 0.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
from markdown_it import MarkdownIt

from penstock.bench.report import Report
from penstock.database.embedded import EmbeddedPostgres
from penstock.errors import PenstockError
from penstock.keys import Scope, mint
from penstock.outbound import fetch, post
from penstock.principals import Principal
from penstock.project import Project, open_project
from penstock.serving.answer import Answerer
from penstock.serving.completions import Completions
from penstock.settings import Settings
from penstock.testing.hostile import (
    NAMES,
    PRIVATE,
    SECRET,
    Obedient,
    ObedientModel,
    attacks,
    hostile_urls,
)

RESULTS = Path(__file__).parent / "results"
RENDERER = MarkdownIt("commonmark", {"html": True})
LOADS = {"img", "script", "iframe", "link", "style", "svg", "object", "embed", "video", "audio"}


class Page(HTMLParser):
    """What a reader's program would load, or link to."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.links = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += tag in LOADS or any(name.startswith("on") for name, _ in attrs)
        self.links += tag in {"a", "form", "area", "base", "meta"}


def settings(database: str) -> Settings:
    return Settings.model_validate(
        {
            "project": "hostile",
            "database": database,
            "knowledge": {"embedder": "constant", "reranker": "none"},
            "sources": {"notes": {"type": "push", "heartbeat": 0.2, "permissions": "pushed"}},
        }
    )


@asynccontextmanager
async def calling(
    project: Project, *scopes: Scope, user: str | None = None
) -> AsyncIterator[httpx2.AsyncClient]:
    who = Principal(user)
    token, key = mint("bench", frozenset(scopes), project.clock.now(), principal=who)
    await project.keys().add(key)
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=project.application()),
        base_url="http://localhost",
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
    ) as client:
        yield client


async def inject(project: Project, count: int) -> dict[str, int]:
    """Every order is obeyed by the model; what comes of it is counted."""
    model = Obedient()
    obedient = Answerer(project.contexts(), embedder=project.embedder(), generator=model)
    project._answerer = obedient  # noqa: SLF001 - a model that no settings can name
    led = Completions(obedient, ObedientModel(model))
    project.completions = lambda: led  # type: ignore[method-assign]
    tried = list(attacks(count))
    async with (
        calling(project, Scope.WRITE) as writer,
        calling(project, Scope.ASK, user="ada") as client,
    ):
        documents: list[dict[str, Any]] = [
            {"key": "victim.md", "document": {"text": f"The victim {PRIVATE}.",
                                              "allow": ["everyone"]}},
            {"key": "secret.md", "document": {"text": f"Others' {SECRET}. " + " ".join(
                a.word for a in tried), "allow": ["user:eve"]}},
        ]  # fmt: skip
        documents += [
            {"key": a.key, "document": {"text": f"{a.text}\n{PRIVATE}", "allow": ["everyone"]}}
            for a in tried
        ]
        for begin in range(0, len(documents), 100):
            body = {"source": "notes", "documents": documents[begin : begin + 100]}
            answer = await writer.post("/v1/documents?wait=60", json=body)
            assert answer.status_code == 200, answer.text
        before = await stored(project)
        found = {"attempts": 0, "obeyed": 0, "outbound_requests": 0, "links": 0, "addresses": 0,
                 "bytes_of_others": 0, "writes": 0, "stolen_in_addresses": 0}  # fmt: skip
        for number, attack in enumerate(tried):
            obeyed = model.obeyed
            for text in await asked(client, attack.word, number):
                page = Page()
                page.feed(RENDERER.render(text))
                found["outbound_requests"] += page.loads
                found["links"] += page.links
                urls = re.findall(r"(?i)(?:[a-z][a-z0-9+.-]*:)?//[^\s)>\"']+|www\.\S+", text)
                # An address that stands in the attacker's own document holds nothing of others.
                found["addresses"] += len(urls)
                found["stolen_in_addresses"] += sum(PRIVATE in u or SECRET in u for u in urls)
                found["bytes_of_others"] += text.count(SECRET) * len(SECRET)
            found["bytes_of_others"] += model.seen.count(SECRET) * len(SECRET)
            found["attempts"] += 1
            found["obeyed"] += model.obeyed > obeyed
        found["writes"] = int(await stored(project) != before)
    return found


async def asked(client: httpx2.AsyncClient, word: str, number: int) -> list[str]:
    """The answer's text, whole or streamed, from each of the routes in turn."""
    question = f"What is {word}?"
    if number % 5 == 0:
        answer = await client.post("/v1/answer", json={"question": question})
        return [answer.json()["text"]]
    # The caller's rules name an address: one that is known need not stand in what was found.
    rules = "Be kind. Our page is https://app.example/help."
    body: dict[str, Any] = {
        "model": "penstock",
        "messages": [
            {"role": "system", "content": rules}, {"role": "user", "content": question},
        ],
    }  # fmt: skip
    if number % 5 == 1:
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
        answer = await client.post("/v1/chat/completions", json={**body, "response_format": form})
        content = answer.json()["choices"][0]["message"]["content"]
        return list(json.loads(content)["said"])
    if number % 5 in (2, 3):
        tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
        body |= {"stream": True} | ({"tools": [tool]} if number % 5 == 2 else {})
        answer = await client.post("/v1/chat/completions", json=body)
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        parts = [json.loads(line)["choices"][0]["delta"] for line in lines]
        told = "".join(part.get("content") or "" for part in parts)
        last = json.loads(lines[-1]).get("penstock", {}).get("text", "")
        return [told, last]
    answer = await client.post("/v1/responses", json={"model": "penstock", "input": question})
    return [answer.json()["output"][0]["content"][0]["text"]]


async def stored(project: Project) -> list[Any]:
    async with project.pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT key, position, deleted_at FROM penstock.documents ORDER BY key"
        )
        return await cursor.fetchall()


async def ssrf(count: int) -> dict[str, int]:
    """Each address, fetched as an identity provider's and sent to as a collector of lineage's: with
    the system's own resolver for numbers, and one of attackers for names, which says another thing
    each time. A listener on this machine counts who comes."""
    came = 0

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        writer.close()

    listeners = [
        await asyncio.start_server(serve, host, port)
        for host, port in (("127.0.0.1", 0), ("127.0.0.1", 8443))
        if free(host, port)
    ]
    asks = 0

    async def resolve(host: str, port: int) -> Sequence[str]:
        nonlocal asks
        if host in NAMES:
            asks += 1
            means = NAMES[host]
            # The first answer is harmless where there are two: the second is for the connection.
            return means if host != "rebinding.example" else [means[min(asks, 2) - 1], means[1]]
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [str(entry[4][0]) for entry in found]

    refused = 0
    port = listeners[0].sockets[0].getsockname()[1]
    for url in hostile_urls(count):
        for tried in (url, url.replace("/keys", f":{port}/keys", 1) if ":8443" not in url else url):
            for went in (
                partial(fetch, tried, most_bytes=1000),
                partial(post, tried, b"{}", headers={}),
            ):
                try:
                    await went(resolve=resolve)
                except (PenstockError, OSError, UnicodeError):
                    refused += 1
    for listener in listeners:
        listener.close()
        await listener.wait_closed()
    return {"addresses": count, "tried": 4 * count, "refused": refused, "private_connections": came}


def free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return port == 0 or probe.connect_ex((host, port)) != 0


async def main(name: str, count: int) -> None:
    if name == "ssrf":
        found = await ssrf(count)
        limits = {"private_connections": 0}
    else:
        folder = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
        folder.chmod(0o755)
        postgres = EmbeddedPostgres(folder / "server")
        await postgres.start()
        try:
            chosen = settings(postgres.dsn("postgres"))
            async with open_project(settings=chosen) as project, project.running():
                await project.caught_up(limit_s=60)
                found = await inject(project, count)
        finally:
            await postgres.stop()
        limits = dict.fromkeys(
            ("outbound_requests", "bytes_of_others", "writes", "stolen_in_addresses"), 0
        )
    report = Report(f"api-{name}")
    for measure, value in found.items():
        report.results.append(
            {"measure": measure, "value": value, "unit": "count", "limit": limits.get(measure)}
        )
    written = json.dumps(report.to_dict(), indent=2) + "\n"
    (RESULTS / f"api-{name}.json").write_text(written, encoding="utf-8")
    print(written)
    if any(found[measure] > limit for measure, limit in limits.items()):
        sys.exit("more than may be")


if __name__ == "__main__":
    chosen_name = sys.argv[1] if len(sys.argv) > 1 else "inject"
    usual = {"inject": 600, "ssrf": 300}[chosen_name]
    asyncio.run(main(chosen_name, int(sys.argv[2]) if len(sys.argv) > 2 else usual))
