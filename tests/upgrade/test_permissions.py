"""A project database from before permissions were declared keeps what its documents said."""

from __future__ import annotations

from penstock.database.connect import connect, open_pool
from penstock.database.migrate import migrate, read_migrations
from penstock.principals import Principal
from penstock.stores.postgres.permissions import Declared, declare
from penstock.stores.postgres.search import PostgresSnapshotStore
from penstock.testing.permissions import CLOSED_ELSE

OLD = """
INSERT INTO penstock.models (name, dimensions) VALUES ('m', 2);
INSERT INTO penstock.documents (id, tenant, source, key, allow, deny, position, committed_at,
                                layout, starts, ends)
SELECT n, t, 'docs', k, a::text[], d::text[], '1', 1, ARRAY[n], '{0}', '{1}'
FROM (VALUES (1, 'default', 'open', NULL, '{}'), (2, 'default', 'staff', '{group:staff}', '{}'),
             (3, 'default', 'nobody', '{}', '{}'), (4, 'default', 'not-eve', NULL, '{user:eve}'),
             (5, 'default', 'same', '{group:staff}', '{}'), (6, 'other', 'theirs', NULL, '{}'))
     v (n, t, k, a, d);
INSERT INTO penstock.chunks (id, tenant, document_id, hash, model, text)
SELECT id, tenant, id, int8send(id), 1, 'x' FROM penstock.documents;
CREATE SCHEMA shop;
CREATE TABLE shop.things (id int PRIMARY KEY, _penstock_position text COLLATE "C" NOT NULL,
    _penstock_committed_at bigint NOT NULL, _penstock_tenant text NOT NULL DEFAULT 'default');
ALTER TABLE shop.things ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY readable ON shop.things TO penstock_reader
    USING (_penstock_tenant = penstock.tenant());
CREATE POLICY written ON shop.things TO CURRENT_USER USING (true) WITH CHECK (true);
GRANT USAGE ON SCHEMA shop TO penstock_reader;
GRANT SELECT ON shop.things TO penstock_reader;
INSERT INTO shop.things VALUES (1, '1', 1);
INSERT INTO penstock.live_tables (source, stream, schema_name, table_name, columns)
VALUES ('shop', 'public.things', 'shop', 'things', '[["id", "integer", true]]');
"""


async def test_g7_an_older_database_keeps_its_lists(source_url: str) -> None:
    """What was open stays open, what had a list keeps it; declared, also old tables obey."""
    await migrate(source_url, migrations=read_migrations()[:4])
    async with await connect(source_url) as connection:
        await connection.execute(OLD.encode())
    assert (await migrate(source_url))[0] == "0005_permissions"
    pool = await open_pool(source_url, max_size=2)
    reader = PostgresSnapshotStore(pool)

    async def seen(principal: Principal) -> tuple[set[str], int]:
        async with reader.snapshot(principal) as snapshot:
            keys = {p.key for p in await snapshot.passages(range(1, 10))}
            cursor = await snapshot._connection.execute("SELECT count(*) FROM shop.things")
            [(rows,)] = await cursor.fetchall()
        return keys, rows

    assert await seen(Principal()) == ({"open", "not-eve"}, 1)
    assert await seen(Principal("eve")) == ({"open"}, 1)
    assert await seen(Principal("ada", ("staff",))) == ({"open", "not-eve", "staff", "same"}, 1)
    assert await seen(Principal(tenant="other")) == ({"theirs"}, 0)
    async with await connect(source_url) as connection:
        cursor = await connection.execute("SELECT count(*) FROM penstock.lists WHERE id > 0")
        assert await cursor.fetchone() == (2,), "equal lists are one"
    assert not await declare(pool, Declared(), tenant="default"), "no permissions: nothing to do"
    assert await declare(pool, Declared([CLOSED_ELSE]), tenant="default")
    assert await seen(Principal("ada", ("staff",))) == (set(), 0)
    assert await seen(Principal(tenant="other")) == ({"theirs"}, 0)
    await pool.close()
