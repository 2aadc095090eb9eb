"""Texts that no one would write: each is searchable or has a reason, and none costs a surprise."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.config import parse_settings
from penstock.principals import Principal
from penstock.project import Project, open_project
from penstock.stores.base import Filter

HEBREW = "המדיניות של החזרים: ארבעה עשר ימים. The desk is in דלפק number 7, المكتب مفتوح دائما."
TEXTS = {
    "empty.md": "",
    "spaces.md": " \n\t\n  \f \n",
    "word.txt": "".join(random.Random(1).choices("abcdefghij", k=1_000_000)),
    "mixed.md": f"# כותרת\n\n{HEBREW}\n\n東京の天気は晴れです。 Ещё один абзац. नमस्ते दुनिया",
    "headings.md": "\n\n".join(f"{'#' * (1 + n % 6)} Heading {n}" for n in range(10_000)),
    "twin-one.md": "# Twin\n\nExactly the same zebra text.",
    "twin-two.md": "# Twin\n\nExactly the same zebra text.",
    "nul.md": "before\0after",
}


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    """A project that has read them all."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "documents"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    source = (
        f"project: texts\ndata: {tmp_path}/data\nserver: {{port: 0}}\n"
        "knowledge: {embedder: constant, language: auto}\n"
        f"sources:\n  docs: {{type: files, path: {folder}}}\n"
    )
    settings = parse_settings(source, file=tmp_path / "penstock.yaml", environment={})
    async with open_project(settings=settings) as project:
        async with project.running():
            await project.caught_up()
        yield project


async def found(project: Project, question: str) -> list[str]:
    async with project.snapshots.snapshot(Principal()) as snapshot:
        hits = await snapshot.candidates(None, question, limit=10, where=Filter())
        return sorted(p.key for p in await snapshot.passages([hit.chunk for hit in hits]))


@pytest.mark.timeout(180)
async def test_bad_input_texts_are_searchable_or_have_a_reason(project: Project) -> None:
    """Empty, endless, of many scripts, of headings alone, twice the same, with NUL bytes."""
    async with project.pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT d.key, count(c.id), coalesce(sum(length(c.text)), 0) FROM penstock.documents d "
            "LEFT JOIN penstock.chunks c ON c.document_id = d.id GROUP BY 1"
        )
        held = {key: (count, length) for key, count, length in await cursor.fetchall()}
        cursor = await connection.execute("SELECT key, reason FROM penstock.dead_letters")
        buried = await cursor.fetchall()
    assert set(held) == set(TEXTS) - {"nul.md"}
    assert held["empty.md"] == held["spaces.md"] == (0, 0)
    assert held["word.txt"][1] == 1_000_000
    assert held["word.txt"][0] < 10_000
    assert held["twin-one.md"] == held["twin-two.md"] == (1, len(TEXTS["twin-one.md"]))
    assert held["headings.md"][0] <= 10_000
    [(key, reason)] = buried
    assert "nul.md" in str(key)
    assert reason.startswith("expected text, found NUL bytes")
    assert await found(project, "zebra") == ["twin-one.md", "twin-two.md"]
    for word in ("דלפק", "المكتب", "天気", "абзац", "दुनिया", "Desk"):
        assert await found(project, word) == ["mixed.md"], word
    assert "headings.md" in await found(project, "heading 9999")
    assert project.embedding_counts()[0] < sum(count for count, _ in held.values())
