"""Whatever a source says, the log says again; whatever happens to the bytes is noticed."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import DamagedError, FatalError
from penstock.log.codec import Codec
from penstock.records import (
    UNCHANGED,
    Change,
    Column,
    Microseconds,
    Op,
    Position,
    Schema,
    Value,
)

cheap = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Lone surrogates too: they are in file names that are not UTF-8.
any_text = st.text(st.characters(exclude_categories=()), max_size=6)
awkward = st.sampled_from(["", "null", "__debezium_unavailable_value", "\x00", "UNCHANGED", "[]"])
texts = any_text | awkward
values: st.SearchStrategy[Value] = st.none() | st.just(UNCHANGED) | texts
key_parts = st.none() | texts


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    columns = draw(st.lists(st.builds(Column, texts, texts, st.booleans()), max_size=4))
    return Schema(draw(texts), draw(texts), tuple(columns))


@st.composite
def changes_of(draw: st.DrawFn, schema: Schema) -> Change:
    rows = st.none() | st.tuples(*[values] * len(schema.columns))
    keys = st.lists(key_parts, max_size=3).map(tuple)
    after = draw(rows)
    derived = after is not None and draw(st.booleans())
    key = tuple(after[i] for i in schema.key_indexes) if derived and after else draw(keys)
    return Change(
        schema,
        draw(st.sampled_from(Op)),
        tuple(None if part is UNCHANGED else part for part in key),
        Position(draw(texts)),
        Microseconds(draw(st.integers(-(2**63), 2**63 - 1))),
        after,
        draw(rows),
        draw(st.none() | keys),
        draw(st.none() | texts),
    )


@st.composite
def batches(draw: st.DrawFn) -> list[Change]:
    shapes = draw(st.lists(schemas(), min_size=1, max_size=3))
    one = st.sampled_from(shapes).flatmap(changes_of)
    return draw(st.lists(one, min_size=1, max_size=5))


@cheap
@given(batches(), st.sampled_from([None, 0]))
def test_decoding_gives_back_exactly_what_was_encoded(
    batch: list[Change], compress_from: int | None
) -> None:
    """All texts, NULL, what was not sent, every shape of change, several schemas at once."""
    encoded = Codec(compress_from=compress_from).encode(batch)
    decoded = Codec().decode(encoded.payload)
    assert decoded.changes == batch
    assert decoded.size == encoded.size
    assert all(type(change) is Change for change in decoded.changes)
    assert set(encoded.streams) == {change.schema.stream for change in batch}


@cheap
@given(batches(), st.data())
def test_streams_are_chosen_in_order(batch: list[Change], data: st.DataObject) -> None:
    """Decoding some streams gives what decoding everything and choosing would."""
    streams = sorted({change.schema.stream for change in batch})
    wanted = frozenset(data.draw(st.sets(st.sampled_from([*streams, "absent"]))))
    decoded = Codec().decode(Codec().encode(batch).payload, wanted)
    assert decoded.changes == [change for change in batch if change.schema.stream in wanted]


@cheap
@given(batches(), st.sampled_from([None, 0]), st.data())
def test_damaged_bytes_are_refused(
    batch: list[Change], compress_from: int | None, data: st.DataObject
) -> None:
    """Flipped, cut or lengthened: one error, never wrong changes."""
    payload = Codec(compress_from=compress_from).encode(batch).payload
    kind = data.draw(st.sampled_from(["flip", "cut", "lengthen"]))
    at = data.draw(st.integers(0, len(payload) - 1))
    if kind == "flip":
        bit = 1 << data.draw(st.integers(0, 7))
        damaged = payload[:at] + bytes((payload[at] ^ bit,)) + payload[at + 1 :]
    elif kind == "cut":
        damaged = payload[:at]
    else:
        damaged = payload + data.draw(st.binary(min_size=1, max_size=5))
    with pytest.raises(FatalError, match="expected a"):
        Codec().decode(damaged)


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(payload: bytes) -> None:
    """What no codec wrote is never taken for changes."""
    with pytest.raises(FatalError):
        Codec().decode(payload)


def test_g2_every_single_flipped_bit_is_noticed() -> None:
    """Wherever it is in a stored batch, compressed or not: the error is ours and says damaged."""
    schema = Schema("shop", "public.t", (Column("id", "bigint", key=True), Column("name", "text")))
    batch = [
        Change(schema, Op.CREATE, (str(i),), Position("p"), Microseconds(i), (str(i), "same" * 9))
        for i in range(3)
    ]
    for compress_from in (None, 0):
        payload = Codec(compress_from=compress_from).encode(batch).payload
        for place, bit in product(range(len(payload)), range(8)):
            damaged = bytearray(payload)
            damaged[place] ^= 1 << bit
            with pytest.raises(DamagedError, match="damaged"):
                Codec().decode(bytes(damaged))
