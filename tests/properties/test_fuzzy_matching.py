"""What must hold of fuzzy matching for any text, any order and any history."""

from __future__ import annotations

from functools import cache
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.identity.evidence import Record, RecordKey
from penstock.identity.fuzzy import values
from penstock.identity.fuzzy.blocking import forms_of, key_parts
from penstock.identity.fuzzy.columns import Column, describe, read
from penstock.identity.fuzzy.comparisons import COMPARE, LEVELS
from penstock.identity.fuzzy.index import BlockIndex, Pair
from penstock.identity.fuzzy.matcher import FuzzyMatcher
from penstock.identity.fuzzy.model import FieldWeights, Model, RelatedWeights
from penstock.identity.fuzzy.prepared import Rarity, likeness
from penstock.identity.fuzzy.training import train

TEXT = st.text(max_size=40)
KINDS = sorted(LEVELS)
_RARE = ("long", "codes")


@given(TEXT)
def test_any_text_is_read_somehow(text: str) -> None:
    for read_text in (values.plain, values.code, values.phone, values.date, values.number):
        read_text(text)
    values.email(text)
    values.sound(text)
    values.codes(text)
    values.is_date(text)
    for kind in KINDS:
        column = Column("c", kind, ("c",))
        found = read(column, {"c": text})
        if found is not None and kind != "long":
            for form in forms_of(column):
                key_parts(column, form, found, None)


@given(st.sampled_from([kind for kind in KINDS if kind in COMPARE]), TEXT, TEXT)
def test_levels_are_symmetric(kind: str, a: str, b: str) -> None:
    column = Column("c", kind, ("c",))  # type: ignore[arg-type]
    one, other = read(column, {"c": a}), read(column, {"c": b})
    if one is None or other is None:
        return
    level = COMPARE[column.kind](one, other)
    assert level == COMPARE[column.kind](other, one)
    assert 0 <= level < len(LEVELS[column.kind])
    assert COMPARE[column.kind](one, one) == 0


@given(TEXT, TEXT)
def test_likeness_of_long_texts_is_symmetric(a: str, b: str) -> None:
    rarity = Rarity(10, {"a": 3, "the": 9})
    one, other = (rarity.read(values.long_text(text) or "x") for text in (a, b))
    assert likeness(one, other) == likeness(other, one)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), TEXT), max_size=8))
def test_any_columns_are_described(rows: list[dict[str, str]]) -> None:
    describe(rows)


BLOCKS = st.dictionaries(
    st.integers(0, 9), st.sets(st.sampled_from("uvwxyz"), max_size=4), max_size=10
)


@given(st.lists(BLOCKS, max_size=6), st.integers(1, 4))
def test_g10_pairs_do_not_depend_on_what_was_before(
    history: list[dict[int, set[str]]], most: int
) -> None:
    """After any history the pairs are those of an index that sees only what is there now; and what
    was gained and lost adds up to them."""
    index = BlockIndex(most)
    now: dict[int, set[str]] = {}
    pairs: set[Pair] = set()
    for batch in history:
        now |= batch
        change = index.put((key(n), blocks) for n, blocks in batch.items())
        assert not pairs & set(change.gained)
        assert pairs >= set(change.lost)
        pairs = (pairs | set(change.gained)) - set(change.lost)
    fresh = BlockIndex(most)
    for number in sorted(now, reverse=True):
        fresh.put([(key(number), now[number])])
    assert index.pairs() == fresh.pairs() == sorted(pairs)


@settings(deadline=None)  # the first of them trains
@given(st.permutations(range(24)), st.integers(1, 24))
def test_g10_links_do_not_depend_on_order_or_batches(order: list[int], size: int) -> None:
    """Whatever order records come in, in whatever batches: the same links of the same weight."""
    found = records()
    assert linked(order, size) == linked(list(range(len(found))), len(found))


@settings(deadline=None)
@given(st.integers(0, 23), st.integers(0, 23))
def test_scores_are_symmetric(a: int, b: int) -> None:
    one, other = records()[a], records()[b]
    if one is other:
        return
    [match] = matcher().score([(one, other)])
    assert [match] == matcher().score([(other, one)])
    assert match.left < match.right


def key(number: int) -> RecordKey:
    return RecordKey("s", "t", f"{number:02d}")


@cache
def records() -> list[Record]:
    names = ["anna bergel", "anna bergl", "hans kern", "hans kehrn", "eva stein", "ewa stein"]
    return [
        Record(key(n), fields={
            "name": names[n % 6], "born": f"19{50 + n % 6}-0{1 + n % 6}-1{n % 6}",
            "city": ("wien", "graz")[n % 2],
        })
        for n in range(24)
    ]  # fmt: skip


@cache
def matcher() -> FuzzyMatcher:
    rows = [record.fields for record in records()]
    return FuzzyMatcher(train(rows, ["s"] * len(rows)).model)


def linked(order: list[int], size: int) -> list[object]:
    """The links that there are after the records came in this order, so many at a time."""
    found, index = records(), BlockIndex(matcher().block_at_most)
    links: dict[Pair, object] = {}
    for start in range(0, len(order), size):
        batch = [found[n] for n in order[start : start + size]]
        change = index.put((r.key, matcher().blocks(r.fields)) for r in batch)
        for pair in change.lost:
            links.pop(pair, None)
        by_key = {record.key: record for record in found}
        for match in matcher().score([(by_key[a], by_key[b]) for a, b in change.gained]):
            if match.weight >= matcher().link:
                links[match.left, match.right] = match
    return [links[pair] for pair in sorted(links)]


_SAID = {
    "text": ["", "a", "ann", "anna", "anne maria", "maria anne", "anna marja", "bob", "bobby"],
    "long": ["red chair with arms", "a red chair with arms", "red chair", "blue chairs with arm"],
    "codes": ["ab12345", "AB12345-red ab9999", "ab9999", "xy12345 zz", "nothing"],
    "code": ["12", "123", "1234567", "1234576", "12345678", "n/a"],
    "phone": ["+43 1 2345678", "012345678", "+43 1 2345687", "99887766"],
    "email": ["p@x.org", "p@y.com", "peter.k@x.org", "petra.k@x.org", "q@x.org"],
    "date": ["1980-01-02", "1980-02-01", "1980-01-03", "1981-05-02", "soon"],
    "number": ["12.5", "12.6", "13", "100", "many"],
}


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Any weights, also such as no data would give: only their form is right."""
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    columns = tuple(Column(f"c{n}", kind, (f"c{n}",)) for n, kind in enumerate(kinds))
    texts = [n for n, kind in enumerate(kinds) if kind == "text"]
    swapped: dict[int, int] = {}
    if len(texts) > 1 and draw(st.booleans()):
        swapped[texts[0]] = texts[1]
    share = st.floats(0.001, 0.9)
    fields = []
    for place, kind in enumerate(kinds):
        count = len(LEVELS[kind]) + 2 * (place in swapped)
        said = st.tuples(*[share] * count)
        shares = draw(st.dictionaries(st.sampled_from(_SAID[kind]), share, max_size=3))
        fields.append(FieldWeights(draw(said), draw(said), shares, draw(share), swapped.get(place)))
    relations: tuple[RelatedWeights, ...] = ()
    if draw(st.booleans()):
        relations = (RelatedWeights(draw(st.floats(-9, 3)), ((0, fields[0].u),)),)
    return Model(
        columns,
        tuple(fields),
        {
            c.name: Rarity(9, {"red": 3, "ab12345": 2})
            for c in columns
            if c.kind in ("long", "codes")
        },
        (),
        draw(st.floats(-12, 2)),
        5.0,
        draw(st.floats(-6, 6)),
        60,
        relations=relations,
    )


@settings(max_examples=300)
@given(models(), st.data())
def test_g10_what_is_screened_out_is_no_match(model: Model, data: st.DataObject) -> None:
    """Of all pairs those are left that have the weight, with the same weight and reasons."""
    said = st.fixed_dictionaries({c.name: st.sampled_from(_SAID[c.kind]) for c in model.columns})
    rows = data.draw(st.lists(said, min_size=2, max_size=7))
    records = [Record(RecordKey("s", "t", str(n)), (), row) for n, row in enumerate(rows)]
    matcher = FuzzyMatcher(model)
    pairs = list(combinations(range(len(rows)), 2))
    scored = matcher.score([(records[a], records[b]) for a, b in pairs])
    ready = {n: matcher.ready(record.fields) for n, record in enumerate(records)}
    assert matcher.weigh(pairs, ready) == {
        pair: (match.weight, match.fields)
        for pair, match in zip(pairs, scored, strict=True)
        if match.weight >= model.possible
    }


def test_texts_that_differ_may_say_as_much_as_equal_ones() -> None:
    """All part numbers of one in the other: nothing is screened out because the texts differ."""
    column = Column("c", "codes", ("c",))
    weights = FieldWeights((0.9, 0.05, 0.05), (0.01, 0.04, 0.95), {}, 0.01)
    rarity = {"c": Rarity(9, {})}
    matcher = FuzzyMatcher(Model((column,), (weights,), rarity, (), -4.0, 5.0, 1.0, 60))
    one, other = matcher.ready({"c": "ab12345 xy98765"}), matcher.ready({"c": "ab12345"})
    assert list(matcher.weigh([(0, 1)], {0: one, 1: other})) == [(0, 1)]
