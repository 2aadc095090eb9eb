"""Taking up evidence: changes of captured tables, and what people decide."""

from __future__ import annotations

from penstock.identity.evidence import RecordKey
from penstock.identity.graph import RecordChange
from penstock.identity.reading import record_key
from penstock.records import UNCHANGED, Position, Row, Schema
from penstock.stores.base import ApplyEvidence
from penstock.stores.postgres.coalesce import coalesce, split
from penstock.stores.postgres.profiles.facts import Evidence
from penstock.stores.postgres.profiles.graph import Connection, PostgresGraph
from penstock.stores.postgres.profiles.matching import Matchers


async def apply_evidence(
    connection: Connection, effect: ApplyEvidence, *, tenant: str, matchers: Matchers | None = None
) -> None:
    """Bring the profiles of a kind to what the evidence says after these changes (G10)."""
    graph = PostgresGraph(connection, tenant, effect.kind, effect.rules, matchers)
    await graph.open()
    evidence = Evidence(connection, tenant, effect.kind, effect.rules, graph)
    for segment in split(effect.changes):
        schema = segment.schema
        net = coalesce(segment.changes)
        if net.truncated_at is not None:
            await _sweep(graph, evidence, effect, schema, net.truncated_at)
        swept = graph.sweeps.get((schema.source, schema.stream), "")
        changes = [
            RecordChange(
                record_key(schema, put.key),
                put.position,
                put.committed_at,
                _values(schema, put.row),
                None if put.base is None else record_key(schema, put.base),
            )
            for put in (*net.puts, *net.partial)
            if put.position > swept
        ]
        changes += [
            RecordChange(record_key(schema, key), position, effect.changes[0].committed_at, None)
            for key, position in net.gone
            if position > swept
        ]
        changes += [
            RecordChange(
                record_key(schema, key),
                position,
                effect.changes[0].committed_at,
                None,
                since=since,
            )
            for key, since, position in net.undone
            if position > swept
        ]
        await evidence.take(changes)


async def _sweep(
    graph: PostgresGraph, evidence: Evidence, effect: ApplyEvidence, schema: Schema, at: Position
) -> None:
    """Take away what is older, some thousands at a time."""
    source, table = schema.source, schema.stream
    if at <= graph.sweeps.get((source, table), ""):
        return
    rule = effect.rules.tables[source, table]
    if rule.kept is not None or rule.events:
        await evidence.sweep(source, table, at)
    after = ""
    while not rule.events and (keys := await graph.older(source, table, at, after)):
        gone = [
            RecordChange(RecordKey(source, table, key), at, effect.changes[0].committed_at, None)
            for key in keys
        ]
        await evidence.incorporate(gone)
        after = keys[-1]
    await evidence.note(())
    await graph.sweep(source, table, at)


def _values(schema: Schema, row: Row) -> dict[str, str | None]:
    return {
        name: value for name, value in zip(schema.names, row, strict=True) if value is not UNCHANGED
    }
