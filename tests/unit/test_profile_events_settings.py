"""Sources of profile events that could not work are refused when the project file is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.config import parse_settings
from penstock.errors import ConfigError

CRM = {"type": "postgres", "dsn": "postgresql://x", "tables": ["contacts"]}
KIND = {"tables": {"crm.contacts": {"identifiers": {"email": "email"}}}}


def parse(people: dict[str, Any], kind: dict[str, Any] = KIND) -> None:
    said = {
        "project": "p",
        "sources": {"crm": CRM, "people": {"type": "profile_events", **people}},
        "profiles": {"customer": kind},
    }
    parse_settings(json.dumps(said))


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
