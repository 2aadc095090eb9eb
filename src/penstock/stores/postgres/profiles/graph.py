"""The identity graph of one kind of profile, within one transaction of its only writer.

The writer holds the kind's advisory lock until it commits, so what it reads does not change under
it, and what it leaves is what the next one finds: several workers with several sources take turns.
A kind is the unit because evidence of any source may tie any records of it.

New records are kept in memory until it is known which profile they belong to, so that each is
written once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, LiteralString

import orjson
import psycopg
import structlog

from penstock.database.queries import load_queries
from penstock.errors import FatalError
from penstock.identity.evidence import Identifier, Match, Record, RecordKey
from penstock.identity.graph import Member, Settled, Stored, Tied
from penstock.identity.ids import Profile
from penstock.identity.rules import Rules
from penstock.records import Position
from penstock.stores.postgres.arrays import array_literal, numbers_literal
from penstock.stores.postgres.profiles import matching, rows
from penstock.stores.postgres.profiles.matching import Matchers, StoredMatching
from penstock.stores.postgres.profiles.rows import decision_of, json_text, stored_of

Connection = psycopg.AsyncConnection[Any]

SQL: Final = load_queries(Path(__file__).with_name("graph.sql"))
logger = structlog.get_logger("penstock.profiles")


class PostgresGraph:
    """See `penstock.identity.graph.Graph`. Made by `opened`."""

    def __init__(
        self,
        connection: Connection,
        tenant: str,
        kind: str,
        rules: Rules,
        matchers: Matchers | None = None,
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._kind = kind
        self._rules = rules
        self._matchers = matchers or Matchers()
        self._matchings: list[StoredMatching] = []
        self._used: StoredMatching | None = None
        # What this transaction has read or written, so that nothing is read twice.
        self._rows: dict[RecordKey, Stored] = {}
        self._ids: dict[RecordKey, int] = {}
        self._keys: dict[int, RecordKey] = {}
        self._waiting: set[RecordKey] = set()
        self._fresh: set[int] = set()
        self._decided = False
        self._refused = False
        self.sweeps: dict[tuple[str, str], Position] = {}
        self.touched: set[str] = set()
        """Profiles that were written, or rest by now; whoever reads it empties it."""

    async def open(self) -> None:
        """Take the kind's lock; from here on nobody else writes in it."""
        await self._run("lock")
        cursor = await self._run("state")
        row = await cursor.fetchone()
        assert row is not None
        self._decided, self._refused, sweeps = row
        self.sweeps = {(source, stream): at for source, stream, at in orjson.loads(sweeps)}
        await self._open_models()

    async def _open_models(self) -> None:
        """The model by which records are matched, and the one that is prepared to follow it."""
        names = {"tenant": self._tenant, "kind": self._kind}
        cursor = await self._connection.execute(matching.SQL["models"], names, prepare=True)
        self._matchings, self._used = [], None
        for number, state, version in await cursor.fetchall():
            matcher = await self._matchers.of(self._connection, names, number, version)
            one = StoredMatching(self._connection, names, self._rules, number, matcher)
            self._matchings.append(one)
            if state == "used":
                self._used = one

    @property
    def rules(self) -> Rules:
        """The rules, with what the model in use adds to them."""
        once = self._used is not None and self._used.matcher.model.one_per_source
        return replace(self._rules, once_per_table=True) if once else self._rules

    @property
    def used(self) -> StoredMatching | None:
        """The matches that tie now."""
        return self._used

    def matching(self, number: int) -> StoredMatching | None:
        """The matches of a model that is in use or prepared."""
        return next((one for one in self._matchings if one.number == number), None)

    # ------------------------------------------------------------------ evidence

    async def stored(self, keys: Sequence[RecordKey]) -> Mapping[RecordKey, Stored]:
        asked = [key for key in keys if key not in self._rows]
        if asked:
            cursor = await self._run("stored", **_names(asked))
            for number, *row in await cursor.fetchall():
                self._keep(number, stored_of(row, self._rules))
        return {key: self._rows[key] for key in keys if key in self._rows}

    def _keep(self, number: int, row: Stored) -> None:
        self._rows[row.record.key] = row
        self._ids[row.record.key] = number
        self._keys[number] = row.record.key

    async def bearers(
        self, identifiers: Mapping[Identifier, int]
    ) -> Mapping[Identifier, Sequence[Member]]:
        asked = list(identifiers)
        cursor = await self._run(
            "bearers",
            identifier=array_literal([str(identifier) for identifier in asked]),
            most=numbers_literal(identifiers[identifier] + 1 for identifier in asked),
        )
        found: dict[Identifier, list[Member]] = {}
        for place, number, *row in await cursor.fetchall():
            found.setdefault(asked[place - 1], []).append(self._member(number, row))
        return found

    def _member(self, number: int, row: Sequence[Any]) -> Member:
        if number not in self._keys:
            self._keep(number, stored_of(row, self._rules))
        known = self._rows[self._keys[number]]
        return Member(known.record, known.place)

    async def members(self, profiles: Collection[str]) -> Sequence[Member]:
        if not profiles:
            return ()
        cursor = await self._run("members", profiles=array_literal(sorted(profiles)))
        found = [self._member(number, row) for number, *row in await cursor.fetchall()]
        return [member for member in found if member.place and member.place.profile in profiles]

    async def tied(self, keys: Sequence[RecordKey]) -> Tied:
        matches = await self._matched(keys)
        named = {key for match in matches for key in (match.left, match.right)} - set(keys)
        if not self._decided:
            return Tied(matches, (), await self._there(named))
        cursor = await self._run("decided", **_names(keys))
        decisions = [decision_of(row) for row in await cursor.fetchall()]
        named |= {key for said in decisions for key in (*said.left, *said.right)} - set(keys)
        return Tied(matches, decisions, await self._there(named))

    async def _there(self, keys: Collection[RecordKey]) -> list[Member]:
        """Those of these records that are not gone."""
        there = await self.stored(sorted(keys)) if keys else {}
        return [Member(r.record, r.place) for r in there.values() if r.values is not None]

    async def _matched(self, keys: Sequence[RecordKey]) -> list[Match]:
        if self._used is None:
            return []
        numbers = [self._ids[key] for key in keys if key in self._ids]
        found = await self._used.matches(numbers, self._used.matcher.link)
        await self.load({number for one in found for number in (one.one, one.other)})
        return matching.as_matches(found, self._keys)

    async def load(self, numbers: Collection[int]) -> Mapping[int, Record]:
        """Records by their numbers."""
        asked = sorted(number for number in numbers if number not in self._keys)
        if asked:
            cursor = await self._connection.execute(
                matching.SQL["by_id"], {"record": numbers_literal(asked)}, prepare=True
            )
            for number, *row in await cursor.fetchall():
                self._keep(number, stored_of(row, self._rules))
        return {n: self._rows[self._keys[n]].record for n in numbers if n in self._keys}

    def known_record(self, number: int) -> Record | None:
        """A record that this transaction has read or written."""
        key = self._keys.get(number)
        return None if key is None else self._rows[key].record

    async def rematch(self, keys: Collection[RecordKey]) -> Sequence[Member]:
        changed = {self._ids[key]: self._rows[key].record for key in keys}
        touched: set[int] = set()
        for one in self._matchings:
            found = await one.rematch(changed, self._fresh & changed.keys(), self.known_record)
            if one is self._used:
                touched = found
        self._fresh -= changed.keys()
        await self.load(touched)
        return await self._there({self._keys[number] for number in touched})

    async def blocked(self, identifiers: Collection[Identifier]) -> Collection[Identifier]:
        if not self._decided:
            return ()
        cursor = await self._run("blocked")
        blocked = {rows.identifier_of(text) for (text,) in await cursor.fetchall()}
        return blocked & set(identifiers)

    async def write(self, rows: Mapping[RecordKey, Stored]) -> None:
        """Who bears what is written at once, so that it can be asked; the rows wait in memory for
        their profiles."""
        new = [key for key in rows if key not in self._ids]
        numbers: list[int] = []
        if new:
            cursor = await self._run("record_ids", count=len(new))
            numbers = [number for (number,) in await cursor.fetchall()]
        self._ids.update(zip(new, numbers, strict=True))
        self._fresh.update(numbers)
        come: list[tuple[Identifier, int]] = []
        gone: list[tuple[Identifier, int]] = []
        for key, row in rows.items():
            old, number = self._rows.get(key), self._ids[key]
            had = set(old.record.identifiers) if old is not None else set()
            has = set(row.record.identifiers)
            come += [(identifier, number) for identifier in has - had]
            gone += [(identifier, number) for identifier in had - has]
            self._keep(number, row if row.values is not None else row._replace(place=None))
        self._waiting |= rows.keys()
        await self._bear("bear_no_more", gone)
        await self._bear("bear", come)

    async def _bear(self, statement: str, pairs: Sequence[tuple[Identifier, int]]) -> None:
        if pairs:
            await self._run(
                statement,
                identifier=array_literal([str(identifier) for identifier, _ in pairs]),
                record=numbers_literal(number for _, number in pairs),
            )

    async def older(self, source: str, table: str, position: Position, after: str) -> list[str]:
        """Keys of some rows of a table that are older than a position, behind ``after``."""
        cursor = await self._run(
            "older", source=source, stream=table, position=position, after=after
        )
        return [key for (key,) in await cursor.fetchall()]

    async def sweep(self, source: str, table: str, position: Position) -> None:
        """Remember that everything before a position was taken away."""
        await self._run("sweep", source=source, stream=table, position=position)
        self.sweeps[source, table] = max(position, self.sweeps.get((source, table), position))

    # ------------------------------------------------------------------ profiles

    async def known(
        self, ids: Collection[str], founders: Collection[RecordKey]
    ) -> Mapping[str, Profile]:
        cursor = await self._run(
            "known",
            ids=array_literal(sorted(ids)),
            founders=numbers_literal(self._ids[key] for key in founders),
        )
        return {
            id_: Profile(
                id_,
                number,
                RecordKey(source or "", stream or "", key or ""),
                resting,
                into,
                at,
            )
            for id_, number, resting, into, at, source, stream, key in await cursor.fetchall()
        }

    async def new(self, founders: Sequence[RecordKey]) -> Sequence[Profile]:
        cursor = await self._run("ids", count=len(founders))
        row = await cursor.fetchone()
        if row is None:
            raise FatalError(
                f"expected the kind of profile {self._kind!r} to be declared, it is not: start "
                "`penstock run` anew"
            )
        return [
            Profile(f"{self._kind}-{number}", number, founder)
            for number, founder in enumerate(founders, start=row[0] + 1)
        ]

    async def settle(self, settled: Settled) -> None:
        self.touched |= settled.documents.keys() | settled.rests.keys()
        await self._records(settled)
        await self._profiles(settled)
        if settled.turns:
            turns, reasons = zip(*settled.turns, strict=True)
            await self._run(
                "happened",
                event=array_literal([turn.event for turn in turns]),
                profile=array_literal([turn.profile for turn in turns]),
                other=array_literal([turn.other for turn in turns]),
                detail=array_literal(list(map(rows.detail_text, turns, reasons))),
            )
        await self._refusals(settled)

    async def flush(self) -> None:
        """Write the rows that still wait, those that say nothing new of anybody, and forget what
        was read."""
        await self._write()
        self._rows.clear()
        self._ids.clear()
        self._keys.clear()
        self._fresh.clear()

    async def _records(self, settled: Settled) -> None:
        moved = {key: to for key, to in settled.moved.items() if key not in self._waiting}
        for key, to in settled.moved.items():
            self._rows[key] = self._rows[key]._replace(place=to)
        await self._write()
        if moved:
            await self._run(
                "move",
                record=numbers_literal(self._ids[key] for key in moved),
                profile=array_literal([place.profile for place in moved.values()]),
                origin=array_literal([place.origin for place in moved.values()]),
            )

    async def _write(self) -> None:
        if not self._waiting:
            return
        keys = sorted(self._waiting)
        self._waiting = set()
        kept = [self._rows[key] for key in keys]
        await self._run(
            "write",
            id=numbers_literal(self._ids[key] for key in keys),
            **_names(keys),
            profile=array_literal([row.place and row.place.profile for row in kept]),
            origin=array_literal([row.place and row.place.origin for row in kept]),
            identifiers=array_literal(
                [array_literal([str(i) for i in row.record.identifiers]) for row in kept]
            ),
            columns=array_literal(
                [None if row.values is None else json_text(row.values) for row in kept]
            ),
            position=array_literal([row.position for row in kept]),
            committed_at=numbers_literal(row.committed_at for row in kept),
            said_at=numbers_literal(row.record.at for row in kept),
        )

    async def _profiles(self, settled: Settled) -> None:
        created = {profile.id for profile in settled.created}
        if settled.created:
            documents = [settled.documents[profile.id] for profile in settled.created]
            await self._run(
                "create",
                id=array_literal([profile.id for profile in settled.created]),
                number=numbers_literal(profile.number for profile in settled.created),
                founder=numbers_literal(self._ids[p.founder] for p in settled.created),
                records=numbers_literal(document.records for document in documents),
                traits=array_literal(list(map(rows.traits_text, documents))),
            )
        if settled.rests:
            await self._run(
                "rest",
                id=array_literal(list(settled.rests)),
                survivor=array_literal(list(settled.rests.values())),
            )
        changed = {id_: d for id_, d in settled.documents.items() if id_ not in created}
        if changed:
            await self._run(
                "update",
                id=array_literal(list(changed)),
                records=numbers_literal(document.records for document in changed.values()),
                traits=array_literal(list(map(rows.traits_text, changed.values()))),
            )

    async def _refusals(self, settled: Settled) -> None:
        since: dict[tuple[Any, ...], str] = {}
        if self._refused:
            region = numbers_literal(self._ids[key] for key in settled.region)
            cursor = await self._run("refused_no_more", records=region)
            since = {tuple(row): at for *row, at in await cursor.fetchall()}
        if not settled.refusals:
            return
        self._refused = True
        refused = [
            (self._ids[r.left], self._ids[r.right], *rows.refusal_texts(r)[2:])
            for r in settled.refusals
        ]
        one, other, via, why, detail = zip(*refused, strict=True)
        held = [row for row in refused if row[3] == "size" and row not in since]
        if held:
            logger.warning(
                "profiles.held",
                kind=self._kind,
                ties=len(held),
                reason=f"{held[0][2]} would make a profile of {held[0][4]} records: a person has "
                "to say so (`penstock profiles held`)",
            )
        await self._run(
            "refused",
            one=numbers_literal(one),
            other=numbers_literal(other),
            via=array_literal(via),
            why=array_literal(why),
            detail=array_literal(detail),
            since=array_literal([since.get(row) for row in refused]),
        )

    async def _run(self, statement: LiteralString, **parameters: Any) -> psycopg.AsyncCursor[Any]:
        return await self._connection.execute(
            SQL[statement],
            {"tenant": self._tenant, "kind": self._kind, **parameters},
            prepare=True,
        )


def _names(keys: Iterable[RecordKey]) -> dict[str, str]:
    named = list(keys)
    return {
        "source": array_literal([key.source for key in named]),
        "stream": array_literal([key.table for key in named]),
        "key": array_literal([key.key for key in named]),
    }
