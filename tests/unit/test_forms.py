"""Forms: what is said fills them, what is missing is asked for, what does not fit is told."""

from __future__ import annotations

import re

import pytest

from penstock.serving.forms import Slot, Value, filled

SLOTS = [
    Slot("flight", "Which flight?", pattern=re.compile(r"\b[A-Z]{2}\d{3,4}\b")),
    Slot("day", "Which day?", "date"),
    Slot("bags", "How many bags?", "integer"),
    Slot("seat", "Window or aisle?", "choice", choices=("window", "aisle")),
    Slot("insured", "With insurance?", "boolean"),
    Slot("mail", "Where shall we write?", "email", required=False),
    Slot("remark", "Anything else?"),
]


def test_a_form_is_filled_in_question_by_question() -> None:
    values: dict[str, Value] = {}
    asked = []
    talk = ("PS204 please", "on 2026-05-01", "two", "2", "the window", "ja", "no, thanks")
    for said in (None, *talk):
        filling = filled(SLOTS, values, said)
        values = dict(filling.values)
        asked.append(filling.slot)
    assert asked == ["flight", "day", "bags", "bags", "seat", "insured", "remark", None]
    assert filling.done
    assert values == {
        "flight": "PS204", "day": "2026-05-01", "bags": 2, "seat": "window", "insured": True,
        "remark": "no, thanks",
    }  # fmt: skip


def test_one_answer_fills_what_can_be_nothing_else() -> None:
    """A pattern, an address, a date: where another question was asked, and the optional too."""
    filling = filled(SLOTS, {}, "PS204 on 2026-05-01, tell ada@example.org")
    assert dict(filling.values) == {
        "flight": "PS204", "day": "2026-05-01", "mail": "ada@example.org",
    }  # fmt: skip
    assert filling.slot == "bags"


@pytest.mark.parametrize(
    ("slot", "said", "sentence"),
    [
        ("flight", "the one to Oslo", "another form of it"),
        ("flight", "PS204 or PS205", "another form of it"),
        ("day", "2026-02-30", "a date such as"),
        ("bags", "many", "a whole number"),
        ("bags", "1.5", "a whole number"),
        ("seat", "window or aisle, whatever", "one of window, aisle"),
        ("seat", "windowsill", "one of window, aisle"),
        ("insured", "perhaps", "yes or no"),
    ],
)
def test_what_does_not_fit_is_asked_for_again(slot: str, said: str, sentence: str) -> None:
    (only,) = [one for one in SLOTS if one.name == slot]
    filling = filled([only], {}, said)
    assert filling.slot == slot
    assert not filling.values
    assert filling.problem is not None
    assert sentence in filling.problem


def test_what_is_no_slot_any_more_is_left_out() -> None:
    assert filled(SLOTS[:1], {"gone": 1}).values == {}
