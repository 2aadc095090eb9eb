"""What is about somebody, and what is kept from coming in again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.log.codec import Codec
from penstock.operate.erasing import receipts, searching
from penstock.records import (
    UNCHANGED,
    Change,
    Column,
    Microseconds,
    Op,
    Position,
    Row,
    Schema,
)
from penstock.subjects import (
    ERASED,
    RecordName,
    Subject,
    Suppression,
    erased,
    form,
    forms,
    key_name,
)

SCHEMA = Schema(
    "crm", "public.people", (Column("id", "integer", key=True), Column("email", "text"))
)
SECRET = bytes(range(32))


def change(
    key: str, email: str | None, *, old_key: str | None = None, before: Row | None = None
) -> Change:
    after = None if email is None else (key, email)
    return Change(
        SCHEMA,
        Op.UPDATE if after else Op.DELETE,
        (key,),
        Position(f"{key:>09}"),
        Microseconds(1),
        after,
        before,
        None if old_key is None else (old_key,),
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (" Ada@Example.org ", "ada@example.org"),
        ("0170/123 45 67", "01701234567"),
        ("+49 (170) 1234567", "+491701234567"),
        ("KD-2024-0007", "kd-2024-0007"),
        ("7", None),
        ("Ada Lovelace", None),
        ("12345678", None),
        ("write to ada@example.org", None),
        ("n/a", None),
    ],
)
def test_g9_only_values_that_tell_who_it_is_are_used_by_themselves(
    value: str, expected: str | None
) -> None:
    assert form(value) == expected


def test_g9_a_change_is_about_somebody_by_its_record_its_old_record_or_a_value() -> None:
    subject = Subject(
        frozenset({RecordName("crm", "public.people", "7")}), frozenset({"ada@example.org"})
    )
    assert subject.holds(change("7", None))
    assert subject.holds(change("8", "x", old_key="7"))
    assert subject.holds(change("9", "ADA@example.org"))
    assert subject.holds(change("9", "x", before=("9", "ada@example.org ")))
    assert not subject.holds(change("9", "write to ada@example.org"))
    assert not subject.holds(change("77", "grace@example.org"))
    assert not subject.holds(erased(change("7", "x")))
    assert Subject.from_dict(subject.to_dict()) == subject


rows = st.lists(
    st.tuples(st.sampled_from("123456789"), st.sampled_from(["a@x.org", "b@x.org", "c", None])),
    min_size=1,
    max_size=30,
)


@given(rows)
def test_g9_what_is_suppressed_keeps_its_place_and_nothing_else(
    said: Sequence[tuple[str, str | None]],
) -> None:
    """Screened is the same number of changes in the same order; the others are untouched; what is
    screened again does not change; and it survives the log's form."""
    subject = Subject(frozenset({RecordName("crm", "public.people", "3")}), frozenset({"a@x.org"}))
    plain = Suppression(SECRET)
    suppression = Suppression(SECRET, plain.digests_of(subject))
    changes = [change(key, email) for key, email in said]
    assert plain.screen(changes) is changes
    screened = suppression.screen(changes)
    for one, left in zip(changes, screened, strict=True):
        if subject.holds(one):
            assert left.schema.stream == ERASED
            assert (left.op, left.position, left.after, left.before) == (
                one.op, one.position, None, None,
            )  # fmt: skip
        else:
            assert left is one
    assert list(suppression.screen(screened)) == list(screened)
    assert Codec().decode(Codec().encode(screened).payload).changes == list(screened)
    other = Suppression(bytes(32), plain.digests_of(subject))
    assert list(other.screen(changes)) == changes  # digests of another secret say nothing


def test_keys_are_named_as_the_profiles_name_them() -> None:
    assert key_name(("7",)) == "7"
    assert key_name(("a", None)) == '["a", null]'
    assert key_name((None,)) == "[null]"
    assert key_name(("x" * 500,)).startswith("sha256:")


def test_values_that_the_source_did_not_send_are_nobodys() -> None:
    subject = Subject(frozenset(), frozenset({"ada@example.org"}))
    assert not subject.holds(change("1", "x", before=("1", UNCHANGED)))


# --------------------------------------------------------------------------- receipts


def test_g9_a_receipt_says_whether_it_was_changed() -> None:
    receipt = receipts.signed({"receipt": 1, "holders": [{"holder": "log", "count": 3}]}, SECRET)
    import orjson

    text = orjson.dumps(receipt, option=orjson.OPT_INDENT_2)
    assert receipts.verify(text, SECRET)["holders"] == [{"holder": "log", "count": 3}]
    with pytest.raises(ConfigError, match="something in it was changed"):
        receipts.verify(text.replace(b"3", b"4", 1), SECRET)
    with pytest.raises(ConfigError, match="the key of another"):
        receipts.verify(text, bytes(32))
    for nonsense in (b"", b"[]", b"{}", b'{"signature": 1}', b'{"signature": {}}'):
        with pytest.raises(ConfigError, match="expected a receipt"):
            receipts.verify(nonsense, SECRET)


@given(st.binary(max_size=300))
def test_a_sealed_plan_opens_with_its_key(data: bytes) -> None:
    assert receipts.seal(receipts.seal(data, SECRET), SECRET) == data
    if len(data) > 8:
        assert receipts.seal(data, SECRET) != data


# --------------------------------------------------------------------------- bytes


@given(
    st.binary(max_size=200),
    st.lists(st.sampled_from(["canary7", "canary77", "caſe€x", 'say "x" now']), unique=True),
    st.integers(0, 60),
)
def test_g9_many_values_are_found_in_one_pass_wherever_they_stand(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, values: list[str], at: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "searched"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "_BLOCK", 64)  # values lie across the ends of blocks
        data = noise[:at] + b" ".join(value.encode() for value in values) + noise[at:]
        path.write_bytes(data)
        written = {form.encode() for form in searching._written(values)}
        expected = sum(
            data.startswith(value, place) for value in written for place in range(len(data))
        )
        assert searching.Needles(values).count(path) == expected


VALUES_OF_ROWS = st.one_of(
    st.sampled_from(
        ["Ada@example.org", " ada@EXAMPLE.org ", "+49 170 1234567", "(030) 99-99-999", "ab12345678",
         "AB12345678", "straße7777", "STRASSE7777", "7", "", "Ada Lovelace"]
    ),
    st.text(max_size=12),
    st.text("0123456789+() -", max_size=16),
)  # fmt: skip


@given(st.lists(VALUES_OF_ROWS), st.lists(VALUES_OF_ROWS))
def test_what_a_row_bears_is_found_however_it_is_written(own: list[str], row: list[str]) -> None:
    """Looking at the ends of values first leaves nothing out."""
    values = frozenset(forms(own))
    subject = Subject(frozenset(), values)
    assert subject.borne(row) == values & set(forms(row))
