"""The identity graph and its profiles.

The records of the subject leave as any evidence does, through the computation of the graph, so that
what is left is what the remaining evidence says (G10); then what a deletion usually leaves behind
for replays goes too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, LiteralString

from penstock.database.queries import load_queries
from penstock.identity.rules import Rules
from penstock.records import Change, Column, Microseconds, Op, Position, Schema
from penstock.stores.base import ApplyEvidence
from penstock.stores.postgres.erasing.base import Connection, Work
from penstock.stores.postgres.profiles.writing import apply_evidence
from penstock.subjects import Subject

SQL: Final = load_queries(Path(__file__).with_suffix(".sql"))
_KEY: Final = (Column("key", "text", key=True),)
_LONG_AGO: Final = Microseconds(0)
_FORGETTING: Final[Sequence[LiteralString]] = (
    "forget_facts",
    "members",
    "member_events",
    "due",
    "blocks",
    "matches",
    "bearers",
    "refusals",
    "decisions",
    "decision_records",
    "profiles",
    "forget_records",
)


async def erase_profiles(work: Work) -> int:
    """Take the subject's records and events out of every kind of profile, with what was decided and
    told about them."""
    names = sorted(work.subject.records)
    named = {
        "tenant": work.tenant,
        "sources": [name.source for name in names],
        "streams": [name.stream for name in names],
        "keys": [name.key for name in names],
    }
    cursor = await work.connection.execute(SQL["records"], named)
    rows = await cursor.fetchall()
    cursor = await work.connection.execute(SQL["facts"], named)
    facts = await cursor.fetchall()
    kinds = {kind for kind, _ in work.subject.profiles}
    kinds |= {row[1] for row in rows} | {fact[0] for fact in facts}
    for kind in sorted(kinds):
        own = [row for row in rows if row[1] == kind]
        rules = work.rules.get(kind)
        if rules is not None:
            await _withdraw(work, kind, rules, own, [fact[1:] for fact in facts if fact[0] == kind])
        await _forget(work, kind, own, named)
    await _forget_events(work)
    return len(rows) + len(facts)


async def events_about(
    connection: Connection, tenant: str, subject: Subject
) -> list[tuple[str, int]]:
    """The events of profiles that tell of the subject, by kind and number."""
    names = [f"{record.source}/{record.stream}/{record.key}" for record in subject.records]
    values = dict.fromkeys(value.lower() for value in (*subject.values, *subject.canaries))
    cursor = await connection.execute(
        SQL["events_about"],
        {
            **_meant(tenant, subject),
            "values": list(values),
            # As JSON in a column writes them.
            "records": [json.dumps(name, ensure_ascii=False) for name in names],
        },
    )
    return [(kind, number) for kind, number in await cursor.fetchall()]


async def memberships_of(
    connection: Connection, tenant: str, subject: Subject
) -> list[tuple[str, str, str]]:
    """Segments that the subject's profiles are or were in: kind, segment, profile."""
    cursor = await connection.execute(SQL["memberships"], _meant(tenant, subject))
    return [(kind, segment, profile) for kind, segment, profile in await cursor.fetchall()]


def _meant(tenant: str, subject: Subject) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "kinds": [kind for kind, _ in subject.profiles],
        "profiles": [id_ for _, id_ in subject.profiles],
    }


async def _withdraw(
    work: Work,
    kind: str,
    rules: Rules,
    rows: Sequence[tuple[Any, ...]],
    facts: Sequence[tuple[Any, ...]],
) -> None:
    """As if the source had deleted the rows, just behind what is stored of them. A record of events
    goes with the last of them."""
    at: dict[tuple[str, str, str], str] = {}
    for _, _, source, stream, key, position, _, alive in rows:
        table = rules.tables.get((source, stream))
        if alive and table is not None and not table.events:
            at[source, stream, key] = position
    for source, stream, key, position, alive in facts:
        if alive and (source, stream) in rules.tables:
            at[source, stream, key] = max(position, at.get((source, stream, key), ""))
    changes = [
        Change(Schema(source, stream, _KEY), Op.DELETE, (key,), Position(position + "~"), _LONG_AGO)
        for (source, stream, key), position in sorted(at.items())
    ]
    if changes:
        effect = ApplyEvidence(kind, rules, changes)
        await apply_evidence(work.connection, effect, tenant=work.tenant)


async def _forget(
    work: Work, kind: str, rows: Sequence[tuple[Any, ...]], named: Mapping[str, Any]
) -> None:
    said = {
        **named,
        "kind": kind,
        "ids": [row[0] for row in rows],
        "profiles": [id_ for of, id_ in work.subject.profiles if of == kind],
        "values": list(dict.fromkeys((*work.subject.values, *work.subject.canaries))),
    }
    for statement in _FORGETTING:
        await work.connection.execute(SQL[statement], said)


async def _forget_events(work: Work) -> None:
    numbers: dict[str, list[int]] = {}
    for kind, number in await events_about(work.connection, work.tenant, work.subject):
        numbers.setdefault(kind, []).append(number)
    for kind, found in numbers.items():
        named = {"tenant": work.tenant, "kind": kind, "numbers": found}
        await work.connection.execute(SQL["events"], named)
