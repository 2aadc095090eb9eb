"""The schema is what the numbered files make of an empty database, however they are applied."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.database.connect import connect
from penstock.database.migrate import Migration, migrate, read_migrations
from penstock.errors import BadRecordError, FatalError

# Everything that a catalog knows of the schema, as text that can be compared.
DESCRIBE = """
SELECT 'column', format('%s.%s', attrelid::regclass, attname), format('%s %s %s %s %s',
    attnum, format_type(atttypid, atttypmod), attnotnull, attstorage, attcollation::regcollation)
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE relnamespace = 'penstock'::regnamespace AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT 'relation', oid::regclass::text, format('%s %s %s %s %s', relkind, relrowsecurity,
    relforcerowsecurity, reloptions, relacl)
FROM pg_class WHERE relnamespace = 'penstock'::regnamespace
UNION ALL
SELECT 'default', format('%s.%s', adrelid::regclass, adnum), pg_get_expr(adbin, adrelid)
FROM pg_attrdef
UNION ALL
SELECT 'constraint', format('%s.%s', conrelid::regclass, conname), pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'penstock'::regnamespace
UNION ALL
SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid)
FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE relnamespace = 'penstock'::regnamespace
UNION ALL
SELECT 'function', oid::regprocedure::text, pg_get_functiondef(oid)
FROM pg_proc WHERE pronamespace = 'penstock'::regnamespace
UNION ALL
SELECT 'policy', format('%s.%s', polrelid::regclass, polname), format('%s %s %s %s', polcmd,
    polroles::regrole[], pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
FROM pg_policy
UNION ALL
SELECT 'trigger', format('%s.%s', tgrelid::regclass, tgname), pg_get_triggerdef(oid)
FROM pg_trigger WHERE NOT tgisinternal
ORDER BY 1, 2, 3
"""


async def describe(dsn: str) -> list[tuple[Any, ...]]:
    async with await connect(dsn) as connection:
        return await (await connection.execute(DESCRIBE)).fetchall()


async def test_a_schema_made_at_once_equals_one_made_release_by_release(
    database_url: str, source_url: str
) -> None:
    """Fresh schema = replayed migrations: nobody's database depends on when it was made."""
    migrations = read_migrations()
    applied = []
    for known in range(1, len(migrations) + 1):
        applied += await migrate(source_url, migrations=migrations[:known])
    assert applied == [f"{one.number:04}_{one.name}" for one in migrations]
    described = await describe(source_url)
    assert len(described) > 100
    assert described == await describe(database_url)


async def test_migrating_again_changes_nothing(database_url: str) -> None:
    """Every start migrates; a database that is up to date is left alone."""
    before = await describe(database_url)
    assert await migrate(database_url) == []
    assert await describe(database_url) == before


async def test_two_that_start_at_once_apply_each_migration_once(source_url: str) -> None:
    """One of them waits for the other."""
    first, second, third = await asyncio.gather(*(migrate(source_url) for _ in range(3)))
    assert sorted(first + second + third) == [
        f"{one.number:04}_{one.name}" for one in read_migrations()
    ]


async def test_a_changed_migration_is_refused(database_url: str) -> None:
    """What was applied is history: a file that differs from it is somebody's mistake."""
    first, *rest = read_migrations()
    changed = [replace(first, text=first.text + "-- changed\n"), *rest]
    with pytest.raises(FatalError, match=r"0001_spine was applied with other contents"):
        await migrate(database_url, migrations=changed)


async def test_a_database_of_a_newer_version_is_refused(database_url: str) -> None:
    """Old code does not guess at a schema that it does not know."""
    ours = read_migrations()
    newer = Migration(len(ours) + 1, "tomorrow", "SELECT 1")
    assert await migrate(database_url, migrations=[*ours, newer]) == [f"{newer.number:04}_tomorrow"]
    with pytest.raises(FatalError, match=f"newer Penstock.*{newer.number:04}_tomorrow"):
        await migrate(database_url)


async def test_a_failed_migration_leaves_the_schema_as_it_was(database_url: str) -> None:
    """Each file is one transaction, its record included."""
    ours = read_migrations()
    before = await describe(database_url)
    broken = Migration(len(ours) + 1, "broken", "CREATE TABLE penstock.half (); SELECT 1 / 0;")
    with pytest.raises(BadRecordError, match="division by zero"):
        await migrate(database_url, migrations=[*ours, broken])
    assert await describe(database_url) == before
    assert await migrate(database_url) == []


def test_files_are_numbered_without_gaps(tmp_path: Path) -> None:
    """Two branches that add the same number, or a gap, are found before anything is applied."""
    (tmp_path / "0001_one.sql").write_text("SELECT 1")
    (tmp_path / "0003_three.sql").write_text("SELECT 3")
    with pytest.raises(FatalError, match=r"numbered 1, 2, 3.*found \[1, 3\]"):
        read_migrations(tmp_path)
    (tmp_path / "0003_three.sql").rename(tmp_path / "Third.sql")
    with pytest.raises(FatalError, match=r"NNNN_name.sql, found 'Third.sql'"):
        read_migrations(tmp_path)
