"""Behaviour into profiles: page views that are sent over HTTP to a running process, anonymous until
somebody logs in."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.acceptance.test_webhooks import Shop

from penstock.testing.webhooks import SECRET

from .conftest import Home

NOW = datetime.now(UTC)
SOURCES = f"""
  web:
    type: webhook
    secret: {SECRET}
    heartbeat: 0.2
    tables:
      events:
        key: [id]
        columns: {{id: text, device: text, login: text, page: text, at: timestamptz}}
      accounts: {{key: [id], columns: {{id: bigint, email: text, name: text}}}}
"""
PROFILES = """
profiles:
  visitor:
    tables:
      web.accounts: {identifiers: {email: email}, traits: {name: name}}
      web.events: {identifiers: {cookie: device, email: login}, time: at, events: true}
    identifiers: {cookie: exact}
    computed:
      sessions_30d: {table: web.events, value: sessions, within: 30d}
      last_session: {table: web.events, value: last_session(page)}
      views: {table: web.events, value: count, where: {page: [/, /routes, /vienna]}}
    segments: {active: "sessions_30d >= 2"}
"""


class Web(Shop):
    """The same, with profiles."""

    def __init__(self, home: Home, database_url: str) -> None:
        self.home = home
        self.url = database_url
        home.project(database_url, SOURCES, PROFILES)
        self.start()

    def view(
        self, number: int, page: str, minutes: int, device: str, login: str = ""
    ) -> dict[str, Any]:
        at = (NOW - timedelta(minutes=minutes)).isoformat()
        row = {"id": f"e{number}", "device": device, "page": page, "at": at}
        return {**row, "login": login} if login else row

    def shown(self, who: str) -> dict[str, Any]:
        ended = self.home.run("profiles", "show", who, "--json")
        assert ended.code == 0, ended.errors
        found: dict[str, Any] = json.loads(ended.output)
        return found


@pytest.fixture
def web(home: Home, database_url: str) -> Web:
    return Web(home, database_url)


def test_a_login_adopts_what_a_device_did_before(web: Web) -> None:
    """Two sessions of an anonymous device, in any order; then the login; then one more session."""
    assert (
        web.post("web/accounts", {"id": 1, "email": "Ada@x.org", "name": "Ada"}, "a").status_code
        < 300
    )
    views = [
        web.view(1, "/", 300, "phone"),
        web.view(3, "/vienna", 52, "phone"),
        web.view(2, "/routes", 60, "phone"),
        web.view(4, "/help", 7, "someone else"),
    ]
    assert web.post("web/events", views, "b").status_code < 300
    facts = "SELECT count(*) FROM penstock.profile_facts WHERE owner IS NOT NULL"
    web.eventually(facts, [(4,)])
    anonymous = web.shown("cookie:phone")
    assert anonymous["traits"] == {}
    assert anonymous["computed"]["sessions_30d"]["value"] == 2
    session = anonymous["computed"]["last_session"]["value"]
    assert (session["events"], session["values"]) == (2, ["/routes", "/vienna"])
    login = web.view(5, "/login", 50, "phone", login="ada@X.org")
    assert web.post("web/events", login, "c").status_code < 300
    web.eventually(facts, [(5,)])
    ada = web.shown("ada@x.org")
    assert ada["traits"]["name"][0]["value"] == "Ada"
    assert "cookie:phone" in ada["identifiers"]
    session = ada["computed"]["last_session"]["value"]
    assert (session["events"], session["values"]) == (3, ["/routes", "/vienna", "/login"])
    assert ada["computed"]["views"]["value"] == 3
    assert len(ada["records"]) == 3  # the account, the device, the device with its login
    # The device of somebody else stays theirs; who was busy is in the segment, by the running loop.
    assert web.shown("cookie:someone else")["computed"]["views"] == {
        "value": 0,
        "rows": 0,
        "without_time": 0,
        "table": "web.events",
    }
    deadline = time.monotonic() + 20
    members: list[Any] = []
    while [one["profile"] for one in members] != [ada["id"]]:
        assert time.monotonic() < deadline, members
        members = json.loads(web.home.run("profiles", "segment", "active", "--json").output)
