"""The identity graph and its profiles.

The records of the subject leave as any evidence does, through the computation of the graph, so that
what is left is what the remaining evidence says (G10); then what a deletion usually leaves behind
for replays goes too.
"""

from __future__ import annotations

from typing import Any, Final

from penstock.identity.rules import Rules
from penstock.records import Change, Column, Microseconds, Op, Position, Schema
from penstock.stores.base import ApplyEvidence
from penstock.stores.postgres.erasing.base import Work
from penstock.stores.postgres.profiles.writing import apply_evidence

_KEY: Final = (Column("key", "text", key=True),)
_FIND: Final = """
SELECT r.id, r.kind, r.source, r.stream, r.key, r.position, r.committed_at, r.profile,
       r.columns IS NOT NULL
FROM unnest(%(sources)s::text[], %(streams)s::text[], %(keys)s::text[]) w (source, stream, key)
JOIN penstock.profile_records r ON r.tenant = %(tenant)s AND r.source = w.source COLLATE "C"
 AND r.stream = w.stream COLLATE "C" AND r.key = w.key COLLATE "C"
ORDER BY r.kind, r.source, r.stream, r.key
"""


async def erase_profiles(work: Work) -> int:
    """Take the subject's records out of every kind of profile, with what was decided and told
    about them."""
    names = sorted(work.subject.records)
    cursor = await work.connection.execute(
        _FIND,
        {
            "tenant": work.tenant,
            "sources": [name.source for name in names],
            "streams": [name.stream for name in names],
            "keys": [name.key for name in names],
        },
    )
    rows = await cursor.fetchall()
    kinds = sorted({row[1] for row in rows} | {kind for kind, _ in work.subject.profiles})
    for kind in kinds:
        own = [row for row in rows if row[1] == kind]
        rules = work.rules.get(kind)
        if rules is not None:
            await _withdraw(work, kind, rules, own)
        await _forget(work, kind, own)
    return len(rows)


async def _withdraw(work: Work, kind: str, rules: Rules, rows: list[Any]) -> None:
    changes = [
        Change(
            Schema(source, stream, _KEY),
            Op.DELETE,
            (key,),
            Position(position + "~"),
            Microseconds(committed_at),
        )
        for _, _, source, stream, key, position, committed_at, _, alive in rows
        if alive
    ]
    if changes:
        await apply_evidence(
            work.connection, ApplyEvidence(kind, rules, changes), tenant=work.tenant
        )


async def _forget(work: Work, kind: str, rows: list[Any]) -> None:
    said = {
        "tenant": work.tenant,
        "kind": kind,
        "ids": [row[0] for row in rows],
        "profiles": [id_ for of, id_ in work.subject.profiles if of == kind],
        "records": [f"{row[2]}/{row[3]}/{row[4]}" for row in rows],
        "values": list(dict.fromkeys((*work.subject.values, *work.subject.canaries))),
    }
    for statement in _FORGETTING:
        await work.connection.execute(statement, said)


_MINE: Final = "tenant = %(tenant)s AND kind = %(kind)s"
_MENTIONS: Final = (
    "(EXISTS (SELECT FROM unnest(%(values)s::text[]) v WHERE strpos(lower({0}), lower(v)) > 0) "
    "OR EXISTS (SELECT FROM unnest(%(records)s::text[]) r WHERE strpos({0}, '\"' || r || '\"') > 0))"
)
_FORGETTING: Final = (
    f"DELETE FROM penstock.profile_bearers WHERE {_MINE} AND record = ANY (%(ids)s)",
    f"DELETE FROM penstock.profile_refusals WHERE {_MINE} "
    "AND (one = ANY (%(ids)s) OR other = ANY (%(ids)s))",
    # What remains of a decision about somebody who is gone is that there was one.
    f"UPDATE penstock.profile_decisions d SET reason = 'erased', identifier = NULL, "
    "revoked_at = coalesce(revoked_at, decided_at) "
    "WHERE d.tenant = %(tenant)s AND d.kind = %(kind)s AND ("
    + _MENTIONS.format("d.reason || ' ' || coalesce(d.identifier, '')")
    + " OR d.number IN (SELECT n.number FROM penstock.profile_decision_records n "
    "JOIN penstock.profile_records r USING (tenant, kind, source, stream, key) "
    "WHERE r.id = ANY (%(ids)s)))",
    "DELETE FROM penstock.profile_decision_records n USING penstock.profile_records r "
    "WHERE r.id = ANY (%(ids)s) AND (n.tenant, n.kind, n.source, n.stream, n.key) "
    "= (r.tenant, r.kind, r.source, r.stream, r.key)",
    # Numbers of events stay; what they told of the subject goes. Followers learn from the last one,
    # 'gone', that the id means nobody.
    f"UPDATE penstock.profile_events e SET detail = '{{}}' WHERE {_MINE} AND detail <> '{{}}' AND "
    "(profile = ANY (%(profiles)s) OR other = ANY (%(profiles)s) OR "
    + _MENTIONS.format("e.detail::text")
    + ")",
    f"DELETE FROM penstock.profiles WHERE {_MINE} AND id = ANY (%(profiles)s)",
    "DELETE FROM penstock.profile_records WHERE id = ANY (%(ids)s)",
)
