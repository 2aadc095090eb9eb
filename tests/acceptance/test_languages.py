"""Documents are found by the words of their own language, however these are inflected."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from penstock.config import parse_settings
from penstock.pipelines.knowledge.languages import declared, detect
from penstock.principals import Principal
from penstock.project import open_project
from penstock.stores.base import Filter

GERMAN = """# Verträge

Die alten Häuser am Fluss wurden verkauft, nachdem die Eigentümer ihre Verträge gekündigt hatten.
Wer seine Kündigung zurückzieht, erhält eine schriftliche Bestätigung von der Verwaltung.
"""
ENGLISH = """# Refunds

Travellers whose flights were cancelled are refunded within fourteen days, and their bags are
delivered to the nearest airport. Companies that deny boarding compensate passengers.
"""


async def found(folder: Path, language: str, question: str) -> list[str]:
    """The documents that hold words of the question, best first."""
    documents = folder / "documents"
    documents.mkdir(exist_ok=True)
    (documents / "de.md").write_text(GERMAN, encoding="utf-8")
    (documents / "en.md").write_text(ENGLISH, encoding="utf-8")
    text = (
        f"project: languages\ndata: {folder}/data-{language}\nserver: {{port: 0}}\n"
        f"knowledge: {{embedder: constant, language: {language}}}\n"
        f"sources:\n  docs: {{type: files, path: {documents}}}\n"
    )
    settings = parse_settings(text, file=folder / "penstock.yaml", environment={})
    async with open_project(settings=settings) as project:
        async with project.running():
            await project.caught_up()
        async with project.snapshots.snapshot(Principal()) as snapshot:
            hits = await snapshot.candidates(None, question, limit=5, where=Filter())
            passages = await snapshot.passages([hit.chunk for hit in hits])
            return [passage.key for passage in passages]


@pytest.mark.timeout(120)
async def test_documents_are_found_by_inflected_words_of_their_language(tmp_path: Path) -> None:
    """With one language for all, German plurals with an umlaut are not found."""
    await asyncio.to_thread(tmp_path.chmod, 0o755)
    assert await found(tmp_path, "auto", "Vertrag kündigen?") == ["de.md"]
    assert await found(tmp_path, "auto", "refunding a cancelled flight") == ["en.md"]
    assert await found(tmp_path, "english", "Haus") == []
    assert await found(tmp_path, "auto", "Haus") == ["de.md"]


def test_languages_are_found_where_there_is_enough_prose() -> None:
    """Code, links and a few words say nothing; what a document declares holds."""
    assert detect(GERMAN) == "german"
    assert detect(ENGLISH) == "english"
    assert (
        detect("Les remboursements sont effectués dans les quatorze jours qui suivent.") == "french"
    )
    assert detect("Refunds") == ""
    assert detect("```python\nimport os\nfor name in os.listdir('.'): print(name)\n```") == ""
    assert detect("https://example.org/a/very/long/path/that/looks/like/words/but/is/none") == ""
    assert [declared(code) for code in ("de-AT", "en", "german", "xx", None)] == [
        "german", "english", "german", "", "",
    ]  # fmt: skip
