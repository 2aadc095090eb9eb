"""The ledger of answers in the project's database: appended in groups, chained, erasable."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import psycopg
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import translated
from penstock.database.queries import load_queries
from penstock.errors import BadRecordError, PenstockError
from penstock.principals import Principal
from penstock.records import Microseconds
from penstock.stores.ledger import (
    Contents,
    Entry,
    EntryKind,
    Forgotten,
    LedgerItem,
    NewEntry,
    OtherBodyError,
    Told,
    canonical,
    content_hash,
    first_hash,
    item_hash,
    new_id,
    owner_hash,
)

QUERIES: Final = load_queries(Path(__file__).with_name("ledger.sql"))
_MOST: Final = 100
"""Entries of one commit."""
_TRIMMED: Final = 500
"""Entries that one commit removes."""


class PostgresLedger:
    """See `penstock.stores.ledger.LedgerStore`. ``contents``: what is kept of them."""

    def __init__(
        self,
        pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]],
        *,
        tenant: str,
        contents: Contents = "kept",
    ) -> None:
        self._pool = pool
        self._tenant = tenant
        self._contents = contents
        self._key: bytes | None = None
        self._waiting: list[tuple[NewEntry, asyncio.Future[str]]] = []
        self._writer: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ writing

    async def append(self, entry: NewEntry) -> str:
        """See `LedgerStore.append`."""
        return await asyncio.shield(self.enqueue(entry))

    def enqueue(self, entry: NewEntry) -> asyncio.Future[str]:
        """As `append`, for those who cannot wait. What comes while a commit is under way goes into
        the next one, all together."""
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.ensure_future(self._write())
        return done

    async def close(self) -> None:
        """Wait until everything is written."""
        if self._writer is not None:
            await asyncio.shield(self._writer)

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            try:
                results = await self._append([entry for entry, _ in group])
            except BadRecordError as error:
                if len(group) > 1:  # one of them: the others need not suffer for it
                    for one in group:
                        await self._alone(*one)
                else:
                    _fail(group, error)
                continue
            except Exception as error:  # noqa: BLE001 - whoever waits is told
                _fail(group, error)
                continue
            _settle(group, results)

    async def _alone(self, entry: NewEntry, done: asyncio.Future[str]) -> None:
        try:
            _settle([(entry, done)], await self._append([entry]))
        except PenstockError as error:
            _fail([(entry, done)], error)

    async def _append(self, entries: Sequence[NewEntry]) -> list[tuple[str, bool]]:
        key = await self.key()
        encoded, items = self.encoded(key, entries)
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    QUERIES["append"].encode(),
                    {"tenant": self._tenant, "entries": encoded, "items": items},
                )
                rows = await cursor.fetchall()
        return [(found, other) for _, found, other in sorted(rows)]

    def encoded(self, key: bytes, entries: Sequence[NewEntry]) -> tuple[str, str]:
        """Entries and their items as ``penstock.append_ledger`` takes them."""
        items: dict[str, dict[str, Any]] = {}
        made = [self._encoded(key, entry, items) for entry in entries]
        return json.dumps(made), json.dumps(list(items.values()))

    def _encoded(
        self, key: bytes, entry: NewEntry, items: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        held = [
            replace(item, source=_text(item.source), key=_text(item.key)) for item in entry.items
        ]
        hashes = [item_hash(key, item).hex() for item in held]
        facts = {**entry.facts, "id": entry.id, "kind": entry.kind, "at": entry.at}
        body = canonical({**entry.content, "items": hashes} if hashes else entry.content)
        salt = secrets.token_bytes(16)
        kept = self._contents == "kept"
        if kept:
            for name, item in zip(hashes, held, strict=True):
                items[name] = {
                    "hash": name, "kind": item.kind, "source": item.source,
                    "key": item.key, "body": item.body,
                }  # fmt: skip
        owner = None if entry.owner is None else owner_hash(key, entry.owner).hex()
        return {
            "id": entry.id,
            "kind": entry.kind,
            "at": entry.at,
            "facts": canonical(facts),
            "content_hash": content_hash(salt, body).hex(),
            "state": "kept" if kept else "hashed",
            "salt": salt.hex(),
            "body": body if kept else None,
            "owner": owner,
            "about": entry.about,
            "uses": sorted(set(hashes)) if kept else [],
            "once": None if entry.once is None else _digest(entry.once),
            "digest": None if entry.once is None else _digest(body),
        }

    async def key(self) -> bytes:
        """The tenant's, made with the ledger."""
        if self._key is None:
            with translated():
                async with self._pool.connection() as connection:
                    values = {"tenant": self._tenant, "first": first_hash(self._tenant)}
                    await connection.execute(QUERIES["begin"].encode(), values)
                    cursor = await connection.execute(QUERIES["key"].encode(), values)
                    row = await cursor.fetchone()
            assert row is not None
            self._key = bytes(row[0])
        return self._key

    # ------------------------------------------------------------------ reading

    async def find(self, entry_id: str, owner: Principal | None = None) -> Entry | None:
        """See `LedgerStore.find`."""
        if "\x00" in entry_id:
            return None
        rows = await self._rows("find", id=entry_id.encode("utf-8", "replace").decode())
        if not rows:
            return None
        if owner is not None and bytes(rows[0][-1] or b"") != owner_hash(await self.key(), owner):
            return None
        entry = _entry(rows[0])
        hashes = [bytes.fromhex(name) for name in (entry.content or {}).get("items", ())]
        if not hashes:
            return entry
        found = {
            bytes(row[0]): LedgerItem(row[1], row[4], row[2], row[3])
            for row in await self._rows("items", hashes=hashes)
        }
        return _entry(rows[0], [found.get(name) for name in hashes])

    async def entries(
        self,
        *,
        kinds: Sequence[EntryKind] = ("answer",),
        limit: int = 100,
        about: str | None = None,
    ) -> AsyncIterator[Entry]:
        """See `LedgerStore.entries`."""
        for row in await self._rows("entries", kinds=list(kinds), limit=limit, about=about):
            yield _entry(row)

    async def _rows(self, name: str, **values: object) -> list[tuple[Any, ...]]:
        with translated():
            async with self._pool.connection() as connection:
                cursor = await connection.execute(
                    QUERIES[name].encode(), {"tenant": self._tenant, **values}
                )
                return await cursor.fetchall()

    # ------------------------------------------------------------------ erasing, ending

    async def forget(self, subject: Told, now: Microseconds) -> Forgotten:
        """Erase the content of all entries that hold a subject: what was shown of its records, what
        it asked, what mentions its values, and what is about these. The chain still fits, and an
        entry of its own says which were erased."""
        key = await self.key()
        named = self._named(key, subject)
        with translated():
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(QUERIES["lock"].encode(), named)
                cursor = await connection.execute(QUERIES["touched"].encode(), named)
                numbers = [row[0] for row in await cursor.fetchall()]
                if not numbers:
                    return Forgotten()
                erased = {"tenant": self._tenant, "numbers": numbers}
                await connection.execute(QUERIES["redact"].encode(), erased)
                await connection.execute(QUERIES["forget_once"].encode(), erased)
                items = await self._release(connection, numbers)
                entry = self._note("erasure", now, {"redacted": numbers, "items": items})
                await self._append_within(connection, key, entry)
        return Forgotten(len(numbers), items, entry.id)

    async def holding(self, subject: Told) -> list[tuple[str, str]]:
        """The ids and kinds of the entries that `forget` would erase the content of."""
        named = self._named(await self.key(), subject)
        rows = await self._rows("touched", **{n: v for n, v in named.items() if n != "tenant"})
        return await self._rows("named", numbers=[number for (number,) in rows])

    def _named(self, key: bytes, subject: Told) -> dict[str, Any]:
        owner = None if subject.user is None else owner_hash(key, Principal(subject.user))
        return {
            "tenant": self._tenant,
            "sources": [_text(source) for source, _ in subject.records],
            "keys": [_text(name) for _, name in subject.records],
            "values": [canonical(value)[1:-1] for value in subject.values if value.strip()],
            "owner": owner,
        }

    async def trim(self, before: Microseconds, now: Microseconds) -> int:
        """Remove entries that are older, oldest first, up to a checkpoint from which the rest can
        be verified; returns how many. The checkpoint is an entry of the chain itself."""
        key = await self.key()
        removed = 0
        while True:
            with translated():
                async with self._pool.connection() as connection, connection.transaction():
                    count = await self._trim_some(connection, key, before, now)
            removed += count
            if count < _TRIMMED:
                return removed

    async def _trim_some(
        self,
        connection: psycopg.AsyncConnection[Any],
        key: bytes,
        before: Microseconds,
        now: Microseconds,
    ) -> int:
        values: dict[str, Any] = {"tenant": self._tenant, "before": before, "limit": _TRIMMED}
        await connection.execute(QUERIES["lock"].encode(), values)
        cursor = await connection.execute(QUERIES["outdated"].encode(), values)
        row = await cursor.fetchone()
        if row is None:
            return 0
        values |= {"number": row[0], "hash": row[1]}
        reached = {"number": row[0], "hash": bytes(row[1]).hex()}
        entry = self._note("checkpoint", now, reached)
        await self._append_within(connection, key, entry)
        await connection.execute(QUERIES["checkpoint"].encode(), values)
        cursor = await connection.execute(QUERIES["trimmed"].encode(), values)
        numbers = [found[0] for found in await cursor.fetchall()]
        await connection.execute(QUERIES["drop_contents"].encode(), values)
        await connection.execute(
            QUERIES["forget_once"].encode(), {"tenant": self._tenant, "numbers": numbers}
        )
        await self._release(connection, numbers)
        await connection.execute(QUERIES["drop_entries"].encode(), values)
        return len(numbers)

    async def _release(
        self, connection: psycopg.AsyncConnection[Any], numbers: Sequence[int]
    ) -> int:
        """Entries use nothing any more; returns how many items went with that."""
        cursor = await connection.execute(
            QUERIES["release"].encode(), {"tenant": self._tenant, "numbers": list(numbers)}
        )
        hashes = [row[0] for row in await cursor.fetchall()]
        swept = await connection.execute(
            QUERIES["sweep"].encode(), {"tenant": self._tenant, "hashes": hashes}
        )
        return swept.rowcount

    def _note(self, kind: EntryKind, at: Microseconds, facts: dict[str, Any]) -> NewEntry:
        return NewEntry(kind, new_id(kind), at, facts, {})

    async def _append_within(
        self, connection: psycopg.AsyncConnection[Any], key: bytes, entry: NewEntry
    ) -> None:
        entries, items = self.encoded(key, [entry])
        await connection.execute(
            QUERIES["append"].encode(),
            {"tenant": self._tenant, "entries": entries, "items": items},
        )


def _entry(row: tuple[Any, ...], items: Sequence[LedgerItem | None] = ()) -> Entry:
    number, name, kind, at, facts, hashed, state, body, about, _ = row
    content = None if body is None else json.loads(body)
    return Entry(
        number, name, kind, at, json.loads(facts), bytes(hashed), state, content, about, items
    )


_Waiting: TypeAlias = Sequence[tuple[NewEntry, "asyncio.Future[str]"]]


def _settle(group: _Waiting, results: Sequence[tuple[str, bool]]) -> None:
    """Tell those who wait which id it has."""
    for (entry, done), (found, other) in zip(group, results, strict=True):
        if other:
            _fail([(entry, done)], _other_body(entry))
        elif not done.cancelled():
            done.set_result(found)


def _fail(group: _Waiting, error: Exception) -> None:
    for _, done in group:
        if not done.cancelled():
            done.set_exception(error)
            done.exception()  # one who does not look makes no mistake


def _other_body(entry: NewEntry) -> OtherBodyError:
    return OtherBodyError(
        f"expected an idempotency key for one body, got {(entry.once or '')[:100]!r} with another "
        "one than before: take a new key for what is new"
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _text(text: str | None) -> str | None:
    """As the database can hold it."""
    return (
        None if text is None else text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
    )
