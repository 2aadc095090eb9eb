"""Sources of profile events that could not work are refused when the project file is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.config import parse_settings
from penstock.errors import ConfigError
from penstock.settings import Settings
from penstock.wiring.permissions import row_rule

CRM = {"type": "postgres", "dsn": "postgresql://x", "tables": ["contacts"]}
KIND = {"tables": {"crm.contacts": {"identifiers": {"email": "email"}}}}


def parse(people: dict[str, Any], kind: dict[str, Any] = KIND) -> Settings:
    said = {
        "project": "p",
        "sources": {"crm": CRM, "people": {"type": "profile_events", **people}},
        "profiles": {"customer": kind},
    }
    return parse_settings(json.dumps(said))


def test_the_kind_is_one_of_the_project() -> None:
    parse({"kind": "customer"})
    with pytest.raises(ConfigError, match=r"expected a kind of profile \(customer\), got 'guest'"):
        parse({"kind": "guest"})


def test_tables_are_those_that_there_are() -> None:
    parse({"kind": "customer", "tables": ["profile_events"]})
    with pytest.raises(ConfigError, match="expected the tables profile_events, segment_members"):
        parse({"kind": "customer", "tables": ["merges"]})


def test_events_do_not_make_events() -> None:
    loop = {"tables": {"people.profile_events": {"identifiers": {"id": "profile"}}}}
    with pytest.raises(ConfigError, match="events would make events"):
        parse({"kind": "customer"}, loop)


def test_g7_they_are_closed_and_other_tables_stay_as_they_were() -> None:
    settings = parse({"kind": "customer"})
    assert row_rule(settings, "people", "profile_events") == {"kind": "closed"}
    assert row_rule(settings, "crm", "public.contacts") is None
    opened = parse({"kind": "customer", "permissions": "open"})
    assert row_rule(opened, "people", "segment_members") == {"kind": "open"}
