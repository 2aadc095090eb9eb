"""Documents that an application pushes, replaces and deletes, and reads at once."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from penstock.keys import Scope, mint
from penstock.principals import Principal
from penstock.project import Project, open_project
from penstock.settings import Settings

MARKDOWN = {"Content-Type": "text/markdown"}


def settings(folder: Path, database: str, **more: Any) -> Settings:
    return Settings.model_validate(
        {
            "project": "pushed",
            "database": database,
            "data": str(folder / "data"),
            "knowledge": {"embedder": "constant", "reranker": "none"},
            "sources": {
                "notes": {"type": "push", "heartbeat": 0.05, **more},
                "files": {"type": "files", "path": str(folder)},
            },
        }
    )


@asynccontextmanager
async def running(chosen: Settings) -> AsyncIterator[Project]:
    async with open_project(settings=chosen) as project, project.running():
        await project.caught_up(limit_s=30)
        yield project


@pytest.fixture
async def project(tmp_path: Path, database_url: str) -> AsyncIterator[Project]:
    async with running(settings(tmp_path, database_url)) as opened:
        yield opened


@asynccontextmanager
async def calling(
    project: Project, *scopes: Scope, principal: Principal | None = None
) -> AsyncIterator[httpx2.AsyncClient]:
    wanted = frozenset(scopes or {Scope.ASK, Scope.WRITE})
    token, key = mint("test", wanted, project.clock.now(), principal=principal)
    await project.keys().add(key)
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=project.application()),
        base_url="http://localhost",
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    ) as client:
        yield client


async def found(client: httpx2.AsyncClient, question: str, **more: Any) -> set[str]:
    answer = await client.post(
        "/v1/context", json={"question": question, "mode": "text", "limit": 20, **more}
    )
    assert answer.status_code == 200, answer.text
    return {passage["key"] for passage in answer.json()["passages"]}


async def test_g6_what_was_written_is_read_at_once(project: Project) -> None:
    """Pushed, replaced, deleted: each answer comes when the next question sees it."""
    async with calling(project) as client:
        for number in range(5):
            word = f"zebra{number}"
            answer = await client.put(
                "/v1/documents/notes/animals/a.md", content=f"# A {word}\n\nIt eats.",
                headers=MARKDOWN,
            )  # fmt: skip
            assert answer.status_code == 200, answer.text
            assert answer.json()["searchable"] is True
            assert await found(client, word) == {"animals/a.md"}
            if number:
                assert await found(client, f"zebra{number - 1}") == set()
        answer = await client.delete("/v1/documents/notes/animals/a.md")
        assert answer.status_code == 200
        assert await found(client, "zebra4") == set()
        assert (await client.get("/v1/documents/notes/animals/a.md")).status_code == 404


async def test_a_position_stands_for_what_was_written(project: Project) -> None:
    """Without waiting it is 202, and a question that names the position comes after it."""
    async with calling(project) as client:
        for number in range(5):
            word = f"yak{number}"
            answer = await client.put(
                f"/v1/documents/notes/{word}.md?wait=0", content=word, headers=MARKDOWN
            )
            assert answer.status_code in {200, 202}
            position = answer.json()["position"]
            assert await found(client, word, after=position) == {f"{word}.md"}
        for wrong in ("x", "notes@", "notes@99999999999999999", ["notes@1", "; DROP"]):
            answer = await client.post("/v1/context", json={"question": "yak", "after": wrong})
            assert answer.status_code == 400, wrong
            assert "a position that a write has given" in answer.json()["detail"]


async def test_several_documents_are_taken_together(project: Project) -> None:
    """In JSON, with bytes in base64; all or none."""
    page = base64.b64encode(b"<h1>Gnu</h1><p>A gnu grazes.</p>").decode()
    documents = [
        {"key": "one.md", "document": {"text": "an okapi", "metadata": {"kind": "okapi"}}},
        {"key": "two", "document": {"content": page, "media_type": "text/html"}},
    ]
    async with calling(project) as client:
        body: dict[str, Any] = {"source": "notes", "documents": documents}
        answer = await client.post("/v1/documents", json=body)
        assert answer.status_code == 200, answer.text
        assert await found(client, "okapi", where={"metadata": {"kind": "okapi"}}) == {"one.md"}
        assert await found(client, "gnu grazes") == {"two"}
        broken = {"key": "x", "document": {"content": page, "media_type": "application/zip"}}
        body["documents"] = [{"key": "one.md", "op": "delete"}, broken]
        answer = await client.post("/v1/documents", json=body)
        assert answer.status_code == 422
        assert "a media type that can be read" in answer.json()["detail"]
        assert await found(client, "okapi") == {"one.md"}


async def test_g2_an_idempotency_key_counts_once(project: Project) -> None:
    """Sent again it is answered as before and changes nothing; with something else it is refused;
    of another API key it is another."""
    once = {"Idempotency-Key": "order-1", **MARKDOWN}
    async with calling(project) as client, calling(project) as other:
        path = "/v1/documents/notes/gaur.md"
        first = await client.put(path, content="a gaur", headers=once)
        assert (first.status_code, first.headers.get("idempotent-replayed")) == (200, None)
        await client.put(path, content="a mithun", headers=MARKDOWN)
        again = await client.put(path, content="a gaur", headers=once)
        assert again.status_code == 200
        assert again.headers["idempotent-replayed"] == "true"
        assert again.json()["position"] == first.json()["position"]
        assert await found(client, "gaur") == set()
        reused = await client.put(path, content="an aurochs", headers=once)
        assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")
        assert reused.headers["content-type"] == "application/problem+json"
        theirs = await other.put(path, content="an aurochs", headers=once)
        assert (theirs.status_code, theirs.headers.get("idempotent-replayed")) == (200, None)
        assert await found(client, "aurochs") == {"gaur.md"}


async def test_g2_an_idempotency_key_outlives_the_process(
    tmp_path: Path, database_url: str
) -> None:
    """It is stored with the changes."""
    chosen = settings(tmp_path, database_url)
    once = {"Idempotency-Key": "order-1", **MARKDOWN}
    token = ""
    positions = []
    for _ in range(2):
        async with running(chosen) as project:
            if not token:
                token, key = mint("t", frozenset({Scope.WRITE}), project.clock.now())
                await project.keys().add(key)
            async with httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app=project.application()),
                base_url="http://localhost",
                headers={"Authorization": f"Bearer {token}"},
            ) as client:
                path = "/v1/documents/notes/gaur.md"
                answer = await client.put(path, content="a gaur", headers=once)
                positions.append(answer.json()["position"])
                reused = await client.put(path, content="another", headers=once)
                assert reused.status_code == 422
    assert positions[0] == positions[1]


async def test_g7_pushed_lists_say_who_may_see(tmp_path: Path, database_url: str) -> None:
    """Each with its own, exactly as written; one that says nothing is nobody's."""
    chosen = settings(tmp_path, database_url, permissions="pushed")
    async with running(chosen) as project, calling(project) as writer:
        for key, more in (
            ("ada.md", {"allow": ["user:ada"]}),
            ("all.md", {"allow": ["everyone"], "deny": ["user:bob smith, esq"]}),
            ("none.md", {}),
        ):
            document = {"text": f"the kudu of {key}", **more}
            answer = await writer.put(f"/v1/documents/notes/{key}", json=document)
            assert answer.status_code == 200, answer.text
        for user, expected in (
            ("ada", {"ada.md", "all.md"}),
            ("bob smith, esq", set()),
            (None, {"all.md"}),
        ):
            async with calling(project, Scope.ASK, principal=Principal(user)) as client:
                assert await found(client, "kudu") == expected, user
        await writer.put(
            "/v1/documents/notes/ada.md?allow=user:eve", content="the kudu", headers=MARKDOWN
        )
        async with calling(project, Scope.ASK, principal=Principal("ada")) as client:
            assert await found(client, "kudu") == {"all.md"}
        answer = await writer.put("/v1/documents/notes/x.md", json={"text": "x", "allow": ["ada"]})
        assert answer.status_code == 422
        assert "expected user:NAME, group:NAME or everyone" in answer.json()["detail"]


async def test_what_cannot_be_pushed_is_refused_with_a_sentence(project: Project) -> None:
    """And nothing of it is stored."""
    big = {"text": "x", "metadata": {"a": "\x00"}}
    async with calling(project) as client:
        for method, path, body, headers, status, said in (
            ("PUT", "notes/x", b"x", {"Content-Type": "image/x-none"}, 422, "media type"),
            ("PUT", "notes/x", b"{", {"Content-Type": "application/json"}, 422, "JSON"),
            ("PUT", "notes/x", b"{}", {"Content-Type": "application/json"}, 422, "`text`"),
            ("PUT", "notes/x", b"\x00\x01\xff", {"Content-Type": "application/pdf"}, 422, "PDF"),
            ("PUT", "notes/%00", b"x", MARKDOWN, 422, "control"),
            ("PUT", "notes/x?allow=user:ada", b"x", MARKDOWN, 422, "permissions: pushed"),
            ("PUT", "notes/x", json.dumps(big).encode(), {"Content-Type": "application/json"}, 422,
             "NUL"),
            ("PUT", "notes/x", b'{"text": "\\ud800"}', {"Content-Type": "application/json"}, 422,
             ""),
            ("PUT", "notes/x?wait=nan", b"x", MARKDOWN, 422, ""),
            ("PUT", "notes/x?wait=-1", b"x", MARKDOWN, 422, "greater"),
            ("PUT", "files/x", b"x", MARKDOWN, 405, "of the type push"),
            ("PUT", "none/x", b"x", MARKDOWN, 404, "a source of the project"),
            ("DELETE", "files/x", b"", {}, 405, "of the type push"),
            ("PUT", "notes/x", b"x", {**MARKDOWN, "Idempotency-Key": "a b"}, 400, "Idempotency"),
        ):  # fmt: skip
            answer = await client.request(
                method, f"/v1/documents/{path}", content=body, headers=headers
            )
            assert answer.status_code == status, (path, body, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert said in answer.json()["detail"], answer.text
        assert await found(client, "x") == set()
    async with calling(project, Scope.ASK) as reader:
        answer = await reader.put("/v1/documents/notes/x", content=b"x", headers=MARKDOWN)
        assert answer.status_code == 403
