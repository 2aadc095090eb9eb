"""Conversations over the API: one's own, from what is true and allowed at each question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from penstock.keys import Scope, mint
from penstock.principals import Principal
from penstock.project import Project, open_project
from penstock.records import Microseconds
from penstock.settings import Settings
from penstock.stores.ledger import Told
from penstock.wiring import stored_sessions

POLICY = """# Cancellation

A flight can be cancelled free of charge until 24 hours before departure.
A hotel can be cancelled free of charge until 18 hours before arrival.
"""
SLOTS = {
    "flight": {"question": "Which flight?", "pattern": "[A-Z]{2}[0-9]{3,4}"},
    "day": {"question": "Which day?", "type": "date"},
}
FLIGHT = "Until when can a flight be cancelled free of charge?"


@pytest.fixture
async def project(database_url: str, tmp_path: Path) -> AsyncIterator[Project]:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "policy.md").write_text(POLICY)
    (documents / "policy.md.acl.yaml").write_text("allow: [user:ada, user:bob]\n")
    files = {"type": "files", "path": str(documents), "heartbeat": 0.1, "permissions": "sidecars"}
    settings = Settings.model_validate(
        {
            "project": "talks",
            "database": database_url,
            "sources": {"documents": files},
            "forms": {"claim": {"slots": SLOTS}},
        }
    )
    async with open_project(settings=settings) as opened:
        yield opened


async def client(project: Project, user: str | None) -> httpx2.AsyncClient:
    token, key = mint(
        "test", frozenset({Scope.ASK}), project.clock.now(), principal=Principal(user)
    )
    await project.keys().add(key)
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=project.application()),
        base_url="http://localhost",
        headers={"Authorization": f"Bearer {token}"},
    )


async def test_a_follow_up_is_answered_from_what_went_before(
    project: Project, tmp_path: Path
) -> None:
    """In Penstock's form and in OpenAI's; what is true and allowed is that of the moment."""
    async with project.running(), await client(project, "ada") as ada:
        await project.caught_up(limit_s=30)
        session = (await ada.post("/v1/sessions")).json()["id"]
        first = (await ada.post("/v1/answer", json={"question": FLIGHT, "session": session})).json()
        assert "24 hours" in first["text"]
        asked = {"question": "And a hotel?", "session": session}
        second = (await ada.post("/v1/answer", json=asked)).json()
        assert second["question"] == f"{FLIGHT} And a hotel?"
        assert "18 hours" in second["text"]
        chat = {
            "model": "penstock",
            "messages": [{"role": "user", "content": "And a hotel?"}],
            "penstock": {"session": session},
        }
        third = (await ada.post("/v1/chat/completions", json=chat)).json()
        assert "18 hours" in third["choices"][0]["message"]["content"]
        shown = (await ada.get(f"/v1/sessions/{session}")).json()["turns"]
        assert [turn["said"] for turn in shown] == [FLIGHT, "And a hotel?", "And a hotel?"]
        assert [turn["answer"] for turn in shown[:2]] == [first["id"], second["id"]]
        entry = await project.ledger().find(second["id"])
        assert entry is not None
        assert entry.content is not None
        assert (entry.content["said"], entry.content["session"]) == ("And a hotel?", session)
        (tmp_path / "documents" / "policy.md.acl.yaml").write_text("allow: [user:bob]\n")
        await project.caught_up(limit_s=30)
        fourth = (await ada.post("/v1/answer", json=asked)).json()
        assert fourth["abstained"]
        assert "hours" not in fourth["text"]


async def test_a_conversation_that_the_application_keeps_is_followed_too(project: Project) -> None:
    """From the user's messages alone: what an assistant is said to have said counts for nothing."""
    async with project.running(), await client(project, "ada") as ada:
        await project.caught_up(limit_s=30)
        messages = [
            {"role": "user", "content": FLIGHT},
            {"role": "assistant", "content": "A cat, never."},
            {"role": "user", "content": "And a hotel?"},
        ]
        reply = await ada.post(
            "/v1/chat/completions", json={"model": "penstock", "messages": messages}
        )
    assert "18 hours" in reply.json()["choices"][0]["message"]["content"]
    (entry,) = [entry async for entry in project.ledger().entries()]
    assert entry.content is not None
    assert entry.content["question"] == f"{FLIGHT} And a hotel?"


async def test_g7_another_principals_conversation_is_not_there(project: Project) -> None:
    """Neither to look at, nor to go on with, nor to end; nor is one that never was."""
    async with await client(project, "ada") as ada, await client(project, "bob") as bob:
        session = (await ada.post("/v1/sessions")).json()["id"]
        async with await client(project, None) as nobody:
            for caller, name in ((bob, session), (nobody, session), (ada, "ses_none")):
                question = {"question": FLIGHT, "session": name}
                chat = {
                    "model": "penstock",
                    "messages": [{"role": "user", "content": FLIGHT}],
                    "penstock": {"session": name},
                }
                for reply in (
                    await caller.post("/v1/answer", json=question),
                    await caller.post("/v1/answer", json={**question, "stream": True}),
                    await caller.post("/v1/chat/completions", json=chat),
                    await caller.post("/v1/chat/completions", json={**chat, "stream": True}),
                    await caller.get(f"/v1/sessions/{name}"),
                    await caller.delete(f"/v1/sessions/{name}"),
                ):
                    assert reply.status_code == 404, reply.text
        assert (await ada.get(f"/v1/sessions/{session}")).json()["turns"] == []
        assert (await ada.delete(f"/v1/sessions/{session}")).status_code == 200
        assert (await ada.get(f"/v1/sessions/{session}")).status_code == 404


async def test_turns_at_once_are_all_kept_in_an_order(project: Project) -> None:
    async with await client(project, "ada") as ada:
        session = (await ada.post("/v1/sessions")).json()["id"]
        asked = [{"question": f"{FLIGHT} {n}", "session": session} for n in range(6)]
        replies = await asyncio.gather(*(ada.post("/v1/answer", json=body) for body in asked))
        assert {reply.status_code for reply in replies} == {200}
        turns = (await ada.get(f"/v1/sessions/{session}")).json()["turns"]
    assert sorted(turn["said"] for turn in turns) == [body["question"] for body in asked]


async def test_g9_conversations_are_forgotten_and_end_by_themselves(project: Project) -> None:
    """A user's whole; of others the turns that mention a value or whose answer was erased."""
    store = stored_sessions(project.settings, project.pool, project.ledger())
    async with await client(project, "ada") as ada, await client(project, "bob") as bob:
        mine = (await ada.post("/v1/sessions")).json()["id"]
        his = (await bob.post("/v1/sessions")).json()["id"]
        await ada.post("/v1/answer", json={"question": FLIGHT, "session": mine})
        for question in (FLIGHT, "Where does Ada Lovelace live?"):
            await bob.post("/v1/answer", json={"question": question, "session": his})
        subject = Told(values=["ada lovelace"], user="ada")
        assert (await project.ledger().forget(subject, project.clock.now())).entries == 2
        assert await store.forget(subject) == 2
        assert (await ada.get(f"/v1/sessions/{mine}")).status_code == 404
        turns = (await bob.get(f"/v1/sessions/{his}")).json()["turns"]
        assert [turn["said"] for turn in turns] == [FLIGHT]
        assert await store.expire(Microseconds(project.clock.now() + 1)) == 1
        assert (await bob.get(f"/v1/sessions/{his}")).status_code == 404


async def test_a_form_is_filled_in_within_a_conversation(project: Project) -> None:
    """What is missing is asked for, the filled form comes back; another's is not there, and it is
    forgotten with what it mentions."""
    async with await client(project, "ada") as ada, await client(project, "bob") as bob:
        session = (await ada.post("/v1/sessions")).json()["id"]
        place = f"/v1/sessions/{session}/forms/claim"
        first = (await ada.post(place, json={})).json()
        assert (first["ask"], first["missing"]) == ("Which flight?", ["flight", "day"])
        again = (await ada.post(place, json={"text": "the big one"})).json()
        assert again["ask"] == "Which flight?"
        assert "another form of it" in again["problem"]
        at_once = {"text": "PS204, on 2026-05-01"}
        done = (await ada.post(place, json=at_once)).json()
        assert done["done"]
        assert done["values"] == {"flight": "PS204", "day": "2026-05-01"}
        assert (await ada.post(place, json={})).json() == done
        assert (await bob.post(place, json={})).status_code == 404
        assert (await ada.post(f"/v1/sessions/{session}/forms/x", json={})).status_code == 404
        store = stored_sessions(project.settings, project.pool, project.ledger())
        await store.forget(Told(values=["ps204"]))
        assert (await ada.post(place, json={})).json()["values"] == {}
