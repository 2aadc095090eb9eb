"""Two sources that disagree on everything: each rule says which is believed, whatever the order."""

from __future__ import annotations

import itertools

import pytest

from penstock.identity.evidence import Identifier, Record, RecordKey
from penstock.identity.rules import Combine, TraitRule
from penstock.identity.traits import traits
from penstock.records import Microseconds

ADA = (Identifier("email", "ada@x.org"),)
RECORDS = [
    Record(
        RecordKey(source, "people", key), ADA, {}, {"name": name, "age": age}, at=Microseconds(at)
    )
    for source, key, name, age, at in (
        ("crm", "1", "Ada Lovelace", "36", 5),
        ("shop", "9", "Lovelace, A.", "9", 7),
        ("desk", "3", "nobody", "100", 7),
    )
]


@pytest.mark.parametrize(
    ("rule", "trust", "name", "age"),
    [
        ("most_recent", (), ["nobody"], ["100"]),
        ("most_trusted", ("shop",), ["Lovelace, A."], ["9"]),
        ("longest", (), ["Lovelace, A."], ["100"]),
        ("first", (), ["Ada Lovelace"], ["36"]),
        ("max", (), ["nobody"], ["100"]),
        ("min", (), ["Ada Lovelace"], ["9"]),
        ("union", (), ["Ada Lovelace", "Lovelace, A.", "nobody"], ["100", "36", "9"]),
    ],
)
def test_each_rule_believes_one_and_says_whom(
    rule: Combine, trust: tuple[str, ...], name: list[str], age: list[str]
) -> None:
    rules = {trait: TraitRule(rule, trust) for trait in ("name", "age")}
    by_name = {record.traits["name"]: record.key for record in RECORDS}
    for order in itertools.permutations(RECORDS):
        found = traits(order, rules)
        assert [one.value for one in found["name"]] == name
        assert [one.value for one in found["age"]] == age
        assert [one.record for one in found["name"]] == [by_name[value] for value in name]
