from __future__ import annotations

from penstock.database.migrate import migrate


async def test_a_migrated_database_needs_nothing(database_url: str) -> None:
    assert await migrate(database_url) == []


async def test_fresh(source_url: str) -> None:
    assert (await migrate(source_url))[0] == "0001_spine"
