"""Interactions and feedback: kept once, of one's own answers only, and a source of the project."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from penstock.keys import Scope, mint
from penstock.models.base import Author, Message
from penstock.principals import Principal
from penstock.project import Project, open_project
from penstock.serving.answer import Answerer, Asked
from penstock.serving.api.app import build
from penstock.serving.api.server import serve
from penstock.serving.ledger.feedback import Feedback, Voices
from penstock.serving.ledger.recorder import Recorder
from penstock.serving.prompt import read_template
from penstock.settings import Settings
from penstock.sources.base import SourceBatch
from penstock.sources.interactions import InteractionsSource
from penstock.stores.ledger import Told

CANCEL = "Until when can a flight be cancelled free of charge?"


def settings(database: str, folder: Path, **more: Any) -> Settings:
    (folder / "documents").mkdir(exist_ok=True)
    (folder / "documents" / "policy.md").write_text(
        "# Cancellation\n\nA flight can be cancelled free of charge until 24 hours before.\n"
    )
    sources = {
        "documents": {"type": "files", "path": str(folder / "documents"), "heartbeat": 0.1},
        "voice": {"type": "interactions", "heartbeat": 0.1},
    }
    return Settings.model_validate(
        {"project": "voiced", "database": database, "sources": sources, **more}
    )


@pytest.fixture
async def project(database_url: str, tmp_path: Path) -> AsyncIterator[Project]:
    async with open_project(settings=settings(database_url, tmp_path)) as opened:
        yield opened


async def client(project: Project, user: str | None = "ada") -> httpx2.AsyncClient:
    token, key = mint(
        "test", frozenset({Scope.ASK}), project.clock.now(), principal=Principal(user)
    )
    await project.keys().add(key)
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=project.application()),
        base_url="http://localhost",
        headers={"Authorization": f"Bearer {token}"},
    )


async def rows(project: Project, statement: str) -> list[tuple[Any, ...]]:
    async with project.pool.connection() as connection:
        found: list[tuple[Any, ...]] = await (
            await connection.execute(statement.encode())
        ).fetchall()
        return found


async def test_answers_are_rated_by_whom_they_were_given_to(project: Project) -> None:
    """The id stands in body and header; another principal's answer is not there; a key counts
    once, for one body."""
    async with await client(project) as ada, await client(project, "bob") as bob:
        told = await ada.post("/v1/answer", json={"question": CANCEL})
        name = told.json()["id"]
        assert told.headers["Penstock-Answer"] == name
        chat = await ada.post(
            "/v1/chat/completions",
            json={"model": "penstock", "messages": [{"role": "user", "content": CANCEL}]},
        )
        assert chat.json()["penstock"]["id"] == chat.headers["Penstock-Answer"] != name
        said = {"answer": name, "rating": -1, "comment": "too old", "correction": "48 hours"}
        once = {"Idempotency-Key": "k1"}
        replies = await asyncio.gather(
            *(ada.post("/v1/feedback", json=said, headers=once) for _ in range(4))
        )
        assert {reply.status_code for reply in replies} == {200}
        assert len({reply.json()["id"] for reply in replies}) == 1
        other = await ada.post("/v1/feedback", json={**said, "rating": 1}, headers=once)
        assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
        assert (await bob.post("/v1/feedback", json=said)).status_code == 404
        for wrong, sentence in (
            ({"rating": 2}, "expected a rating from -1 to 1"),
            ({"rating": 0, "scale": "stars"}, "expected a rating from 1 to 5"),
            ({}, "expected a rating, a comment or a correction"),
        ):
            refused = await ada.post("/v1/feedback", json={"answer": name, **wrong})
            assert refused.status_code == 400
            assert sentence in refused.json()["detail"]
    feedback = [entry async for entry in project.ledger().entries(kinds=["feedback"])]
    assert [entry.facts["verdict"] for entry in feedback] == ["down"]


async def test_an_application_reports_what_it_answered(project: Project) -> None:
    """From a context that was pinned for it, with what was said of it; another's context is not
    there, and what cannot be rated is refused before anything is kept."""
    async with await client(project) as ada, await client(project, "bob") as bob:
        pinned = await ada.post("/v1/context", json={"question": CANCEL, "pin": True})
        context = pinned.json()["id"]
        assert "id" not in (await ada.post("/v1/context", json={"question": CANCEL})).json()
        said = {"question": CANCEL, "answer": "24 hours", "context": context, "generator": "own"}
        kept = await ada.post("/v1/interactions", json={**said, "rating": 5, "scale": "stars"})
        assert kept.status_code == 200, kept.text
        assert set(kept.json()) == {"id", "feedback"}
        assert (await bob.post("/v1/interactions", json=said)).status_code == 404
        bad = await ada.post("/v1/interactions", json={**said, "rating": 7})
        assert bad.status_code == 400
    kinds = [e.kind async for e in project.ledger().entries(kinds=["interaction", "feedback"])]
    assert kinds == ["feedback", "interaction"]


async def test_without_a_ledger_nothing_can_be_rated(database_url: str, tmp_path: Path) -> None:
    chosen = settings(database_url, tmp_path, ledger={"content": "off"})
    async with open_project(settings=chosen) as project, await client(project) as ada:
        reply = await ada.post("/v1/feedback", json={"answer": "ans_x", "rating": 1})
        assert (reply.status_code, reply.json()["code"]) == (409, "not_kept")


async def test_g2_conversations_are_tables_of_the_project(project: Project) -> None:
    """What is asked and said while it runs is in the live tables once, also after the source was
    read anew; an erasure takes the rows away (G4)."""
    async with project.running():
        await project.caught_up(limit_s=30)
        answers = [
            await project.answer(f"{CANCEL} {n}", principal=Principal(f"user{n}")) for n in range(3)
        ]
        async with await client(project, "user1") as asker:
            said = {"answer": answers[1].id, "rating": 1, "comment": "good"}
            assert (await asker.post("/v1/feedback", json=said)).status_code == 200
        await project.caught_up(limit_s=30)
    async with project.running():  # and once more, from where it was
        await project.caught_up(limit_s=30)
        found = await rows(
            project, "SELECT id, user_name, question FROM voice.interactions ORDER BY at"
        )
        assert found == [(a.id, f"user{n}", f"{CANCEL} {n}") for n, a in enumerate(answers)]
        assert await rows(project, "SELECT answer, rating, verdict FROM voice.feedback") == [
            (answers[1].id, 1, "up")
        ]
        await project.ledger().forget(Told(user="user1"), project.clock.now())
        await project.caught_up(limit_s=30)
        assert await rows(project, "SELECT user_name FROM voice.interactions ORDER BY 1") == [
            ("user0",), ("user2",),
        ]  # fmt: skip
        assert await rows(project, "SELECT count(*) FROM voice.feedback") == [(0,)]


async def test_g2_reading_from_any_state_gives_the_rest_once(project: Project) -> None:
    """The numbers of the ledger are the positions: what was read with a state is not read again."""
    for n in range(4):
        await project.answer(f"{CANCEL} {n}")
    source = InteractionsSource("voice", lambda: project.dsn, tenant="default", heartbeat_s=0.05)

    async def read(state: dict[str, str]) -> SourceBatch:
        batches = source.read(state)
        try:
            return await anext(batches)
        finally:
            await batches.aclose()  # type: ignore[attr-defined]

    whole = await read({})
    assert [change.value("question") for change in whole.changes] == [
        f"{CANCEL} {n}" for n in range(4)
    ]
    positions = [change.position for change in whole.changes]
    assert positions == sorted(positions)
    for number in range(5):
        rest = await read({"number": str(number)})
        assert [change.position for change in rest.changes] == positions[number:]


async def test_g7_conversations_are_closed_unless_the_project_says_otherwise(
    project: Project,
) -> None:
    """A key that may read tables reads no conversations, and other tables stay as they were."""
    async with project.running():
        await project.answer(CANCEL, principal=Principal("ada"))
        await project.caught_up(limit_s=30)
        token, key = mint("t", frozenset({Scope.TABLES, Scope.ASK}), project.clock.now())
        await project.keys().add(key)
        async with await client(project) as caller:
            caller.headers["Authorization"] = f"Bearer {token}"
            reply = await caller.get("/v1/tables/voice/interactions")
            asked = await caller.post("/v1/answer", json={"question": CANCEL})
    assert reply.json().get("rows", []) == []
    assert "24 hours" in asked.json()["text"]


class Endless:
    """A generator that waits behind its first piece until nobody listens any more."""

    name = "openai/endless"

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        yield "24 hours [1] "
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("path", ["/v1/answer", "/v1/chat/completions"])
async def test_g8_a_stream_that_its_reader_leaves_is_in_the_ledger(
    project: Project, path: str
) -> None:
    """As far as it was given out, over a real connection."""
    async with project.running():
        await project.caught_up(limit_s=30)
    answerer = Answerer(
        project.contexts(), embedder=project.embedder(), generator=Endless(),
        keeper=project._keeper(),
    )  # fmt: skip
    services = replace(project.services(), answerer=lambda: answerer)
    api = build(project.meters, list, services)
    token, key = mint("t", frozenset({Scope.ASK}), project.clock.now(), principal=Principal("ada"))
    await project.keys().add(key)
    body = {
        "/v1/answer": {"question": CANCEL, "stream": True},
        "/v1/chat/completions": {
            "model": "penstock", "messages": [{"role": "user", "content": CANCEL}], "stream": True,
        },
    }[path]  # fmt: skip
    async with serve(api, host="127.0.0.1", port=0) as address:
        async with (
            httpx2.AsyncClient(base_url=address, trust_env=False) as http,
            http.stream(
                "POST", path, json=body, headers={"Authorization": f"Bearer {token}"}
            ) as reply,
        ):
            lines = reply.aiter_lines()
            while "24 hours" not in await anext(lines):
                pass
        while not (kept := [entry async for entry in project.ledger().entries()]):
            await asyncio.sleep(0.01)
    assert kept[0].facts["cut"] is True
    assert kept[0].content is not None
    assert kept[0].content["text"] == "24 hours [1]"


class Judging:
    """Hears how good answers are."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bool]] = []

    def judged(self, author: Author | None, *, good: bool) -> None:
        if author is not None:
            self.heard.append((author.arm, good))


async def test_how_good_an_answer_is_is_told_of_the_model_that_wrote_it(project: Project) -> None:
    """Once when it is kept, and by its first rating, whoever asks about it later."""
    answer = await project.answerer().unkept().answer(CANCEL, Principal("ada"))
    asked = Asked(Principal("ada"), {}, read_template(), {})
    heard = Judging()
    recorder = Recorder(project.ledger(), project.clock, "v", heard)
    written = replace(answer, author=Author("new", "m-1", arm="canary"), citations=())
    name = await recorder.keep(asked, written)
    assert name is not None
    led = replace(asked, more={"conversation": {}})
    other = await recorder.keep(led, replace(written, author=Author("old", arm="others")))
    assert other is not None
    assert heard.heard == [("canary", False)]  # where the caller leads, nothing says so
    voices = Voices(project.ledger(), project.clock, heard)
    for rating in (0, 1, -1):
        await voices.rate(Feedback(name, rating), Principal("ada"))
    await voices.rate(Feedback(other, 1, "stars"), Principal("ada"))
    assert heard.heard[1:] == [("canary", True), ("others", False)]
    assert [written.good, replace(answer, dropped=1).good] == [False, False]
