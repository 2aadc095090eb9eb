"""API keys in the project's database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.keys import ApiKey, Scope
from penstock.principals import Principal
from penstock.records import Microseconds

_ADD: Final = """
INSERT INTO penstock.api_keys (id, digest, label, user_name, user_groups, tenant, scopes,
                               created_at, expires_at, revoked_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_READ: Final = """
SELECT id, digest, label, user_name, user_groups, tenant, scopes, created_at, expires_at, revoked_at
FROM penstock.api_keys
"""
_FIND: Final = _READ + "WHERE id = %s"
_OF_TENANT: Final = _READ + "WHERE tenant = %s ORDER BY created_at DESC, id"
_REVOKE: Final = """
UPDATE penstock.api_keys SET revoked_at = coalesce(revoked_at, %s)
WHERE tenant = %s AND id = %s RETURNING id
"""


class PostgresKeys:
    """See `penstock.stores.keys.KeyStore`."""

    def __init__(self, pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]]) -> None:
        self._pool = pool

    async def add(self, key: ApiKey) -> None:
        """See `KeyStore.add`."""
        who = key.principal
        await self._rows(
            _ADD,
            [
                key.id,
                key.digest,
                key.label,
                who.user,
                list(who.groups),
                who.tenant,
                sorted(key.scopes),
                key.created_at,
                key.expires_at,
                key.revoked_at,
            ],
        )

    async def find(self, key_id: str) -> ApiKey | None:
        """See `KeyStore.find`."""
        rows = await self._rows(_FIND, [key_id])
        return _key(rows[0]) if rows else None

    async def all_of(self, tenant: str) -> Sequence[ApiKey]:
        """See `KeyStore.all_of`."""
        return [_key(row) for row in await self._rows(_OF_TENANT, [tenant])]

    async def revoke(self, tenant: str, key_id: str, now: Microseconds) -> bool:
        """See `KeyStore.revoke`."""
        return bool(await self._rows(_REVOKE, [now, tenant, key_id]))

    async def _rows(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(statement.encode(), values)
                return await cursor.fetchall() if cursor.description else []


def _key(row: tuple[Any, ...]) -> ApiKey:
    name, digest, label, user, groups, tenant, scopes, created, expires, revoked = row
    return ApiKey(
        name,
        bytes(digest),
        label,
        Principal(user, tuple(groups), tenant),
        frozenset(Scope(scope) for scope in scopes),
        created,
        expires,
        revoked,
    )
