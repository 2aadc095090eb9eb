"""Profiles as they are read: by id, by identifier, by record; and what happened to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, LiteralString, NamedTuple

import orjson
import psycopg

from penstock.database.queries import load_queries
from penstock.identity.details import Details
from penstock.identity.evidence import RecordKey
from penstock.records import Microseconds
from penstock.stores.base import ProfileRecord, StoredProfile, TraitValue
from penstock.stores.details import ProfileDetails
from penstock.stores.postgres.arrays import array_literal
from penstock.stores.postgres.profiles.detailing import Detailing

Connection = psycopg.AsyncConnection[Any]

SQL: Final = load_queries(Path(__file__).with_name("reading.sql"))


class ProfileEvent(NamedTuple):
    """What happened to a profile, under a number that rises."""

    number: int
    event: str
    profile: str
    other: str | None
    detail: dict[str, Any]
    at: Microseconds


class Held(NamedTuple):
    """A tie that was refused between two records, with their profiles."""

    left: str
    left_profile: str
    right: str
    right_profile: str
    via: str
    why: str
    detail: str
    since: Microseconds


class Listed(NamedTuple):
    """A profile in a list."""

    id: str
    records: int
    traits: dict[str, list[str]]
    changed_at: Microseconds


class Totals(NamedTuple):
    """How many profiles there are; ids that resolve to another; records; the most of one profile;
    ties that wait for a person."""

    profiles: int
    merged: int
    records: int
    largest: int
    held: int


class PostgresProfiles:
    """The profiles of one kind, read through a connection that is the caller's."""

    def __init__(self, connection: Connection, tenant: str, kind: str) -> None:
        self._connection = connection
        self._tenant = tenant
        self._kind = kind

    async def profile(self, id_: str) -> StoredProfile | None:
        """The profile that an id means now; None where there is none (any more)."""
        found = await self._profile(id_)
        if found is not None:
            return found
        cursor = await self._run("meant", ids=array_literal([id_]))
        row = await cursor.fetchone()
        return None if row is None else await self._profile(row[1], asked=id_)

    async def _profile(self, id_: str, asked: str | None = None) -> StoredProfile | None:
        cursor = await self._run("profile", id=id_)
        row = await cursor.fetchone()
        return None if row is None else _profile(self._kind, row, asked)

    async def details(self, id_: str, wanted: Details, now: Microseconds) -> ProfileDetails:
        """What is known of a profile beside its traits, whoever asks."""
        return await Detailing(self._connection, self._tenant, self._kind).read(id_, wanted, now)

    async def bearing(self, identifiers: Sequence[str], *, limit: int = 100) -> list[str]:
        """The ids of profiles that bear one of these identifiers (as ``kind:value``)."""
        cursor = await self._run("bearing", identifiers=array_literal(identifiers), count=limit)
        return [id_ for (id_,) in await cursor.fetchall() if id_ is not None]

    async def of_record(self, key: RecordKey) -> str | None:
        """The profile of a record."""
        cursor = await self._run("of_record", source=key.source, stream=key.table, key=key.key)
        row = await cursor.fetchone()
        return None if row is None else row[0]

    async def largest(self, limit: int) -> list[Listed]:
        """Profiles, the largest first."""
        cursor = await self._run("list", count=limit)
        return [
            Listed(
                id_,
                records,
                {name: [one[0] for one in said] for name, said in orjson.loads(traits).items()},
                changed_at,
            )
            for id_, records, traits, changed_at in await cursor.fetchall()
        ]

    async def totals(self) -> Totals:
        """How many there are."""
        cursor = await self._run("totals")
        row = await cursor.fetchone()
        assert row is not None
        return Totals(*map(int, row))

    async def events(
        self,
        *,
        after: int = 0,
        profiles: Sequence[str] | None = None,
        created: bool = True,
        limit: int = 1000,
    ) -> list[ProfileEvent]:
        """What happened behind a number, in order: to these profiles, or to all; also that one was
        made, or not. Whoever reads on from the last number misses nothing."""
        cursor = await self._run(
            "events",
            after=after,
            profiles=None if profiles is None else list(profiles),
            created=created,
            count=limit,
        )
        return [
            ProfileEvent(number, event, profile, other, orjson.loads(detail), at)
            for number, event, profile, other, detail, at in await cursor.fetchall()
        ]

    async def held(self, why: str | None = None, *, limit: int = 1000) -> list[Held]:
        """Ties that are refused; of these, ``size`` waits for a person."""
        cursor = await self._run("held", why=why, count=limit)
        return [Held(*row) for row in await cursor.fetchall()]

    async def shared(self, identifiers: Sequence[str]) -> dict[str, int]:
        """How many records bear each."""
        cursor = await self._run("shared", identifiers=array_literal(identifiers))
        return dict(await cursor.fetchall())

    async def decisions(self) -> list[dict[str, Any]]:
        """What people decided, also what they took back."""
        cursor = await self._run("decisions")
        return [
            {
                "number": number,
                "verb": verb,
                "identifier": identifier,
                "by": by,
                "reason": reason,
                "at": at,
                "revoked_at": revoked_at,
                "records": [
                    [side, str(RecordKey(source, stream, key))]
                    for side, source, stream, key in orjson.loads(named or "[]")
                ],
            }
            for number, verb, identifier, by, reason, at, revoked_at, named in (
                await cursor.fetchall()
            )
        ]

    async def _run(self, statement: LiteralString, **parameters: Any) -> psycopg.AsyncCursor[Any]:
        return await self._connection.execute(
            SQL[statement],
            {"tenant": self._tenant, "kind": self._kind, **parameters},
            prepare=True,
        )


def _profile(kind: str, row: Sequence[Any], asked: str | None) -> StoredProfile:
    id_, _, _, version, traits, created_at, changed_at, records = row
    return StoredProfile(
        kind=kind,
        id=id_,
        asked=asked or id_,
        version=version,
        created_at=created_at,
        changed_at=changed_at,
        traits={
            name: tuple(
                TraitValue(value, source, table, key, at) for value, source, table, key, at in said
            )
            for name, said in orjson.loads(traits).items()
        },
        records=tuple(
            ProfileRecord(source, table, key, tuple(identifiers), position, said_at, committed_at)
            for source, table, key, identifiers, position, said_at, committed_at in orjson.loads(
                records or "[]"
            )
        ),
    )
