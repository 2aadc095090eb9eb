"""Changing the model beneath a running project, on a real PostgreSQL and over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import penstock
from penstock.config import parse_settings
from penstock.errors import ConfigError
from penstock.operate import models as operate
from penstock.operate.comparing import Question, before_and_after, read_questions, stand_ins
from penstock.project import Project
from penstock.settings import Settings
from penstock.testing import fake_openai as fake
from penstock.testing.fake_openai import FakeOpenAI, Reply, Request

LIMIT_S = 30.0


class World:
    """A project over a folder, with two models at two endpoints."""

    def __init__(self, project: Project, documents: Path, a: FakeOpenAI, b: FakeOpenAI) -> None:
        self.project = project
        self.documents = documents
        self.a = a
        self.b = b

    def write(self, number: int, words: str) -> None:
        (self.documents / f"d{number:03}.md").write_text(f"# Ferry {number}\n\n{words}\n")

    async def in_step(self) -> None:
        await self.project.caught_up(limit_s=LIMIT_S)

    async def nearest(self, number: int, words: str) -> tuple[str, float]:
        """Which document is found by the very text that was embedded of it, and how near it is."""
        title = f"Ferry {number}"
        context = await self.project.context(f"{title}\n{words}", mode="vector", limit=1)
        (passage,) = context.passages
        return passage.text, passage.similarity

    async def serving(self) -> str | None:
        return await self.project.models().serving()


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    documents = tmp_path / "documents"
    documents.mkdir()
    async with FakeOpenAI(dimensions=16) as a, FakeOpenAI(dimensions=24) as b:
        file = tmp_path / "penstock.yaml"
        file.write_text(
            f"""
project: home
database: "{database_url}"
server: {{port: 0}}
models:
  a: {{type: openai, model: a, dimensions: 16, base_url: "{a.base_url}", api_key: k}}
  b: {{type: openai, model: b, dimensions: 24, base_url: "{b.base_url}", api_key: k, price: 2.0}}
  b8: {{type: openai, model: b, dimensions: 24, base_url: "{b.base_url}", api_key: k,
        storage: int8}}
knowledge: {{embedder: a}}
sources:
  documents: {{type: files, path: ./documents, heartbeat: 0.05}}
"""
        )
        async with penstock.open(file) as project:
            yield World(project, documents, a, b)


async def loaded(world: World, count: int = 40) -> None:
    for number in range(count):
        world.write(number, f"leaves at {number} o'clock")
    await world.in_step()


async def test_changing_the_model_and_back(world: World) -> None:
    """Estimated, filled beside, taken into use; edits go on in both directions; the former model's
    vectors are kept until they are dropped."""
    async with world.project.running():
        await loaded(world)
        to = await operate.target(world.project, "b")
        estimated = await operate.estimate(world.project, to)
        assert (estimated.before, estimated.model) == ("openai/a/16", "openai/b/24")
        assert (estimated.chunks, estimated.texts) == (40, 40)
        assert estimated.cost == pytest.approx(estimated.tokens * 2e-6)
        assert estimated.seconds is not None
        filled = await operate.fill(world.project, to)
        assert await world.serving() == "openai/a/16"
        await operate.cut_over(world.project, to, filled, without=False)
        assert await world.serving() == "openai/b/24"
        _, near = await world.nearest(3, "leaves at 3 o'clock")
        assert near > 0.999
        world.write(3, "leaves at noon")
        world.write(40, "leaves never")
        (world.documents / "d005.md").unlink()
        await world.in_step()
        text, near = await world.nearest(40, "leaves never")
        assert "never" in text
        assert near > 0.999
        embedded = {text for request in world.a.requests for text in request.texts}
        assert not any("never" in text for text in embedded)  # the former model is left alone
        assert not (await world.project.verify()).differences

        back = await operate.former(world.project)
        filled = await operate.fill(world.project, back)
        assert filled.texts == 2  # only what has come since
        await operate.cut_over(world.project, back, filled, without=False)
        assert await world.serving() == "openai/a/16"
        text, near = await world.nearest(3, "leaves at noon")
        assert "noon" in text
        assert near > 0.999
        assert (await operate.finish(world.project))["dropped"] >= 40
        assert [(m.name, m.role) for m in await world.project.models().models()] == [
            ("openai/a/16", "serving"),
            ("openai/b/24", "unused"),
        ]
        with pytest.raises(ConfigError, match="found none"):
            await operate.former(world.project)
        assert not (await world.project.verify()).differences


async def test_readers_see_one_model_or_the_other(world: World) -> None:
    """While it is changed over and back, again and again, every question finds the very text that
    it quotes: a vector of one model among those of the other would be near to nothing."""
    asked = 0
    async with world.project.running():
        await loaded(world)
        targets = [await operate.target(world.project, "b")]
        await operate.fill(world.project, targets[0])
        stop = asyncio.Event()

        async def ask(number: int) -> None:
            nonlocal asked
            while not stop.is_set():
                text, near = await world.nearest(number, f"leaves at {number} o'clock")
                assert f"leaves at {number} o'clock" in text
                assert near > 0.999
                asked += 1

        readers = [asyncio.create_task(ask(number)) for number in range(4)]
        for change in range(10):
            to = targets[0] if not change else await operate.former(world.project)
            before = asked
            await operate.cut_over(world.project, to, operate.Filled(), without=False)
            while asked < before + 8 and not any(reader.done() for reader in readers):
                await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*readers)
    assert asked > 80


async def test_a_filling_goes_on_after_it_was_cut_off(world: World) -> None:
    """What was stored is not embedded again; edits and deletions meanwhile are followed; what the
    running pipeline computes for the former model is never lost at the change."""
    async with world.project.running():
        await loaded(world, 600)
        to = await operate.target(world.project, "b")
        halted = asyncio.Event()
        calls = 0

        def react(request: Request) -> Reply | None:
            nonlocal calls
            calls += 1
            if calls == 6:
                halted.set()
            return fake.status(503) if calls >= 6 else None

        world.b.reacts = react
        filling = asyncio.create_task(operate.fill(world.project, to))
        await asyncio.wait_for(halted.wait(), LIMIT_S)
        filling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await filling
        stored = next(m for m in await world.project.models().models() if m.role == "shadow")
        assert 0 < stored.vectors < 600

        for number in range(0, 600, 40):
            world.write(number, f"leaves earlier than {number}")
            (world.documents / f"d{number + 1:03}.md").unlink()
        world.b.reacts = None
        world.b.requests.clear()
        again = asyncio.create_task(operate.fill(world.project, to))
        world.write(0, "leaves at dawn")
        filled = await again
        await operate.cut_over(world.project, to, filled, without=False)
        sent = {t for request in world.b.requests for t in request.texts}
        assert len(sent) < 600 - stored.vectors + 40  # the rest, and what was edited
        await world.in_step()
        text, near = await world.nearest(0, "leaves at dawn")
        assert "dawn" in text
        assert near > 0.999
        assert not (await world.project.verify()).differences


async def test_int8_beside_halfvec(world: World) -> None:
    """The same model in fewer bits is another model to change to; searches work the same."""
    async with world.project.running():
        await loaded(world)
        to = await operate.target(world.project, "b8")
        estimated = await operate.estimate(world.project, to)
        assert estimated.bytes_per_chunk < 60
        filled = await operate.fill(world.project, to)
        await operate.cut_over(world.project, to, filled, without=False)
        for number in range(10):
            text, near = await world.nearest(number, f"leaves at {number} o'clock")
            assert f"at {number} o'clock" in text
            assert near > 0.99
        world.write(7, "leaves at seven sharp")
        await world.in_step()
        text, _ = await world.nearest(7, "leaves at seven sharp")
        assert "sharp" in text


async def test_texts_that_the_new_model_refuses(world: World) -> None:
    """They are named, and it is a person's decision to go on without them."""
    async with world.project.running():
        await loaded(world)
        world.b.reacts = lambda r: (
            fake.status(400, "unsafe") if any("at 7 o'clock" in t for t in r.texts) else None
        )
        to = await operate.target(world.project, "b")
        filled = await operate.fill(world.project, to)
        assert list(filled.refused) == ["documents/d007.md"]
        with pytest.raises(ConfigError, match=r"refuses some of 1 documents \(documents/d007.md"):
            await operate.cut_over(world.project, to, filled, without=False)
        assert await world.serving() == "openai/a/16"
        await operate.cut_over(world.project, to, filled, without=True)
        _, near = await world.nearest(8, "leaves at 8 o'clock")
        assert near > 0.999
        found = await world.project.context("ferry 7 o'clock", mode="text", limit=1)
        assert "at 7 o'clock" in found.passages[0].text


async def test_both_models_on_the_same_questions(world: World, tmp_path: Path) -> None:
    """The share that both find, and how often the right document is found by each."""
    file = tmp_path / "questions.jsonl"
    lines = [
        f'{{"question": "Ferry {n}\\nleaves at {n} o\'clock", "relevant": ["d{n:03}.md"]}}'
        for n in range(5)
    ]
    file.write_text("\n".join([*lines, "", "where does it go?"]))
    questions = read_questions(file)
    assert questions[5] == Question("where does it go?")
    async with world.project.running():
        await loaded(world)
        to = await operate.target(world.project, "b")
        await operate.fill(world.project, to)
        found = await before_and_after(world.project, questions, to.embedder)
        assert found["questions"] == 6
        assert found["judged"] == 5
        assert found["before"]["hit@1"] == found["after"]["hit@1"] == 1.0
        assert 0 < found["overlap@10"] < 1
        assert len(await stand_ins(world.project)) > 10


async def test_a_process_that_cannot_use_the_model_holds_it_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running process whose file does not name the model would go blind: it is named first."""
    monkeypatch.setattr(operate, "_READY_S", 0.5)
    async with world.project.running():
        await loaded(world)
        to = await operate.target(world.project, "b")
        filled = await operate.fill(world.project, to)
        async with world.project.pool.connection() as connection:
            await connection.execute(
                "INSERT INTO penstock.run_reports (instance, report) VALUES"
                """ ('other', '{"pid": 7, "host": "elsewhere", "models": ["openai/a/16"]}')"""
            )
        with pytest.raises(ConfigError, match="pid 7 on elsewhere is not"):
            await operate.cut_over(world.project, to, filled, without=False)
        assert await world.serving() == "openai/a/16"


async def test_another_model_in_the_file_does_not_mix(database_url: str, tmp_path: Path) -> None:
    """The file names another embedder than the one that is searched: nothing is written with it,
    and the sentence says what to do; where nothing is stored it is simply taken."""
    documents = tmp_path / "documents"
    documents.mkdir()

    def settings(embedder: str) -> Settings:
        return parse_settings(
            f"project: home\ndatabase: '{database_url}'\nserver: {{port: 0}}\n"
            f"knowledge: {{embedder: {embedder}}}\n"
            "sources:\n  documents: {type: files, path: ./documents, heartbeat: 0.05}\n",
            file=tmp_path / "penstock.yaml",
        )

    (documents / "a.md").write_text("one")
    async with penstock.open(settings=settings("constant")) as project, project.running():
        await project.caught_up(limit_s=LIMIT_S)
    (documents / "a.md").write_text("two")
    async with penstock.open(settings=settings("minilm")) as project:
        with pytest.raises(penstock.errors.PenstockError, match="run `penstock models migrate`"):
            await project.context("one")
        to = await operate.target(project, None)
        filled = await operate.fill(project, to)
        await operate.cut_over(project, to, filled, without=False)
        assert (await project.context("one")).passages[0].text == "one"
        async with project.running():
            await project.caught_up(limit_s=LIMIT_S)
            assert (await project.context("two")).passages[0].text == "two"
            (documents / "a.md").unlink()
            await project.caught_up(limit_s=LIMIT_S)
    async with penstock.open(settings=settings("constant")) as project:
        await project.context("three")
        assert await project.models().serving() == "constant-4096"
