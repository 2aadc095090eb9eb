"""Random users, groups, lists and questions, against a plain model of who may see what."""

from __future__ import annotations

import random

import pytest

from penstock.database.connect import open_pool
from penstock.stores.postgres.permissions import declare
from penstock.stores.postgres.search import PostgresSnapshotStore
from penstock.stores.postgres.store import PostgresStore
from penstock.testing.permission_matrix import DECLARED, PermissionMatrix, Size
from penstock.testing.permissions import LISTS, MEMBERS


@pytest.mark.parametrize("seed", [1, 2])
async def test_g7_nothing_foreign_and_nothing_missing(database_url: str, seed: int) -> None:
    """Whatever changes, in whatever order: a search gives what its principal may see, all of it up
    to the limit, and nothing else. ``bench/permissions.py`` walks a larger one."""
    pool = await open_pool(database_url, max_size=2)
    writer, reader = PostgresStore(pool), PostgresSnapshotStore(pool)
    await writer.prepare_tables([MEMBERS, LISTS])
    await declare(pool, DECLARED, tenant="default")
    matrix = PermissionMatrix(writer, reader, random.Random(seed), Size())
    await matrix.fill()
    for _ in range(120):
        await matrix.change()
        for _ in range(4):
            await matrix.ask()
    await pool.close()
    assert matrix.tally.foreign == 0
    assert matrix.tally.missing == 0
    assert matrix.tally.hits > 300
