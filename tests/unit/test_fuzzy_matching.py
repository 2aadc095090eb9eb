"""How values are read and compared, and what training makes of records without labels."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from penstock.errors import ConfigError
from penstock.identity.evidence import Record, RecordKey
from penstock.identity.fuzzy import values
from penstock.identity.fuzzy.columns import describe
from penstock.identity.fuzzy.comparisons import (
    code_level,
    codes_level,
    date_level,
    email_level,
    number_level,
    text_level,
)
from penstock.identity.fuzzy.matcher import PRIOR, RELATED, FuzzyMatcher
from penstock.identity.fuzzy.model import from_json
from penstock.identity.fuzzy.sources import each_once, source_column
from penstock.identity.fuzzy.training import Trained, train
from penstock.identity.matching import Matcher

GIVEN = ("anna", "maria", "peter", "hans", "julia", "thomas", "sofia", "lukas", "emma", "jonas")
PARTS = ("ber", "gel", "mann", "stein", "wald", "hof", "bach", "brand", "kel", "ler", "schmid")
CITIES = ["wien", "graz", "linz", "salzburg", "villach", "wels"]


def born(chance: random.Random) -> str:
    return f"{chance.randint(1940, 2004)}-{chance.randint(1, 12):02d}-{chance.randint(1, 28):02d}"


def people(many: int, seed: int, again: float = 0.4) -> tuple[list[dict[str, str]], list[str]]:
    """Rows, some of them of one person with an error; and who each is."""
    chance = random.Random(seed)
    rows, truth = [], []
    for number in range(many):
        row = {
            "given": chance.choice(GIVEN),
            "surname": "".join(chance.choice(PARTS) for _ in range(3)),
            "born": born(chance),
            "city": chance.choice(CITIES),
            "zip": str(chance.randint(1000, 9999)),
        }
        rows.append(row)
        truth.append(str(number))
        if chance.random() < again:
            other = dict(row)
            wrong = chance.choice(list(other))
            at = chance.randrange(len(other[wrong]))
            other[wrong] = other[wrong][:at] + other[wrong][at + 1 :]
            rows.append(other)
            truth.append(str(number))
    return rows, truth


@pytest.fixture(scope="module")
def trained() -> Trained:
    rows, _ = people(300, 3)
    return train(rows, ["crm"] * len(rows))


def records(rows: Sequence[dict[str, str]]) -> list[Record]:
    return [Record(RecordKey("crm", "p", str(n)), fields=row) for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (values.plain, "  Éva\tMÜLLER ", "eva muller"),
        (values.plain, "N/A", None),
        (values.short_text, "o'brien-smith", "o brien smith"),
        (values.phone, "+43 664 123 45 67", "641234567"),
        (values.phone, "0664/1234567", "641234567"),
        (values.date, "1971-06-24", "19710624"),
        (values.date, "24.06.1971", "19710624"),
        (values.date, "19710624", "19710624"),
        (values.date, "yesterday", None),
        (values.number, "$1,219.00", "1219.0"),
        (values.number, "eva 5", None),
        (values.code, "ab-12 3", "ab123"),
    ],
)
def test_values_are_read(read: object, text: str, expected: str | None) -> None:
    assert read(text) == expected  # type: ignore[operator]


def test_part_numbers_are_no_measures() -> None:
    text = "kx-tg6700b 120gb 7.1-channel 10/100base-tx 70-300mm f/3.5-5.6 dscw150/b 706018 802.11g"
    assert values.codes(text) == {"kxtg6700b", "dscw150b", "706018"}


@pytest.mark.parametrize(
    ("level", "a", "b", "expected"),
    [
        (text_level, "allen", "allen", 0),
        (text_level, "allen", "alen", 1),
        (text_level, "unt 2", "2 unt", 1),
        (text_level, "robert", "r", 2),
        (text_level, "alexander", "alex", 2),
        (text_level, "maria theresa", "maria", 2),
        (text_level, "anna", "peter", 4),
        (code_level, "4011", "4101", 1),
        (code_level, "123456", "654321", 3),
        (date_level, "19710624", "19710524", 1),
        (date_level, "19710624", "19712406", 1),
        (date_level, "19710624", "19980115", 4),
        (email_level, "eva@a.org", "eva@b.com", 2),
        (email_level, "eva.kelly@a.org", "evakelly@a.org", 1),
        (number_level, "100.0", "102.0", 1),
        (number_level, "100.0", "250.0", 4),
        (codes_level, "fs105", "fs105na", 1),
        (codes_level, "wdp3r", "wdp3w", 2),
    ],
)
def test_levels_of_comparison(level: object, a: str, b: str, expected: int) -> None:
    assert level(a, b) == level(b, a) == expected  # type: ignore[operator]


def test_columns_are_known_by_their_values_and_not_by_their_names() -> None:
    rows, _ = people(100, 1)
    named = [{f"c{n}": value for n, value in enumerate(row.values())} for row in rows]
    numbered = [{"id": f"rec-{n}", "same": "x", **row} for n, row in enumerate(named)]
    columns, described = describe(numbered)
    assert {c.name: c.kind for c in columns} == {
        "c0": "text", "c1": "text", "c2": "date", "c3": "text", "c4": "code",
    }  # fmt: skip
    why = {d.name: d.why for d in described if d.kind is None}
    assert set(why) == {"id", "same"}


def test_training_needs_no_labels_and_finds_who_is_one(trained: Trained) -> None:
    """What is linked is right, and nearly all is linked; what was expected is near it."""
    rows, truth = people(300, 3)
    matcher = FuzzyMatcher(trained.model)
    found = records(rows)
    pairs = [(a, b) for n, a in enumerate(found) for b in found[n + 1 :]]
    linked = [m for m in matcher.score(pairs) if m.weight >= matcher.link]
    right = sum(truth[int(m.left.key)] == truth[int(m.right.key)] for m in linked)
    true = sum(truth[int(a.key.key)] == truth[int(b.key.key)] for a, b in pairs)
    assert right / len(linked) > 0.97
    assert right / true > 0.95
    assert trained.matches_expected == pytest.approx(true, rel=0.15)


def test_a_rare_value_says_more_than_a_common_one(trained: Trained) -> None:
    given = next(n for n, c in enumerate(trained.model.columns) if c.name == "given")
    surname = next(n for n, c in enumerate(trained.model.columns) if c.name == "surname")
    weights = trained.model.fields
    assert weights[surname].bits(0, "nobodyhasit") > weights[given].bits(0, "anna") + 2


def test_an_explanation_adds_up_and_says_the_level(trained: Trained) -> None:
    rows, truth = people(300, 3)
    found = records(rows)
    matcher = FuzzyMatcher(trained.model)
    one = next(n for n in range(len(rows) - 1) if truth[n] == truth[n + 1])
    [match] = matcher.score([(found[one + 1], found[one])])
    assert match.left < match.right
    reasons = matcher.explain(found[one], found[one + 1])
    assert sum(reason.bits for reason in reasons) == pytest.approx(match.weight)
    assert reasons[0].field == PRIOR
    levels = {r.level for r in reasons if r.field not in (PRIOR, RELATED)}
    assert "equal" in levels
    assert len(levels) > 1


def test_a_model_is_a_file_that_means_the_same_elsewhere(trained: Trained) -> None:
    again = from_json(trained.model.to_json())
    promised: Matcher = FuzzyMatcher(again)
    assert promised.version == again.version
    assert again.version == trained.model.version
    rows, _ = people(60, 9)
    found = records(rows)
    pairs = list(pairwise(found))
    one, other = FuzzyMatcher(trained.model), pickle.loads(pickle.dumps(FuzzyMatcher(again)))
    assert one.score(pairs) == other.score(pairs)
    assert [one.blocks(r.fields) for r in found] == [other.blocks(r.fields) for r in found]


def test_training_twice_gives_the_same_model() -> None:
    rows, _ = people(120, 5)
    assert (
        train(rows, ["a"] * len(rows)).model.version == train(rows, ["a"] * len(rows)).model.version
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other/9"}', '{"format": 3'])
def test_what_is_no_model_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="train anew"):
        from_json(text)


@pytest.mark.parametrize("rows", [[], [{"a": "x"}], [{"a": "x"}, {"a": "x"}, {}]])
def test_rows_that_nothing_tells_apart_are_refused(rows: list[dict[str, str]]) -> None:
    with pytest.raises(ConfigError, match="expected at least two records"):
        train(rows, ["a"] * len(rows))


def test_sources_that_have_everybody_once_are_recognised() -> None:
    """And the same records, parted by chance, are not taken for such."""
    rows, truth = people(400, 4, again=0.8)
    seen: set[str] = set()
    sources = []
    for who in truth:
        sources.append("b" if who in seen else "a")
        seen.add(who)
    names = list(rows[0])
    assert each_once(names, rows, sources)
    chance = random.Random(1)
    assert not each_once(names, rows, [chance.choice("ab") for _ in rows])
    told = [{**row, "system": source} for row, source in zip(rows, sources, strict=True)]
    assert source_column([*names, "system"], told) == "system"
    assert source_column(names, rows) is None


def test_households_are_not_one_person() -> None:
    """Who shares surname, address, telephone and nothing else is somebody else."""
    chance = random.Random(11)
    rows, truth = [], []
    for house in range(250):
        shared = {
            "surname": "".join(chance.choice(PARTS) for _ in range(3)),
            "street": f"{chance.choice(PARTS)}{chance.choice(PARTS)}gasse {chance.randint(1, 90)}",
            "phone": f"+43 664 {chance.randint(10**6, 10**7 - 1)}",
        }
        for person in range(chance.choice((1, 2, 3))):
            row = {
                "given": chance.choice(GIVEN),
                "born": born(chance),
                **shared,
            }
            for _ in range(1 + (chance.random() < 0.15)):
                rows.append(dict(row))
                truth.append(f"{house}-{person}")
    model = train(rows, ["a"] * len(rows)).model
    matcher = FuzzyMatcher(model)
    found = records(rows)
    pairs = [(a, b) for n, a in enumerate(found) for b in found[n + 1 :]]
    linked = [m for m in matcher.score(pairs) if m.weight >= matcher.link]
    right = sum(truth[int(m.left.key)] == truth[int(m.right.key)] for m in linked)
    assert right / len(linked) > 0.95
    assert right > 20
