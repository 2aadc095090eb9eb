"""Conditions of segments, and what is believed of times and consents."""

from __future__ import annotations

import pytest

from penstock.errors import ConfigError
from penstock.identity.conditions import parse
from penstock.identity.details import ConsentRule, consents, permitted
from penstock.identity.moments import EARLIEST, event_time
from penstock.records import Microseconds

ADA = {"orders": ["3"], "city": ["Berlin", "Bonn"], "paid": ["10.50"], "code": ["007"]}


@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ("orders >= 3", True),
        ("orders > 3", False),
        ("paid = 10.5", True),  # numbers, whatever they look like
        ("orders < 10", True),  # not as texts
        ("city = 'Bonn'", True),  # one value that fits is enough
        ("city = 'bonn'", False),
        ("city in ('Rome', 'Berlin') and not orders = 4", True),
        ("orders = 1 or orders = 2 or orders = 3", True),
        ("orders = 3 or city = 'x' and city = 'y'", True),  # and binds closer
        ("(orders = 3 or city = 'x') and city = 'y'", False),
        ("nothing > 1", False),
        ("nothing != 1", False),  # what is not known compares to nothing
        ("nothing is unknown and orders is known", True),
        ("NOT (city IS UNKNOWN)", True),
        ("code = 7", True),
        ("city <> 'it''s'", True),
        ("orders >= -1.5", True),
    ],
)
def test_a_condition_holds_or_not(said: str, holds: bool) -> None:
    assert parse(said).holds(ADA) is holds


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("", "the name of a trait"),
        ("orders", "= != < <= > >= `in` or `is`"),
        ("orders > ", "a number or a 'text'"),
        ("orders > city", "a number or a 'text'"),
        ("orders > 1 city", "`and`, `or` or its end"),
        ("(orders > 1", r"'\)'"),
        ("orders > 1; DROP TABLE x", "got '; DROP TABLE x'"),
        ("city = 'x", 'got "\'x"'),
        ("orders in ()", "a number or a 'text'"),
        ("orders is 3", "'unknown'"),
        ("not " * 50 + "orders = 1", "at most 20 levels"),
        ("orders = 1 or " * 500 + "orders = 2", "at most 2000 characters"),
    ],
)
def test_what_is_no_condition_is_refused_with_a_sentence(said: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse(said)


NOW = Microseconds(1_790_000_000_000_000)


@pytest.mark.parametrize(
    ("said", "believed"),
    [
        ("1970-01-01T00:00:00Z", False),
        ("1979-12-31", False),
        ("1980-01-01", True),
        ("2026-09-21 16:26:40+02", True),
        ("2027-12-01", True),  # a flight that is booked
        ("2090-01-01", False),
        ("0001-01-01", False),
        ("infinity", False),
        ("", False),
        (None, False),
    ],
)
def test_impossible_times_are_none(said: str | None, believed: bool) -> None:
    assert (event_time(said, NOW) is not None) is believed
    assert event_time("1980-01-01", NOW) == EARLIEST


def at(days: float) -> Microseconds:
    return Microseconds(round(NOW - days * 86_400_000_000))


@pytest.mark.parametrize(
    ("rows", "agreed"),
    [
        ([("yes", at(3))], True),
        ([("yes", None)], True),
        ([("no", at(5)), ("yes", at(3))], True),
        ([("yes", at(5)), ("no", at(3))], False),
        ([("yes", at(3)), ("no", at(3))], False),
        ([("yes", at(3)), ("no", None)], False),
        ([("yes", at(-3))], False),
        ([("yes", at(3)), ("no", at(-3))], False),
        ([("no", at(5)), ("yes", None)], False),
        ([("perhaps", at(1))], False),
        ([(None, at(1))], False),
    ],
)
def test_g7_what_is_not_sure_is_no_consent(
    rows: list[tuple[str | None, Microseconds | None]], agreed: bool
) -> None:
    for ordered in (rows, rows[::-1]):
        said = [("Prompt", answer, moment) for answer, moment in ordered]
        assert consents(said, NOW) == {"prompt": agreed}


def test_g7_a_purpose_that_is_not_named_is_closed_whatever_was_agreed() -> None:
    rule = ConsentRule("crm", "consents", "p", "g", {"mobile": frozenset({"api"})})
    given = {"api": True, "prompt": True}
    assert permitted("mobile", "api", rule, given)
    assert not permitted("mobile", "prompt", rule, given)
    assert not permitted("mobile", "api", rule, {})
    assert permitted("city", "prompt", rule, {})
    assert permitted("mobile", None, rule, {})
