"""The matches of one model, kept up change by change in the graph's transaction.

Kept are the blocks of every record, and the pairs whose weight is at least ``possible``: from
``link`` on they tie, below it they wait for a person. What is compared is told by the blocks alone,
so the matches are those of a computation from the beginning, in any order and batches (G10).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, LiteralString, NamedTuple, TypeAlias

import orjson
import psycopg

from penstock.database.queries import load_queries
from penstock.identity.evidence import Match, Record, RecordKey
from penstock.identity.fuzzy.matcher import FuzzyMatcher
from penstock.identity.fuzzy.model import from_json
from penstock.identity.fuzzy.rematching import IdPair, Moves, moves, ordered, plan
from penstock.identity.fuzzy.screening import Ready
from penstock.identity.reading import fields_from
from penstock.identity.rules import Rules, TableRule
from penstock.stores.postgres.arrays import array_literal, numbers_literal
from penstock.stores.postgres.profiles.rows import json_text

SQL: Final = load_queries(Path(__file__).with_name("matching.sql"))
Connection = psycopg.AsyncConnection[Any]
Known: TypeAlias = Callable[[int], Record | None]
_NO_TABLE: Final = TableRule()
_KEPT: Final = 8
_RARELY: Final = 100_000


class Matchers:
    """The matchers of stored models by their version, so that weights are read once."""

    def __init__(self) -> None:
        self._known: dict[str, FuzzyMatcher] = {}

    async def of(
        self, connection: Connection, names: Mapping[str, str], number: int, version: str
    ) -> FuzzyMatcher:
        """The matcher of a model."""
        found = self._known.get(version)
        if found is None:
            cursor = await connection.execute(SQL["weights"], {**names, "model": number})
            row = await cursor.fetchone()
            assert row is not None
            found = FuzzyMatcher(from_json(row[0]))
            while len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[version] = found
        return found


class Scored(NamedTuple):
    """A match with the numbers of its records, ``one`` being that of the smaller key."""

    one: int
    other: int
    weight: float
    fields: tuple[tuple[str, float], ...]


class StoredMatching:
    """Blocks and matches of one model."""

    def __init__(
        self,
        connection: Connection,
        names: Mapping[str, str],
        rules: Rules,
        number: int,
        matcher: FuzzyMatcher,
    ) -> None:
        self._connection = connection
        self._names: dict[str, Any] = {**names, "model": number}
        self._rules = rules
        self.number = number
        self.matcher = matcher

    async def rematch(
        self,
        changed: Mapping[int, Record],
        fresh: Collection[int],
        known: Known,
    ) -> set[int]:
        """Bring the matches to what these records say now; those that are gone have no fields.
        ``fresh`` were not there before; ``known`` are records by number as this transaction has
        them. Returns the records whose ties came or went."""
        moved = await self._move(changed, fresh)
        limit = self.matcher.block_at_most
        members = await self._members({block: moved.most(block, limit) for block in moved.all})
        planned = plan(moved, members, limit)
        doubtful = {record for group in planned.closed for record in group}
        opened = {r for pair in planned.compared if not set(pair) & changed.keys() for r in pair}
        asked = (changed.keys() - set(fresh)) | doubtful | opened
        before = {ordered(m.one, m.other): m for m in await self.matches(asked)}
        now = await self._scored(planned.compared, lambda n: changed.get(n) or known(n))
        lost = {
            pair
            for pair in before
            if pair not in now and (pair in planned.compared or set(pair) & changed.keys())
        }
        lost |= await self._parted(before.keys() - lost - planned.compared, planned.closed)
        gained = {pair for pair, match in now.items() if before.get(pair) != match}
        await self._keep([now[pair] for pair in sorted(gained)], [before[p] for p in sorted(lost)])
        link = self.matcher.link
        ties = {p for p in lost if before[p].weight >= link}
        ties |= {
            p for p in gained if now[p].weight >= link or (p in before and before[p].weight >= link)
        }
        return {record for pair in ties for record in pair}

    async def _move(self, changed: Mapping[int, Record], fresh: Collection[int]) -> Moves:
        """Write who is in which block from now on."""
        had: dict[int, set[str]] = {record: set() for record in changed}
        if known := changed.keys() - set(fresh):
            cursor = await self._run("blocks_of", record=numbers_literal(sorted(known)))
            for record, block in await cursor.fetchall():
                had[record].add(block)
        has = {
            number: frozenset(self.matcher.blocks(record.fields)) if record.fields else frozenset()
            for number, record in changed.items()
        }
        come = [(b, number) for number in sorted(has) for b in sorted(has[number] - had[number])]
        gone = [(b, number) for number in sorted(had) for b in sorted(had[number] - has[number])]
        for statement, pairs in (("leave_blocks", gone), ("join_blocks", come)):
            if pairs:
                await self._run(
                    statement,
                    block=array_literal([block for block, _ in pairs]),
                    record=numbers_literal(record for _, record in pairs),
                )
        return moves(had, has)

    async def _members(self, most: Mapping[str, int]) -> dict[str, list[int]]:
        if not most:
            return {}
        cursor = await self._run(
            "in_blocks", block=array_literal(list(most)), most=numbers_literal(most.values())
        )
        return dict(await cursor.fetchall())

    async def matches(self, records: Collection[int], least: float = -_RARELY) -> list[Scored]:
        """The matches of these records from a weight on, each once."""
        if not records:
            return []
        cursor = await self._run("matches_of", record=numbers_literal(sorted(records)), least=least)
        found = {
            (one, other): Scored(one, other, weight, _fields(fields))
            for one, other, weight, fields in await cursor.fetchall()
        }
        return [found[pair] for pair in sorted(found)]

    async def _scored(self, pairs: Collection[IdPair], known: Known) -> dict[IdPair, Scored]:
        """Those of these pairs that are matches, or might be."""
        ready: dict[int, Ready] = {}
        keys: dict[int, RecordKey] = {}
        unread = []
        for number in {record for pair in pairs for record in pair}:
            record = known(number)
            if record is None:
                unread.append(number)
            else:
                keys[number] = record.key
                ready[number] = self.matcher.ready(record.fields)
        if unread:
            await self._read(unread, ready, keys)
        found: dict[IdPair, Scored] = {}
        for pair, weighed in self.matcher.weigh(list(pairs), ready).items():
            one, other = sorted(pair, key=keys.__getitem__)
            found[pair] = Scored(one, other, *weighed)
        return found

    async def _read(
        self, records: Sequence[int], ready: dict[int, Ready], keys: dict[int, RecordKey]
    ) -> None:
        """Records as they are stored. Most are strangers of whom no more is needed, and come again
        and again: of these only the text is looked at."""
        cursor = await self._run("compared", record=numbers_literal(sorted(records)))
        tables: dict[tuple[str, str], tuple[Mapping[str, str], dict[str, Ready]]] = {}
        for number, source, stream, key, text in await cursor.fetchall():
            table = tables.get((source, stream))
            if table is None:
                fields = self._rules.tables.get((source, stream), _NO_TABLE).fields
                table = tables[source, stream] = (fields, self.matcher.ready_by_text(fields))
            found = table[1].get(text)
            if found is None:
                said = fields_from(table[0], orjson.loads(text))
                found = table[1][text] = self.matcher.ready(said)
            ready[number] = found
            keys[number] = RecordKey(source, stream, key)

    async def _parted(
        self, pairs: Collection[IdPair], closed: Sequence[frozenset[int]]
    ) -> set[IdPair]:
        """Those of these pairs that were in a block that has closed and share no open one now."""
        doubtful = {p for p in pairs if any(p[0] in group and p[1] in group for group in closed)}
        if not doubtful:
            return set()
        blocks: dict[int, set[str]] = defaultdict(set)
        records = sorted({record for pair in doubtful for record in pair})
        cursor = await self._run("blocks_of", record=numbers_literal(records))
        for record, block in await cursor.fetchall():
            blocks[record].add(block)
        shared = {pair: blocks[pair[0]] & blocks[pair[1]] for pair in doubtful}
        most = self.matcher.block_at_most + 1
        members = await self._members({b: most for both in shared.values() for b in sorted(both)})
        return {
            pair
            for pair, both in shared.items()
            if not any(len(members.get(block, ())) < most for block in both)
        }

    async def _keep(self, gained: Sequence[Scored], lost: Sequence[Scored]) -> None:
        if lost:
            await self._run(
                "unmatch",
                one=numbers_literal(match.one for match in lost),
                other=numbers_literal(match.other for match in lost),
            )
        if gained:
            await self._run(
                "match",
                one=numbers_literal(match.one for match in gained),
                other=numbers_literal(match.other for match in gained),
                weight=f"{{{','.join(repr(match.weight) for match in gained)}}}",
                fields=array_literal([json_text(match.fields) for match in gained]),
            )

    async def _run(self, statement: LiteralString, **parameters: Any) -> psycopg.AsyncCursor[Any]:
        return await self._connection.execute(
            SQL[statement], {**self._names, **parameters}, prepare=True
        )


def _fields(text: str) -> tuple[tuple[str, float], ...]:
    return tuple((name, float(bits)) for name, bits in orjson.loads(text))


def as_matches(found: Iterable[Scored], keys: Mapping[int, RecordKey]) -> list[Match]:
    """As the graph knows them."""
    return [Match(keys[m.one], keys[m.other], m.weight, m.fields) for m in found]
