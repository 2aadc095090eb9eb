"""Profiles as applications get them: over HTTP, through OpenAI's client, and from an assistant."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import psycopg
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import TextResourceContents
from tests.acceptance.test_profiles import PROFILES, carried, fill, settings, systems

from penstock.keys import Scope, mint
from penstock.operate.profiles import desk
from penstock.principals import Principal
from penstock.project import Project
from penstock.serving.mcp import server
from penstock.serving.profiles import nobody
from penstock.stores.postgres.search import PostgresSnapshot

__all__ = ["systems"]

SUPPORT = Principal("bo", ("support",))
STRANGER = Principal("eve")
CLOSED = {"customer": {**PROFILES["customer"], "allow": ["group:support"]}}


@pytest.fixture
async def project(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> AsyncIterator[Project]:
    await fill(systems)
    async with carried(settings(tmp_path, database_url, source_url, CLOSED)) as opened:
        yield opened


@asynccontextmanager
async def calling(project: Project, principal: Principal) -> AsyncIterator[httpx2.AsyncClient]:
    token, key = mint("test", frozenset({Scope.ASK}), project.clock.now(), principal=principal)
    await project.keys().add(key)
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=project.application()),
        base_url="http://localhost",
        headers={"Authorization": f"Bearer {token}"},
    ) as client:
        yield client


async def test_a_profile_with_its_records_and_their_times(project: Project) -> None:
    """By id, by identifiers in any form, and by an id that was merged away."""
    ada = await desk(project).one("crm/contacts/1")
    grace = await desk(project).one("crm/contacts/2")
    async with calling(project, SUPPORT) as client:
        for who in (ada.id, "ADA@example.org", "email:ada@example.org", "phone:0170/1234567"):
            answer = await client.get(f"/v1/profiles/customer/{who}")
            assert answer.status_code == 200, answer.text
            found = answer.json()
            assert (found["id"], found["merged_from"]) == (ada.id, None)
        [city] = found["traits"]["city"]
        assert (city["value"], city["source"], city["key"]) == ("Berlin", "crm", "1")
        assert city["at"].startswith("20")
        assert [record["key"] for record in found["records"]] == ["1", "100", "101"]
        assert "email:ada@example.org" in found["identifiers"]
        assert 0 <= found["age_ms"] < 60_000
        assert {part["source"] for part in found["sources"]} == {"crm", "shop"}
        await desk(project).merge([ada.id, grace.id], by="tester", reason="test")
        away, kept = sorted((ada.id, grace.id), key=lambda id_: id_ != grace.id)
        for old in (away, kept):
            found = (await client.get(f"/v1/profiles/customer/{old}")).json()
            assert len(found["records"]) == 5
            assert found["merged_from"] in (None, old)
            assert (found["merged_from"] is None) is (found["id"] == old)


async def test_what_means_several_profiles_is_refused_with_their_ids(project: Project) -> None:
    await desk(project).unmerge(["shop/orders/101"], by="tester", reason="test")
    async with calling(project, SUPPORT) as client:
        answer = await client.get("/v1/profiles/customer/phone:0170/1234567")
    assert answer.status_code == 409
    assert answer.json()["code"] == "ambiguous"
    assert "means 2 (customer-" in answer.json()["detail"]


async def test_g7_who_may_not_see_a_kind_learns_nothing(project: Project) -> None:
    """The same words for a profile that is there, one that is not, and a kind that is not."""
    ada = await desk(project).one("crm/contacts/1")

    async def said(client: httpx2.AsyncClient, kind: str, who: str) -> tuple[int, str]:
        answer = await client.get(f"/v1/profiles/{kind}/{who}")
        return answer.status_code, answer.json()["detail"]

    async def noted(client: httpx2.AsyncClient, kind: str, who: str) -> tuple[Any, Any]:
        body = {"question": "where?", "mode": "text", "profile": f"{kind}:{who}"}
        answer = (await client.post("/v1/context", json=body)).json()
        return [note.replace(kind, "KIND") for note in answer["notes"]], answer["rows"]

    places = [("customer", ada.id), ("customer", "ada@example.org"), ("customer", "nobody@x.org")]
    places += [("spy", ada.id), ("spy", "phone:%00"), ("customer", "phone:0170/1234567")]
    async with calling(project, STRANGER) as client:
        for place in places:
            if "%" not in place[1]:
                assert await said(client, *place) == (404, nobody(*place))
        assert (await client.get("/v1/profiles/customer/%00")).status_code == 404
        told = [await noted(client, *place) for place in places]
        assert told == [(["no KIND is known (or to be shown) by what was named"], [])] * 6
    async with calling(project, SUPPORT) as client:
        notes, [row] = await noted(client, "customer", "ada@example.org")
        assert (notes, row["row_key"]) == ([], [ada.id])


async def test_g7_the_query_and_the_database_each_refuse_profiles(project: Project) -> None:
    """Each alone, were the other not there."""
    ada = await desk(project).one("crm/contacts/1")
    for principal, sees in ((STRANGER, False), (SUPPORT, True)):
        async with project.snapshots.snapshot(principal) as snapshot:
            assert isinstance(snapshot, PostgresSnapshot)
            stored = await snapshot.connection.execute("SELECT FROM penstock.profiles")
            assert bool(await stored.fetchall()) is sees
            await snapshot.connection.execute("RESET ROLE")
            assert (await snapshot.profile("customer", ada.id) is not None) is sees
            found = await snapshot.profiles_bearing("customer", ["email:ada@example.org"])
            assert bool(found) is sees


async def test_questions_about_somebody(project: Project) -> None:
    """An answer, and a completion with the field of ours, as OpenAI's client sends it."""
    about = "customer:ada@example.org"
    async with calling(project, SUPPORT) as client:
        asked = {"question": "Which city is it?", "profile": about}
        answer = (await client.post("/v1/answer", json=asked)).json()
        assert "Berlin" in answer["text"]
        refused = await client.post("/v1/context", json={**asked, "profile": "ada"})
        assert refused.status_code == 400
        assert "expected a profile as KIND:ID or KIND:IDENTIFIER" in refused.json()["detail"]
        token = client.headers["Authorization"].removeprefix("Bearer ")
        async with openai.AsyncOpenAI(
            base_url="http://localhost/v1", api_key=token, max_retries=0, http_client=client
        ) as theirs:
            whole = await theirs.chat.completions.create(
                model="penstock",
                messages=[{"role": "user", "content": "Which city is it?"}],
                extra_body={"penstock": {"profile": about}},
            )
            assert "Berlin" in (whole.choices[0].message.content or "")
            with pytest.raises(openai.UnprocessableEntityError, match="surprise"):
                await theirs.chat.completions.create(
                    model="penstock",
                    messages=[{"role": "user", "content": "x"}],
                    extra_body={"penstock": {"surprise": 1}},
                )


@pytest.mark.parametrize("principal", [SUPPORT, STRANGER], ids=["support", "stranger"])
async def test_g7_an_assistant_gets_profiles_as_who_it_asks_for(
    project: Project, principal: Principal
) -> None:
    """The tool and the resource, with the official client."""
    asks: Callable[[Any], Principal] = lambda _: principal  # noqa: E731
    where = {"kind": "customer", "who": "email:ada@example.org"}
    async with Client(server(project.services(), asks)) as client:
        told = await client.call_tool("get_profile", where)
        address = "profile://customer/email%3Aada%40example.org"
        if principal is STRANGER:
            assert told.is_error
            assert "expected a profile that you may see" in str(told.content)
            with pytest.raises(MCPError, match="expected a profile that you may see"):
                await client.read_resource(address)
            return
        assert told.structured_content is not None
        assert told.structured_content["traits"]["city"][0]["value"] == "Berlin"
        [part] = (await client.read_resource(address)).contents
    assert isinstance(part, TextResourceContents)
    assert part.mime_type == "application/json"
    assert json.loads(part.text)["id"] == told.structured_content["id"]
