"""G10: the same evidence gives the same profiles, whatever its history."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.identity.components import Partition, ignored, resolve
from penstock.identity.evidence import Decision, Identifier, Match, Record, RecordKey
from penstock.identity.graph import Document, RecordChange, incorporate, reconsider
from penstock.identity.memory import MemoryGraph
from penstock.identity.rules import KindRule, Rules, TableRule, TraitRule
from penstock.identity.traits import traits
from penstock.records import Microseconds, Position, Unchanged
from penstock.sources.profile_events.rows import IDS, Happened, changes_of

from .histories import examples

RULES = Rules(
    kinds={
        "email": KindRule("email", shared_by_at_most=4, priority=2),
        "phone": KindRule("text", shared_by_at_most=3, blocked=frozenset({"p0"})),
        "number": KindRule("exact", per_profile_at_most=1, priority=5),
    },
    traits={"name": TraitRule("most_recent"), "phones": TraitRule("union")},
    tables={
        (source, "people"): TableRule(
            identifiers=(("email", "email"), ("phone", "phone"), ("number", "number")),
            traits={"name": "name", "phones": "phone"},
        )
        for source in ("crm", "shop")
    },
    largest=8,
)
KEYS = [RecordKey(source, "people", str(n)) for source in ("crm", "shop") for n in range(9)]
VALUES = st.fixed_dictionaries(
    {
        "email": st.sampled_from([None, "N/A", *(f"e{n}@x.org" for n in range(5))]),
        "phone": st.sampled_from([None, "-", *(f"p{n}" for n in range(5))]),
        "number": st.sampled_from([None, None, "n1", "n2", "n3"]),
        "name": st.sampled_from(["Ada", "Grace", None]),
    }
)
ROWS = st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), VALUES, VALUES))
SOME = st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True)
DECISIONS: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.sampled_from(["merge", "unmerge"]), SOME, SOME),
    st.tuples(st.just("pin"), SOME, st.just([])),
    st.tuples(st.just("block"), st.sampled_from([f"e{n}@x.org" for n in range(5)]), st.just([])),
    st.tuples(st.just("revoke"), st.integers(0, 5), st.just([])),
)
STEPS = st.lists(
    st.one_of(st.lists(ROWS, min_size=1, max_size=6), DECISIONS), min_size=1, max_size=14
)


def decision(number: int, said: tuple[str, object, Sequence[RecordKey]]) -> Decision:
    verb, left, right = said
    if verb == "block":
        return Decision(number, "block", identifier=Identifier("email", str(left)))
    assert isinstance(left, list)
    return Decision(number, verb, tuple(left), tuple(right))  # type: ignore[arg-type]


class History:
    """Applies steps to a graph; every change has a later position than those before."""

    def __init__(self) -> None:
        self.graph = MemoryGraph()
        self.clock = 0
        self.numbers = 0
        self.done: list[list[RecordChange]] = []

    async def take(self, step: object) -> None:
        if isinstance(step, list):
            await self.rows(step)
            return
        assert isinstance(step, tuple)
        if step[0] == "revoke":
            present = sorted(d.number for d in self.graph.decisions())
            if present:
                keys = self.graph.revoke(present[step[1] % len(present)])
                await reconsider(self.graph, RULES, keys, "decision")
            return
        self.numbers += 1
        keys = self.graph.decide(decision(self.numbers, step))
        await reconsider(self.graph, RULES, keys, "decision")

    async def rows(self, rows: Sequence[tuple[RecordKey, dict[str, str | None] | None]]) -> None:
        latest = {}
        for key, values in rows:
            self.clock += 1
            position = Position(f"{self.clock:08}")
            latest[key] = RecordChange(key, position, Microseconds(self.clock), values)
        batch = list(latest.values())
        self.done.append(batch)
        await incorporate(self.graph, RULES, batch)


def from_scratch(graph: MemoryGraph) -> Partition:
    records = [row.record for row in graph.rows.values() if row.values is not None]
    decisions = graph.decisions()
    return resolve(
        records,
        RULES,
        ignored=ignored(records, RULES, decisions),
        decisions=decisions,
    )


def check(graph: MemoryGraph) -> None:
    batch = from_scratch(graph)
    assert graph.partition() == list(batch.parts)
    assert graph.refusals == set(batch.refusals)
    records = {key: row.record for key, row in graph.rows.items()}
    wanted = {}
    for part in batch.parts:
        place = graph.rows[part[0]].place
        assert place is not None
        profile = place.profile
        assert not graph.profiles[profile].resting
        wanted[profile] = Document(traits([records[key] for key in part], RULES.traits), len(part))
    assert graph.documents == wanted


@given(STEPS)
@example(
    [
        ("pin", [KEYS[0]], []),
        [(KEYS[0], {"phone": "p1"}), (KEYS[1], {"phone": "p1"})],
        [(KEYS[0], None), (KEYS[1], None)],
    ]
)
@example(
    [
        ("merge", [KEYS[0]], [KEYS[1]]),
        [(KEYS[0], {"name": "Ada"}), (KEYS[1], {"name": "Ada"})],
        [(KEYS[0], None), (KEYS[1], {"name": "Ada", "phone": "p1"})],
    ]
)
@pytest.mark.timeout(60 if examples(0) == 0 else 3600)
@settings(max_examples=examples(400), deadline=None)
def test_g10_every_history_ends_in_the_answer_of_a_batch(steps: list[object]) -> None:
    async def run() -> None:
        history = History()
        for step in steps:
            await history.take(step)
            check(history.graph)

    asyncio.run(run())


@given(STEPS, st.randoms(use_true_random=False))
@pytest.mark.timeout(60 if examples(0) == 0 else 3600)
@settings(max_examples=examples(200), deadline=None)
def test_g10_order_and_batches_do_not_count(steps: list[object], chance: random.Random) -> None:
    """The same rows in any order of keys, cut into any batches, with some of them twice."""

    async def run() -> None:
        first = History()
        for step in steps:
            await first.take(step)
        other = MemoryGraph()
        changes = [change for batch in first.done for change in batch]
        chance.shuffle(changes)
        changes += [change for change in changes if chance.random() < 0.3]
        for said in sorted(first.graph.decisions(), key=lambda _: chance.random()):
            other.decide(said)
        while changes:
            size = chance.randint(1, 5)
            latest: dict[RecordKey, RecordChange] = {}
            for change in changes[:size]:
                known = latest.get(change.key)
                if known is None or known.position < change.position:
                    latest[change.key] = change
            del changes[:size]
            await incorporate(other, RULES, list(latest.values()))
        assert other.partition() == first.graph.partition()
        assert other.refusals == first.graph.refusals
        check(other)

    asyncio.run(run())


@given(STEPS)
@settings(max_examples=examples(200), deadline=None)
def test_g10_an_id_is_never_lost(steps: list[object]) -> None:
    """Every id that was ever given means a profile that is there, or one whose records are gone;
    an id that is in use means itself; no two profiles have one id."""

    async def run() -> None:
        history = History()
        for step in steps:
            await history.take(step)
        graph = history.graph
        used = {row.place.profile for row in graph.rows.values() if row.place is not None}
        for id_ in graph.profiles:
            now = graph.resolved(id_)
            assert now is None or now in used
            if id_ in used:
                assert now == id_

    asyncio.run(run())


@given(STEPS)
@settings(max_examples=examples(400), deadline=None)
def test_g10_whoever_follows_the_events_knows_what_every_id_means(steps: list[object]) -> None:
    """Also of ids that rest, whose founder's record goes, comes back, or goes elsewhere."""

    async def run() -> None:
        history = History()
        seen, means = 0, dict[str, str | None]()
        for step in steps:
            await history.take(step)
            graph = history.graph
            for number, (turn, _) in enumerate(graph.turns[seen:], seen):
                happened = Happened(number, 0, turn.event, turn.profile, turn.other, "{}", number)
                for change in changes_of("people", "customer", happened):
                    if change.schema.stream == IDS:
                        id_, profile = change.value("id"), change.value("profile")
                        assert isinstance(id_, str)
                        assert not isinstance(profile, Unchanged)
                        means[id_] = profile
            seen = len(graph.turns)
            for id_ in graph.profiles:
                now: str | None = id_
                while now is not None and means[now] != now:
                    now = means[now]
                assert now == graph.resolved(id_)

    asyncio.run(run())


@given(STEPS)
@settings(max_examples=examples(100), deadline=None)
def test_g10_rows_that_go_and_come_back_get_their_ids_again(steps: list[object]) -> None:
    async def run() -> None:
        history = History()
        await history.rows([(key, {"email": f"{n}@solo.org"}) for n, key in enumerate(KEYS)])
        ids = {key: row.place and row.place.profile for key, row in history.graph.rows.items()}
        for step in steps:
            await history.take(step)
        for said in history.graph.decisions():
            keys = history.graph.revoke(said.number)
            await reconsider(history.graph, RULES, keys, "decision")
        await history.rows([(key, None) for key in KEYS])
        await history.rows([(key, {"email": f"{n}@solo.org"}) for n, key in enumerate(KEYS)])
        assert {
            key: row.place and row.place.profile for key, row in history.graph.rows.items()
        } == ids

    asyncio.run(run())


@given(st.permutations(list(range(6))), st.data())
@settings(max_examples=examples(200), deadline=None)
def test_g10_resolve_depends_on_the_set_of_evidence_only(
    order: list[int], data: st.DataObject
) -> None:
    identifiers = st.lists(
        st.sampled_from([Identifier("email", f"e{n}@x.org") for n in range(4)]),
        unique=True,
        max_size=3,
    )
    records = [Record(key, tuple(sorted(data.draw(identifiers)))) for key in KEYS[:6]]
    matches = [
        Match(KEYS[a], KEYS[b], weight)
        for a, b, weight in data.draw(
            st.lists(st.tuples(st.integers(0, 2), st.integers(3, 5), st.floats(0, 9)), max_size=4)
        )
    ]
    rules = replace(RULES, largest=3)
    one = resolve(records, rules, matches=matches)
    other = resolve([records[i] for i in order], rules, matches=matches[::-1])
    assert one == other


def test_g10_contradicting_decisions_the_later_counts() -> None:
    a, b, c = KEYS[:3]
    records = [Record(key) for key in (a, b, c)]
    ring = [
        Decision(1, "merge", (a,), (b,)),
        Decision(2, "merge", (b,), (c,)),
        Decision(3, "unmerge", (a,), (c,)),
    ]
    found = resolve(records, RULES, decisions=ring)
    assert found.parts == ((a,), (b, c))
    assert found.overruled == (1,)
    again = resolve(records, RULES, decisions=[*ring, Decision(4, "merge", (a,), (c,))])
    assert again.parts == ((a, b, c),)
    assert again.overruled == (3,)


@pytest.mark.parametrize("count", [3, 4, 5])
async def test_g10_a_limit_crossed_either_way(count: int) -> None:
    graph = MemoryGraph()
    rows = [
        RecordChange(key, Position(f"{n}"), Microseconds(n), {"phone": "p1"})
        for n, key in enumerate(KEYS[:count])
    ]
    await incorporate(graph, RULES, rows)
    assert len(graph.partition()) == (1 if count <= 3 else count)
    gone = [
        RecordChange(key, Position(f"9{n}"), Microseconds(90), None)
        for n, key in enumerate(KEYS[3:count])
    ]
    await incorporate(graph, RULES, gone)
    assert len(graph.partition()) == 1


@pytest.mark.parametrize("first", [KEYS[:3], KEYS[-3:]])
async def test_g10_a_crowd_that_comes_at_once_unties_those_before(first: list[RecordKey]) -> None:
    """Wherever those before stand among those who come."""
    graph = MemoryGraph()
    for keys, at in ((first, 1), ([key for key in KEYS if key not in first], 2)):
        rows = [
            RecordChange(key, Position(f"{at}"), Microseconds(at), {"phone": "p1"}) for key in keys
        ]
        await incorporate(graph, RULES, rows)
        check(graph)
    assert len(graph.partition()) == len(KEYS)
