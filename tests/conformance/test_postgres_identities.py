"""Large values that an update leaves out, and keys that move, under every replica identity."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import psycopg
import pytest

from penstock.operate.verify import verify
from penstock.project import Project
from penstock.settings import Settings

DEADLINE_S = 25.0
LARGE: Final = {
    "text": "repeat(md5(n::text), 300)",
    "character varying": "repeat(md5(n::text), 300)",
    "bytea": "decode(repeat(md5(n::text), 300), 'hex')",
    "jsonb": "jsonb_build_object('k', repeat(md5(n::text), 300))",
    "json": "json_build_object('k', repeat(md5(n::text), 300))",
    "tsvector": "to_tsvector('simple', (SELECT string_agg(md5((n + m)::text), ' ') "
    "FROM generate_series(1, 300) m))",
    "integer[]": "(SELECT array_agg(n * m) FROM generate_series(1, 5000) m)",
    "bigint[]": "(SELECT array_agg(n::bigint * m) FROM generate_series(1, 5000) m)",
    "text[]": "(SELECT array_agg(md5((n * m)::text)) FROM generate_series(1, 300) m)",
    "character varying(40)[]": "(SELECT array_agg(md5(m::text)) FROM generate_series(1, 300) m)",
    "character(40)[]": "(SELECT array_agg(md5((n * m)::text)) FROM generate_series(1, 300) m)",
    "date[]": "(SELECT array_agg('2000-01-01'::date + m) FROM generate_series(1, 5000) m)",
    "bytea[]": "(SELECT array_agg(decode(md5(m::text), 'hex')) FROM generate_series(1, 900) m)",
    "uuid[]": "(SELECT array_agg(md5(m::text)::uuid) FROM generate_series(1, 900) m)",
    "json[]": "(SELECT array_agg(to_json(md5(m::text))) FROM generate_series(1, 300) m)",
}
"""Types whose values are stored apart, with an expression for a large one."""

IDENTITIES: Final = {
    "default": "ALTER TABLE large REPLICA IDENTITY DEFAULT",
    "full": "ALTER TABLE large REPLICA IDENTITY FULL",
    "index": "ALTER TABLE large REPLICA IDENTITY USING INDEX large_other_key",
}

STORY: Final = (
    "UPDATE large SET small = 'small' WHERE id <= 4",
    "UPDATE large SET id = id + 100 WHERE id IN (1, 2)",
    "UPDATE large SET other = other + 100 WHERE id IN (3, 101)",
    """BEGIN; UPDATE large SET id = -1 WHERE id = 4; UPDATE large SET id = 4 WHERE id = 5;
       UPDATE large SET id = 5 WHERE id = -1; COMMIT""",
    """BEGIN; UPDATE large SET small = 'twice' WHERE id = 6; UPDATE large SET id = 106 WHERE id = 6;
       DELETE FROM large WHERE id = 106; COMMIT""",
    "UPDATE large SET c0 = 'now small' WHERE id = 7",
    "DELETE FROM large WHERE id = 8",
    "INSERT INTO large (id, other, small) VALUES (9, 9, 'no large values')",
)


@pytest.fixture(params=IDENTITIES)
async def shop(
    source_url: str, request: pytest.FixtureRequest
) -> AsyncIterator[psycopg.AsyncConnection]:
    """A table with a large value of each type, under one replica identity."""
    columns = ", ".join(["small text", *(f"c{i} {of}" for i, of in enumerate(LARGE))])
    values = ", ".join(LARGE.values())
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
        for statement in (
            f"CREATE TABLE large (id int PRIMARY KEY, other int UNIQUE NOT NULL, {columns})",
            IDENTITIES[request.param],
            f"INSERT INTO large SELECT n, n, 'x', {values} FROM generate_series(1, 8) n",
        ):
            await connection.execute(statement.encode())
        yield connection


async def test_g1_g2_unchanged_large_values_and_moving_keys(
    shop: psycopg.AsyncConnection, source_url: str, database_url: str, tmp_path: Path
) -> None:
    """Neither an update beside large values nor a key that moves, swaps or ends in one transaction
    changes what the live table holds of the rest; copied or streamed makes no difference."""
    settings = Settings.model_validate(
        {
            "project": "identity",
            "database": database_url,
            "data": str(tmp_path),
            "knowledge": {"embedder": "constant"},
            "sources": {
                "shop": {
                    "type": "postgres",
                    "dsn": source_url,
                    "heartbeat": 0.1,
                    "tables": ["large"],
                }
            },
        }
    )
    values = ", ".join(LARGE.values())
    project = Project(settings)
    try:
        await project.start()
        async with project.running():
            await project.caught_up(limit_s=DEADLINE_S)
            for statement in STORY:
                await shop.execute(statement.encode())
            streamed = (
                f"INSERT INTO large SELECT n, n, 'x', {values} FROM generate_series(51, 53) n"
            )
            await shop.execute(streamed.encode())
            await shop.execute("UPDATE large SET small = 'of the stream' WHERE id > 50")
            await project.caught_up(limit_s=DEADLINE_S)
        project.meters.sources.clear()  # the source stands still: one look is enough
        report = await verify(project)
        assert [name for part in report.sources for name in part.named] == []
        assert report.sources[0].compared == 10
    finally:
        await project.close()
