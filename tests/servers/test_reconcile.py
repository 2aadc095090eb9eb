"""What was lost or added in the knowledge base behind our back is found and repaired."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.operate.reconcile import ReconcileReport, reconcile
from penstock.project import Project, open_project

pytestmark = pytest.mark.package("lancedb")

FILE = """
project: mending
database: {dsn}
sources:
  docs:
    type: files
    path: docs
knowledge:
  embedder: constant
  stores:
    lance: {{type: lancedb, uri: lance}}
  search: lance
"""


@pytest.fixture
async def project(tmp_path: Path, database_url: str) -> AsyncIterator[Project]:
    (tmp_path / "docs").mkdir()
    for number in range(12):
        text = "\n\n".join(f"# Part {n}\n\nText {n} of document {number}." for n in range(4))
        (tmp_path / "docs" / f"d{number}.md").write_text(text)
    (tmp_path / "penstock.yaml").write_text(FILE.format(dsn=database_url))
    async with open_project(tmp_path / "penstock.yaml") as opened:
        async with opened.running():
            await opened.caught_up()
        await opened.follow()
        yield opened


async def damage(project: Project, statement: str) -> None:
    async with project.pool.connection() as connection:
        await connection.execute(statement)


async def mended(project: Project) -> ReconcileReport:
    """Find it, repair it, and see that it stays repaired."""
    found = await reconcile(project)
    assert found.wrong, "the damage was not found"
    repaired = await reconcile(project, repair=True)
    assert repaired.wrong == 0, repaired
    assert (await reconcile(project)).wrong == 0
    context = await project.context("Text 2 of document 7")
    assert any(passage.key == "d7.md" for passage in context.passages)
    return found


async def test_what_is_whole_is_left_alone(project: Project) -> None:
    report = await reconcile(project, repair=True)
    assert (report.wrong, report.left) == (0, None)
    assert report.chunks == report.stores[0].chunks >= 12


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("DELETE FROM penstock.chunks WHERE id % 3 = 0", "broken_documents"),
        (
            "DELETE FROM penstock.vectors WHERE get_byte(hash, 0) % 2 = 0",
            "chunks_without_vector",
        ),
        (
            """INSERT INTO penstock.vectors SELECT tenant, model, '\\x00'::bytea, embedding
               FROM penstock.vectors LIMIT 1""",
            "unused_vectors",
        ),
        ("DELETE FROM penstock.documents WHERE key = 'd3.md'", "loose_chunks"),
        ("TRUNCATE penstock.postings, penstock.fresh_postings", "unindexed_chunks"),
        (
            """INSERT INTO penstock.fresh_postings (tenant, payload)
               SELECT tenant, payload FROM penstock.fresh_postings LIMIT 1""",
            "misindexed_chunks",
        ),
        ("UPDATE penstock.text_statistics SET chunks = chunks + 5", "miscounted_chunks"),
    ],
)
async def test_damage_is_found_and_repaired(project: Project, statement: str, fault: str) -> None:
    await damage(project, statement)
    assert (await mended(project)).found[fault]


async def test_a_second_store_that_was_emptied_is_filled(project: Project, tmp_path: Path) -> None:
    import lancedb

    connection = await lancedb.connect_async(tmp_path / "lance")
    await (await connection.open_table("chunks")).delete("chunk % 2 = 0")
    found = await mended(project)
    assert found.stores[0].missing
    connection = await lancedb.connect_async(tmp_path / "lance")
    await connection.drop_table("chunks")
    repaired = await reconcile(project, repair=True)
    assert repaired.stores[0].repaired


async def test_repair_asks_for_the_project_alone(project: Project) -> None:
    await damage(project, "DELETE FROM penstock.chunks WHERE id % 3 = 0")
    async with project.running():
        with pytest.raises(ConfigError):
            await reconcile(project, repair=True)
