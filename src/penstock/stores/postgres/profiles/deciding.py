"""What people decide about profiles: kept as evidence, and done at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from penstock.errors import ConfigError
from penstock.identity.evidence import Decision, Identifier, RecordKey, Verb
from penstock.identity.graph import Whole, reconsider, whole
from penstock.identity.rules import Rules
from penstock.stores.postgres.arrays import array_literal
from penstock.stores.postgres.profiles.facts import Evidence
from penstock.stores.postgres.profiles.graph import Connection, PostgresGraph
from penstock.stores.postgres.profiles.reading import SQL
from penstock.stores.postgres.profiles.rows import decision_of


class Deciding:
    """Decisions about one kind of profile, in the caller's transaction."""

    def __init__(self, connection: Connection, tenant: str, kind: str, rules: Rules) -> None:
        self._connection = connection
        self._names = {"tenant": tenant, "kind": kind}
        self._tenant = tenant
        self._kind = kind
        self._rules = rules

    async def decide(
        self,
        verb: Verb,
        left: Sequence[RecordKey] = (),
        right: Sequence[RecordKey] = (),
        *,
        identifier: Identifier | None = None,
        by: str,
        reason: str,
    ) -> int:
        """Keep a decision and do it; returns its number."""
        graph = await self._locked()
        cursor = await self._connection.execute(
            SQL["decide"],
            {
                **self._names,
                "verb": verb,
                "identifier": None if identifier is None else str(identifier),
                "by": by,
                "reason": reason,
            },
        )
        [(number,)] = await cursor.fetchall()
        named = [("left", key) for key in left] + [("right", key) for key in right]
        await self._connection.execute(
            SQL["decide_on"],
            {
                **self._names,
                "number": number,
                "side": array_literal([side for side, _ in named]),
                "source": array_literal([key.source for _, key in named]),
                "stream": array_literal([key.table for _, key in named]),
                "key": array_literal([key.key for _, key in named]),
            },
        )
        keys = {*left, *right} | await self._bearers(graph, identifier)
        await self._do(keys, f"decision {number}")
        return int(number)

    async def revoke(self, number: int) -> Decision:
        """Take a decision back; what it tied or kept apart is as other evidence says."""
        graph = await self._locked()
        cursor = await self._connection.execute(SQL["revoke"], {**self._names, "number": number})
        row = await cursor.fetchone()
        if row is None:
            raise ConfigError(
                f"expected the number of a decision that stands, got {number}: see "
                "`penstock profiles decisions`"
            )
        decision = decision_of(row)
        keys = {*decision.left, *decision.right}
        keys |= await self._bearers(graph, decision.identifier)
        await self._do(keys, f"decision {number} taken back")
        return decision

    async def _bearers(self, graph: PostgresGraph, identifier: Identifier | None) -> set[RecordKey]:
        """Who is tied by an identifier while nobody blocks it."""
        kind = None if identifier is None else self._rules.kinds.get(identifier.kind)
        if identifier is None or kind is None:
            return set()
        limit = kind.shared_by_at_most
        found = (await graph.bearers({identifier: limit})).get(identifier, ())
        return {m.record.key for m in found} if len(found) <= limit else set()

    async def _do(self, keys: Collection[RecordKey], cause: str) -> None:
        # Opened after the decision is written: whether there are any is read then.
        graph = await self._locked()
        await reconsider(graph, graph.rules, keys, cause)
        await graph.flush()
        evidence = Evidence(self._connection, self._tenant, self._kind, self._rules, graph)
        await evidence.note(())

    async def _locked(self) -> PostgresGraph:
        graph = PostgresGraph(self._connection, self._tenant, self._kind, self._rules)
        await graph.open()
        return graph

    async def around(self, keys: Sequence[RecordKey]) -> Whole:
        """All that hangs together with these records, and who is who among them."""
        graph = await self._locked()
        return await whole(graph, graph.rules, keys)
