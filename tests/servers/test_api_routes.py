"""Every route of the API, with every kind of caller: nobody gets further than the route says.

The routes are those that the application has: a new one is walked without being named here.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI

from penstock.keys import ApiKey, Scope, mint
from penstock.principals import Principal
from penstock.project import Project, open_project
from penstock.records import Microseconds
from penstock.serving.api.access import policies
from penstock.settings import Settings

BODIES: Mapping[str, Any] = {
    "/v1/context": {"question": "luggage"},
    "/v1/search": {"question": "luggage"},
    "/v1/answer": {"question": "luggage"},
    "/v1/chat/completions": {
        "model": "penstock",
        "messages": [{"role": "user", "content": "luggage"}],
    },
    "/v1/feedback": {"answer": "ans_none", "rating": 1},
    "/v1/sessions/{session}/forms/{form}": {},
    "/v1/interactions": {"question": "luggage", "answer": "one bag"},
    "/v1/embeddings": {"model": "penstock", "input": "luggage"},
    "/v1/vector_stores/{store}/search": {"query": "luggage"},
    "/v1/responses": {"model": "penstock", "input": "luggage"},
    "/v1/documents": {"source": "documents", "documents": [{"key": "x", "op": "delete"}]},
    "/v1/documents/{source}/{key:path}": {"text": "luggage"},
}
OPEN_ROUTES = {"/healthz", "/readyz", "/metrics", "/openapi.json"}


@pytest.fixture
async def project(database_url: str, tmp_path: Path) -> AsyncIterator[Project]:
    (tmp_path / "documents").mkdir()
    settings = Settings.model_validate(
        {
            "project": "walk",
            "database": database_url,
            "knowledge": {"embedder": "constant"},
            "sources": {"documents": {"type": "files", "path": str(tmp_path / "documents")}},
        }
    )
    async with open_project(settings=settings) as opened:
        yield opened


def routes(project: Project) -> dict[tuple[str, str], Scope | None]:
    app: Any = project.application()
    while not isinstance(app, FastAPI):  # what is around it
        app = app._api if hasattr(app, "_api") else app._app
    return policies(app)


def client(project: Project, token: str | None, **headers: str) -> httpx2.AsyncClient:
    authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=project.application()),
        base_url="http://localhost",
        headers={**authorization, **headers},
    )


async def keep(project: Project, *scopes: Scope, **more: Any) -> tuple[str, ApiKey]:
    token, minted = mint("walk", frozenset(scopes), project.clock.now())
    key = replace(minted, **more)
    await project.keys().add(key)
    return token, key


async def call(project: Project, token: str | None, method: str, path: str) -> int:
    place = path.replace("{store}", "documents").replace("{model:path}", "penstock")
    place = place.replace("{source}/{key:path}", "documents/luggage.md")
    place = place.replace("{kind}/{who:path}", "customer/ada@example.org")
    place = place.replace("{source}/{table}", "documents/rows")
    place = place.replace("{kind}", "customer?segment=regulars")
    place = place.replace("{session}", "ses_none").replace("{form}", "none")
    async with client(project, token) as caller:
        answer = await caller.request(method, place, json=BODIES.get(path))
    return answer.status_code


async def test_g7_every_route_refuses_whoever_has_no_valid_key(project: Project) -> None:
    """Nobody, nonsense, another's secret, expired, revoked, of another tenant: 401 or 403."""
    now = project.clock.now()
    valid, key = await keep(project, *Scope)
    expired, _ = await keep(project, *Scope, expires_at=Microseconds(now + 1))
    revoked, gone = await keep(project, *Scope)
    assert await project.keys().revoke(project.settings.tenant, gone.id, now)
    foreign, _ = await keep(project, *Scope, principal=Principal(tenant="other"))
    forged = valid[: -len(secrets.token_hex(4))] + "aaaaaaaa"
    walked = routes(project)
    assert {path for (_, path), scope in walked.items() if scope is None} == OPEN_ROUTES
    for (method, path), scope in walked.items():
        statuses = {
            name: await call(project, token, method, path)
            for name, token in {
                "nobody": None, "nonsense": "psk_x", "forged": forged, "expired": expired,
                "revoked": revoked, "foreign": foreign, "valid": valid,
            }.items()
        }  # fmt: skip
        if scope is None:
            continue
        assert statuses.pop("valid") in {200, 404, 405}, (method, path)
        assert statuses.pop("foreign") == 403, (method, path)
        assert set(statuses.values()) == {401}, (method, path, statuses)
    assert key.opens(valid, now)


async def test_g7_every_route_asks_for_its_scope(project: Project) -> None:
    """A key without it is told which one is missing."""
    tokens = {scope: (await keep(project, scope))[0] for scope in Scope}
    for (method, path), needed in routes(project).items():
        for scope, token in tokens.items():
            status = await call(project, token, method, path)
            if needed is None or scope is needed:
                assert status in {200, 404, 405, 503}, (path, scope)
            else:
                assert status == 403, (path, scope)


async def test_pages_and_names_from_elsewhere_are_refused(project: Project) -> None:
    """A page in a browser, and a name that was made to mean this machine, reach no route."""
    token, _ = await keep(project, Scope.ASK)
    for headers, status in (
        ({"Host": "evil.example"}, 421),
        ({"Host": "localhost.evil.example:8321"}, 421),
        ({"Host": "127.0.0.1:8321"}, 200),
        ({"Host": "[::1]:8321"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ):
        async with client(project, token, **headers) as caller:
            assert (await caller.get("/v1/models")).status_code == status, headers


def test_a_route_without_a_policy_is_not_served() -> None:
    """Neither one that forgets it, nor what is no route of ours."""
    app, router = FastAPI(openapi_url=None, docs_url=None, redoc_url=None), APIRouter()

    @router.get("/v1/secrets")
    async def secrets_() -> str:
        return "all of them"

    app.include_router(router)
    with pytest.raises(RuntimeError, match="/v1/secrets to say once who may call it"):
        policies(app)
    with pytest.raises(TypeError, match="expected routes that say who may call them"):
        policies(FastAPI())


async def test_g7_the_model_context_protocol_asks_for_a_key_too(project: Project) -> None:
    """At /mcp, before the protocol is spoken."""
    embedding, _ = await keep(project, Scope.EMBED)
    for token, status in ((None, 401), ("psk_x", 401), (embedding, 403)):
        async with client(project, token) as caller:
            assert (await caller.post("/mcp", json={})).status_code == status


async def test_bodies_that_mean_harm_are_refused_with_a_sentence(project: Project) -> None:
    """On every route that takes one, in the form of the route, and never as a fault of ours."""
    token, _ = await keep(project, *Scope)
    deep = b"[" * 100_000 + b"]" * 100_000
    bodies = {
        "no JSON": b"{",
        "not UTF-8": b'{"question": "\xff"}',
        "deep": deep,
        "deep within": b'{"question": ' + deep + b"}",
        "50 MB": b'{"question": "' + b"x" * 50_000_000 + b'"}',
        "a list": b"[]",
        "null": b"null",
        "many digits": b'{"question": "x", "limit": ' + b"9" * 5000 + b"}",
        "half a pair": b'{"question": "\\ud800", "model": "penstock", "input": "\\ud800"}',
        "negative": b'{"question": "x", "limit": -1, "max_num_results": -1}',
        "unknown": b'{"question": "x", "top_k": 5}',
    }
    paths = [path for (method, path), _ in routes(project).items() if method == "POST"]
    paths.remove("/v1/sessions")  # takes none
    async with client(project, token, **{"Content-Type": "application/json"}) as caller:
        for path in paths:
            place = path.replace("{store}", "documents")
            for name, body in bodies.items():
                answer = await caller.post(place, content=body)
                assert 400 <= answer.status_code < 500, (path, name, answer.text[:300])
                said = answer.json()
                sentence = said["error"]["message"] if "error" in said else said["detail"]
                assert len(sentence) > 10, (path, name)
                assert len(answer.content) < 2000, (path, name)
