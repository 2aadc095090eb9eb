"""The ledger of answers in a real database: chained, append-only, erasable, replayed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock.operate.audit import Auditor
from penstock.principals import Principal
from penstock.project import Project, open_project
from penstock.serving.answer import Answer
from penstock.serving.ledger.replay import compared, pinned, replayed
from penstock.settings import Settings
from penstock.stores.ledger import Audit

POLICY = (
    "# Cancellation\n\nA flight can be cancelled free of charge until 24 hours before departure.\n"
)
BAGS = "# Luggage\n\nEach traveller may take one bag of 23 kilograms.\n"
CANCEL = "Until when can a flight be cancelled free of charge?"


def settings(database: str, folder: Path, **more: Any) -> Settings:
    (folder / "documents").mkdir(exist_ok=True)
    source = {"type": "files", "path": str(folder / "documents"), "heartbeat": 0.1}
    return Settings.model_validate(
        {"project": "kept", "database": database, "sources": {"documents": source}, **more}
    )


@pytest.fixture
async def project(database_url: str, tmp_path: Path) -> AsyncIterator[Project]:
    async with open_project(settings=settings(database_url, tmp_path)) as opened:
        (tmp_path / "documents" / "policy.md").write_text(POLICY, encoding="utf-8")
        (tmp_path / "documents" / "bags.md").write_text(BAGS, encoding="utf-8")
        yield opened


async def audit(project: Project, expected: str | None = None) -> Audit:
    return await Auditor(project.pool, project.settings.tenant).verify(expected)


async def found(project: Project, answer: Answer) -> Any:
    assert answer.id is not None
    entry = await project.ledger().find(answer.id)
    assert entry is not None
    return entry


async def test_g8_an_answer_is_pinned_whole_and_replayed(project: Project, tmp_path: Path) -> None:
    """Question, principal, passages with versions, positions, prompt, times; replaying it gives the
    same; after a change the same replay still does, and the difference says what is new."""
    async with project.running():
        await project.caught_up(limit_s=30)
        answer = await project.answer(CANCEL, principal=Principal("ada", ("staff",)))
        entry = await found(project, answer)
        said = pinned(entry)
        assert said.principal == Principal("ada", ("staff",))
        assert said.text == answer.text
        assert said.context.items == answer.context.items
        assert said.context.sources == answer.context.sources
        assert entry.facts["timings_ms"]["embed"] >= 0
        assert entry.facts["template"]
        assert (await replayed(project.answerer(), said))["same"]
        (tmp_path / "documents" / "policy.md").write_text(
            POLICY.replace("24 hours", "48 hours"), encoding="utf-8"
        )
        await project.caught_up(limit_s=30)
        assert (await replayed(project.answerer(), said))["same"]
        changed = await compared(project.answerer(), said)
    assert not changed["same"]
    assert "48 hours" in changed["text"]["is"]
    changes = {item["key"]: item["change"] for item in changed["items"]}
    assert changes["policy.md"] == "changed"
    assert {part["source"] for part in changed["sources"]} == {"documents"}
    assert (await audit(project)).sound
