"""Who is who: canonical forms, limits, traits and ids."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.errors import BadRecordError
from penstock.identity import graph as graphs
from penstock.identity.components import ignored, resolve
from penstock.identity.evidence import Decision, Identifier, Match, Record, RecordKey
from penstock.identity.graph import RecordChange, incorporate, reconsider
from penstock.identity.identifiers import blocking, canonical, identifiers_of
from penstock.identity.memory import MemoryGraph
from penstock.identity.reading import record_key, record_of
from penstock.identity.reasons import between, path, said
from penstock.identity.rules import KindRule, Rules, TableRule, TraitRule
from penstock.identity.traits import traits
from penstock.records import Column, Microseconds, Position, Schema

PHONE = KindRule("phone", region="DE")
EMAIL = KindRule("email")
A, B, C, D = (RecordKey("crm", "people", name) for name in "abcd")


@pytest.mark.parametrize(
    ("value", "rule", "form"),
    [
        (" Ada@Example.ORG ", EMAIL, "ada@example.org"),
        ("<mailto:ada@example.org>", EMAIL, None),
        ("mailto:ada@example.org", EMAIL, "ada@example.org"),
        ("ada@münchen.de", EMAIL, "ada@xn--mnchen-3ya.de"),
        ("a.da+news@googlemail.com", KindRule("email", providers=True), "ada@gmail.com"),
        ("a.da+news@googlemail.com", EMAIL, "a.da+news@googlemail.com"),
        ("noreply@example.org", EMAIL, None),
        ("ada@localhost", EMAIL, None),
        ("ada", EMAIL, None),
        ("0170/1234567", PHONE, "+491701234567"),
        ("+49 (0)170 1234567", PHONE, "+491701234567"),
        ("0000000", PHONE, None),
        ("1234567890", PHONE, None),
        ("0170 1234567", KindRule("phone"), None),
        ("n/a", PHONE, None),
        ("  Müller,  José ", KindRule("name"), "jose muller"),
        ("José MÜLLER", KindRule("name"), "jose muller"),
        ("DE-12 34", KindRule("digits"), "1234"),
        ("9999999", KindRule("digits"), None),
        ("ABC-1", KindRule("text"), "abc-1"),
        ("ABC-1", KindRule("exact"), "ABC-1"),
        ("111", KindRule("text"), "111"),
        ("１１１", KindRule("text"), "111"),
        *((said, KindRule("text"), None) for said in ("", " ", "-", "N/A", "None", "0000", "xxx")),
        *(
            (said, KindRule("text"), None)
            for said in ("unknown", "NULL", "???", "\u200b", "x" * 999)
        ),
    ],
)
def test_values_have_one_form_or_identify_nobody(
    value: str, rule: KindRule, form: str | None
) -> None:
    assert canonical(value, rule) == form


def test_blocked_values_are_blocked_in_any_writing() -> None:
    rule = blocking(PHONE, ["030 / 1234567"])
    assert canonical("+49 30 1234567", rule) is None
    assert canonical("+49 30 1234568", rule) == "+49301234568"


def test_a_bare_value_may_be_of_several_kinds() -> None:
    kinds = {"email": EMAIL, "crm": KindRule("exact")}
    assert identifiers_of("email:A@b.org", kinds) == [Identifier("email", "a@b.org")]
    assert identifiers_of("A@b.org", kinds) == [
        Identifier("email", "a@b.org"),
        Identifier("crm", "A@b.org"),
    ]


# --------------------------------------------------------------------------- components

RULES = Rules(
    kinds={
        "email": KindRule("email", shared_by_at_most=3),
        "number": KindRule("exact", per_profile_at_most=1, priority=5),
    },
    largest=3,
)


def record(key: RecordKey, *identifiers: str) -> Record:
    split = (one.partition(":") for one in identifiers)
    return Record(key, tuple(sorted(Identifier(kind, value) for kind, _, value in split)))


def test_a_limit_refuses_what_would_make_two_numbers_one_person() -> None:
    found = resolve(
        [record(A, "email:e", "number:1"), record(B, "email:e", "number:2"), record(C, "email:e")],
        RULES,
    )
    assert found.parts == ((A, C), (B,))
    [refusal, other] = found.refusals
    assert (refusal.why, refusal.detail, said(refusal.via)) == ("limit", "number", "email:e")
    assert between(found, A, B) == [refusal, other]


def test_what_too_many_bear_ties_nobody() -> None:
    records = [record(key, "email:e") for key in (A, B, C, D)]
    assert ignored(records, RULES) == {Identifier("email", "e"): "shared"}
    assert len(resolve(records, RULES, ignored=ignored(records, RULES)).parts) == 4
    assert len(resolve(records[:3], RULES).parts) == 1


def test_what_would_be_too_large_waits_for_a_person() -> None:
    records = [record(A, "number:1"), record(B, "number:1"), record(C, "email:c", "number:1")]
    records.append(record(D, "email:c"))
    found = resolve(records, RULES)
    assert found.parts == ((A, B, C), (D,))
    assert [(r.why, r.detail) for r in found.refusals] == [("size", "4")]
    merged = resolve(records, RULES, decisions=[Decision(1, "merge", (A, B, C), (D,))])
    assert merged.parts == ((A, B, C, D),)


def test_the_stronger_tie_wins() -> None:
    """C belongs to A by a number and to B by an address; only one of them fits."""
    records = [record(A, "number:1"), record(B, "email:c", "number:2")]
    records.append(record(C, "email:c", "number:1"))
    assert resolve(records, RULES).parts == ((A, C), (B,))


def test_matches_come_after_identifiers_by_their_weight() -> None:
    records = [record(A, "number:1"), record(B, "number:2"), record(C)]
    weak, strong = Match(A, C, 3.0), Match(B, C, 9.0, (("name", 9.0),))
    found = resolve(records, RULES, matches=[weak, strong])
    assert found.parts == ((A,), (B, C))
    assert said(found.ties[0].via) == "match of weight 9.0 (name +9.0)"
    assert resolve([record(A), record(B)], RULES, matches=[strong]).parts == ((A,), (B,))


def test_a_pin_keeps_together_and_lets_nobody_in() -> None:
    records = [record(A, "email:e"), record(B), record(C, "email:e")]
    pinned = resolve(records, RULES, decisions=[Decision(1, "pin", (A, B))])
    assert pinned.parts == ((A, B), (C,))
    later = [Decision(1, "pin", (A, B)), Decision(2, "merge", (A,), (C,))]
    assert resolve(records, RULES, decisions=later).parts == ((A, B, C),)


def test_the_path_leads_from_one_record_to_the_other() -> None:
    records = [record(A, "email:a"), record(B, "email:a", "number:1"), record(C, "number:1")]
    found = resolve(records, RULES)
    steps = path(found, A, C)
    assert steps is not None
    assert [(s.left, s.right, said(s.via)) for s in steps] == [
        (A, B, "email:a"),
        (B, C, "number:1"),
    ]
    assert path(found, C, A) is not None
    assert path(resolve(records[::2], RULES), A, C) is None


# --------------------------------------------------------------------------- ids


class World:
    """A graph with rows that are told one by one."""

    def __init__(self) -> None:
        table = TableRule(identifiers=(("email", "email"), ("number", "number")))
        self.rules = replace(RULES, tables={("crm", "people"): table}, largest=100)
        self.graph = MemoryGraph()
        self._clock = 0

    async def tell(
        self, key: RecordKey, email: str | None = None, number: str | None = None
    ) -> None:
        self._clock += 1
        values = {"email": email and f"{email}@x.org", "number": number}
        gone = email is None and number is None
        await self._take(key, None if gone else values)

    async def _take(self, key: RecordKey, values: dict[str, str | None] | None) -> None:
        change = RecordChange(key, Position(f"{self._clock:04}"), Microseconds(self._clock), values)
        await incorporate(self.graph, self.rules, [change])

    def id(self, key: RecordKey) -> str:
        place = self.graph.rows[key].place
        assert place is not None
        return place.profile


async def test_a_wrong_merge_undone_leaves_no_trace_in_the_ids() -> None:
    """Also where the one that was merged away is the larger part."""
    world = World()
    await world.tell(A, "a")
    await world.tell(B, "b")
    await world.tell(C, "b")
    ada, bob = world.id(A), world.id(B)
    await world.tell(D, "b", "7")
    await world.tell(A, "a", "7")
    assert {world.id(key) for key in (A, B, C, D)} == {ada}
    assert world.graph.resolved(bob) == ada
    await world.tell(A, "a")
    assert world.id(A) == ada
    assert {world.id(key) for key in (B, C, D)} == {bob}


async def test_what_leaves_gets_a_new_id_and_the_rest_keeps_its_own() -> None:
    world = World()
    for key in (A, B, C):
        await world.tell(key, "a")
    own = world.id(A)
    await world.tell(A, "other")
    assert world.id(B) == world.id(C) == own
    assert world.id(A) != own


async def test_whose_records_are_gone_comes_back_as_itself() -> None:
    world = World()
    await world.tell(A, "a")
    own = world.id(A)
    await world.tell(A)
    assert world.graph.resolved(own) is None
    await world.tell(A, "b")
    assert world.id(A) == own
    assert [turn.event for turn, _ in world.graph.turns] == ["created", "gone", "restored"]


async def test_why_it_was_merged_is_told() -> None:
    world = World()
    await world.tell(A, "a")
    await world.tell(B, "b")
    await world.tell(B, "a")
    turn, reason = world.graph.turns[-1]
    assert turn.event == "merged"
    assert [said(tie.via) for tie in reason.ties] == ["email:a@x.org"]
    assert reason.causes == ((B, "changed"),)


async def test_more_than_one_step_can_work_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "LARGEST_REGION", 2)
    world = World()
    await world.tell(A, "a")
    await world.tell(B, "a")
    with pytest.raises(BadRecordError, match="`shared_by_at_most`"):
        await world.tell(C, "a")


async def test_a_decision_about_records_that_are_not_there_rests() -> None:
    world = World()
    await world.tell(A, "a")
    keys = world.graph.decide(Decision(1, "merge", (A,), (B,)))
    await reconsider(world.graph, world.rules, keys, "decision 1")
    await world.tell(B, "b")
    assert world.id(A) == world.id(B)
    await world.tell(B)
    await world.tell(B, "c")
    assert world.id(A) == world.id(B)


async def test_g10_what_a_decision_tied_through_a_record_parts_when_that_goes() -> None:
    world = World()
    for key, email in ((A, "a"), (B, "b"), (C, "a")):
        await world.tell(key, email)
    keys = world.graph.decide(Decision(1, "merge", (A,), (B,)))
    await reconsider(world.graph, world.rules, keys, "decision 1")
    assert world.id(B) == world.id(C)
    await world.tell(A)
    assert world.id(B) != world.id(C)


# --------------------------------------------------------------------------- traits and rows


def test_traits_follow_their_rules_whatever_the_order() -> None:
    records = [
        Record(A, traits={"name": "Ada", "n": "9"}, at=Microseconds(5)),
        Record(B, traits={"name": "Ada Lovelace", "n": "10"}, at=Microseconds(3)),
        Record(
            RecordKey("shop", "orders", "1"), traits={"name": "A.", "n": "x"}, at=Microseconds(5)
        ),
    ]
    for combine, trust, expected in (
        ("most_recent", (), ["Ada"]),
        ("first", (), ["Ada Lovelace"]),
        ("longest", (), ["Ada Lovelace"]),
        ("most_trusted", ("shop.orders", "crm"), ["A."]),
        ("most_trusted", ("crm",), ["Ada"]),
        ("union", (), ["A.", "Ada", "Ada Lovelace"]),
    ):
        rules = {"name": TraitRule(combine, trust)}  # type: ignore[arg-type]
        for order in (records, records[::-1]):
            assert [one.value for one in traits(order, rules)["name"]] == expected, combine
    numbers = {"n": TraitRule("max")}
    assert traits(records, numbers)["n"][0].value == "10"
    assert traits(records[:2], {"n": TraitRule("min")})["n"][0].value == "9"


@pytest.mark.parametrize(
    ("time", "at"),
    [
        ("1970-01-01 00:00:01+00", 1_000_000),
        ("1970-01-01T00:00:02Z", 2_000_000),
        ("2090-01-01 00:00:00+00", 5_000_000),
        ("yesterday", 5_000_000),
        (None, 5_000_000),
    ],
)
def test_a_row_says_when_it_was_true_but_not_later_than_it_was_said(
    time: str | None, at: int
) -> None:
    table = TableRule((("person", "{first} {born}"),), at="time")
    rules = Rules(kinds={"person": KindRule("name")}, tables={("crm", "people"): table})
    values = {"first": "Ada", "born": "1815", "time": time}
    found = record_of(
        A, values, rules, position=Position("1"), committed_at=Microseconds(5_000_000)
    )
    assert found.at == at
    assert found.identifiers == (Identifier("person", "1815 ada"),)
    half = record_of(
        A, {**values, "born": " "}, rules, position=Position("1"), committed_at=Microseconds(1)
    )
    assert half.identifiers == ()


def test_records_are_named_by_their_keys() -> None:
    schema = Schema("crm", "people", (Column("id", "int", key=True),))
    assert record_key(schema, ("7",)).key == "7"
    assert record_key(schema, ("a", "b")).key == '["a", "b"]'
    assert record_key(schema, (None,)).key == "[null]"
    assert len(record_key(schema, ("x" * 5000,)).key) == 71
