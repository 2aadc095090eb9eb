"""Objects whose metadata say who may see them, from a bucket to the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.operate.letters import retry
from penstock.operate.permissions import explain, overview
from penstock.operate.replay import replay
from penstock.operate.verify import verify
from penstock.principals import Principal
from penstock.project import Project
from penstock.settings import Settings
from penstock.stores.base import Filter
from penstock.testing.amazon import REGION, AmazonServer, amazon_server

DEADLINE_S = 20.0
BUCKET = "reports"


@pytest.fixture
def amazon() -> Iterator[AmazonServer]:
    with amazon_server() as server:
        server.client("s3").create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        yield server


class Objects:
    """The bucket's objects."""

    def __init__(self, server: AmazonServer) -> None:
        self._s3: Any = server.client("s3")

    def put(self, key: str, text: str | bytes, **lists: str) -> None:
        body = text.encode() if isinstance(text, str) else text
        self._s3.put_object(Bucket=BUCKET, Key=key, Body=body, Metadata=metadata(lists))

    def permit(self, key: str, **lists: str) -> None:
        """As S3 changes metadata: a copy onto itself."""
        self._s3.copy_object(
            Bucket=BUCKET,
            Key=key,
            CopySource={"Bucket": BUCKET, "Key": key},
            MetadataDirective="REPLACE",
            Metadata=metadata(lists),
        )

    def delete(self, key: str) -> None:
        self._s3.delete_object(Bucket=BUCKET, Key=key)


def metadata(lists: dict[str, str]) -> dict[str, str]:
    return {f"Penstock-{name.title()}": names for name, names in lists.items()}


def settings(server: AmazonServer, folder: Path, database: str, permissions: Any) -> Settings:
    source = {
        "type": "objects",
        "bucket": BUCKET,
        "endpoint": server.endpoint,
        "region": REGION,
        "access_key": "test",
        "secret_key": "test",
        "relist": 0.1,
        "max_size": 1000,
        "permissions": permissions,
    }
    return Settings.model_validate(
        {
            "project": "lists",
            "database": database,
            "data": str(folder / "data"),
            "knowledge": {"embedder": "constant"},
            "sources": {"reports": source},
        }
    )


@asynccontextmanager
async def opened(chosen: Settings, *, running: bool = True) -> AsyncIterator[Project]:
    project = Project(chosen)
    try:
        await project.start()
        if running:
            async with project.running():
                await project.caught_up(limit_s=DEADLINE_S)
                yield project
        else:
            yield project
    finally:
        await project.close()


async def seen(project: Project, user: str | None = None, *groups: str) -> set[str]:
    context = await project.context(
        "the river", limit=50, where=Filter(), principal=Principal(user, groups)
    )
    return {item.key for item in context.items}


async def until(project: Project, user: str | None, expected: set[str]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await seen(project, user) != expected:
            await asyncio.sleep(0.01)


async def reasons(project: Project) -> list[str]:
    async with project.pool.connection() as connection:
        cursor = await connection.execute("SELECT reason FROM penstock.dead_letters ORDER BY id")
        return [str(reason) for (reason,) in await cursor.fetchall()]


async def test_g7_metadata_of_objects_say_who_may_see_them(
    amazon: AmazonServer, database_url: str, tmp_path: Path
) -> None:
    """A change of metadata alone is in force soon and embeds nothing."""
    objects = Objects(amazon)
    objects.put("pay.md", "The river of pay.", allow="user:ada, group:hr", deny="user:mallory")
    objects.put("all.md", "The river of all.", allow="everyone")
    objects.put("lost.md", "The river of nobody.")
    objects.put("front.md", "---\npermissions: {allow: everyone}\n---\nThe river of authors.")
    chosen = settings(amazon, tmp_path, database_url, {"type": "metadata"})
    async with opened(chosen) as project:
        await until(project, "ada", {"pay.md", "all.md"})
        assert await seen(project, "bob") == {"all.md"}
        assert await seen(project) == {"all.md"}
        assert await seen(project, "eve", "hr") == {"pay.md", "all.md"}
        assert await seen(project, "mallory", "hr") == {"all.md"}
        embedded = project.embedding_counts()[0]
        assert embedded
        objects.permit("pay.md", allow="user:ada user:bob")
        await until(project, "bob", {"pay.md", "all.md"})
        objects.permit("pay.md", allow="user:bob")
        await until(project, "ada", {"all.md"})
        assert await seen(project, "bob") == {"pay.md", "all.md"}
        objects.permit("all.md")
        await until(project, None, set())
        assert project.embedding_counts()[0] == embedded
        why = await explain(project, Principal("bob"), "pay.md")
        assert [ground.entry for ground in why.allowed_by] == ["its metadata"]
        assert (await verify(project)).differences == 0
        objects.delete("pay.md")
        await until(project, "bob", set())
        objects.put("pay.md", "The river of pay.", allow="user:ada")
        await until(project, "ada", {"pay.md"})
        assert await seen(project, "bob") == set()
        assert await reasons(project) == []
    objects.permit("pay.md", allow="user:bob")  # while nobody looks
    async with opened(chosen, running=False) as project:
        assert await seen(project, "ada") == {"pay.md"}
        assert await replay(project, "knowledge", position=0)
    async with opened(chosen) as project:
        await until(project, "bob", {"pay.md"})
        assert await seen(project, "ada") == set()
        assert project.embedding_counts()[0] == 0


async def test_g7_lists_that_cannot_be_read_close_and_those_of_a_broken_text_count(
    amazon: AmazonServer, database_url: str, tmp_path: Path
) -> None:
    """Each has a dead letter with its reason, and is mended by the object's next version."""
    objects = Objects(amazon)
    objects.put("a.md", "The river of a.", allow="user:ada Bob")
    objects.put("b.md", "The river of b.", allow="user:ada user:bob")
    chosen = settings(amazon, tmp_path, database_url, "metadata")
    async with opened(chosen) as project:
        await until(project, "ada", {"b.md"})
        [reason] = await reasons(project)
        assert "expected user:NAME, group:NAME or everyone, got 'Bob'" in reason
        assert "in the metadata for allow" in reason
        assert [entry for _, _, entry, _ in (await overview(project)).problems] == ["its metadata"]
        assert await retry(project, None) == {"processed": 0, "failed again": 1}
        objects.permit("a.md", allow="user:ada")
        await until(project, "ada", {"a.md", "b.md"})
        assert await retry(project, None) == {"processed": 1, "failed again": 0}
        assert await seen(project, "bob") == {"b.md"}
        # The version before goes on serving, but only those who may see the one that is there now.
        objects.put("b.md", "x" * 2000, allow="user:bob")
        await until(project, "ada", {"a.md"})
        assert await seen(project, "bob") == {"b.md"}
        assert any("at most 1,000 bytes" in reason for reason in await reasons(project))
        objects.permit("b.md", allow="user:ada")
        await until(project, "ada", {"a.md", "b.md"})
        assert await seen(project, "bob") == set()


async def test_g7_other_ways_to_say_it_leave_nothing_behind(
    amazon: AmazonServer, database_url: str, tmp_path: Path
) -> None:
    """Open, by metadata, by files beside documents, under other keys: what counted before does not
    count any more from the moment in which the project is opened."""
    objects = Objects(amazon)
    objects.put("a.md", "The river of a.", allow="user:ada", read="user:bob")
    objects.put("b.md", "The river of b.")
    objects.put("b.md.acl.yaml", "allow: [user:bob]")
    both = {"a.md", "b.md"}

    def said(permissions: Any) -> Settings:
        chosen = settings(amazon, tmp_path, database_url, permissions).model_dump()
        chosen["sources"]["reports"] |= {"secret_key": "test", "include": ["**/*.md"]}
        return Settings.model_validate({**chosen, "database": database_url})

    async with opened(said("open")) as project:
        await until(project, None, both)
    by_metadata, by_file = {"type": "metadata"}, {"type": "sidecars"}
    other_keys = {"type": "metadata", "allow": "penstock-read"}
    steps = [
        (by_metadata, "ada", {"a.md"}),
        (by_file, "bob", {"b.md"}),
        (by_metadata, "ada", {"a.md"}),
        (other_keys, "bob", {"a.md"}),
        (by_metadata, "ada", {"a.md"}),
    ]
    for permissions, user, expected in steps:
        async with opened(said(permissions), running=False) as project:
            assert await seen(project, "ada") == set()
            assert await seen(project, "bob") == set()
        async with opened(said(permissions)) as project:
            await until(project, user, expected)
            other = "bob" if user == "ada" else "ada"
            assert await seen(project, other) == set()
            assert project.embedding_counts()[0] == 0
            assert (await verify(project)).differences == 0


async def test_g7_a_dead_letter_from_before_is_read_again_with_its_list(
    amazon: AmazonServer, database_url: str, tmp_path: Path
) -> None:
    objects = Objects(amazon)
    objects.put("a.md", "x" * 2000)
    async with opened(settings(amazon, tmp_path, database_url, "open")) as project:
        async with asyncio.timeout(DEADLINE_S):
            while not await reasons(project):
                await asyncio.sleep(0.01)
    objects.put("a.md", "The river of a.", allow="user:ada")
    chosen = settings(amazon, tmp_path, database_url, "metadata")
    async with opened(chosen, running=False) as project:
        assert await retry(project, None) == {"processed": 1, "failed again": 0}
        assert await seen(project, "ada") == {"a.md"}
        assert await seen(project, "bob") == set()
