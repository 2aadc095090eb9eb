"""Behaviour into profiles by Kafka: page views in a topic with several partitions, anonymous until
somebody logs in; the process is killed between, and the producer sends some again."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from .conftest import Home, Program

NOW = datetime.now(UTC)
PROJECT = """
project: home
database: "{database}"
server: {{port: 0}}
knowledge: {{embedder: constant}}
sources:
  site:
    type: kafka
    servers: "{servers}"
    topics: ["{prefix}.web.*"]
    format: json
    heartbeat: 0.2
    tables:
      web.accounts: {{key: [id]}}
      web.events: {{key: [id], types: {{at: timestamptz}}}}
profiles:
  visitor:
    tables:
      site.web.accounts: {{identifiers: {{email: email}}, traits: {{name: name}}}}
      site.web.events: {{identifiers: {{cookie: device, email: login}}, time: at, events: true}}
    identifiers: {{cookie: exact}}
    computed:
      sessions_30d: {{table: site.web.events, value: sessions, within: 30d}}
      last_session: {{table: site.web.events, value: last_session(page)}}
      views: {{table: site.web.events, value: count}}
    segments: {{active: "sessions_30d >= 2"}}
"""


class Site:
    """A producer of page views, and a project that reads them."""

    def __init__(self, home: Home, database: str, servers: str) -> None:
        self.home = home
        self.database = database
        self.servers = servers
        self.prefix = f"t{uuid.uuid4().hex[:8]}"
        self.producer = Producer({"bootstrap.servers": servers}, logger=logging.getLogger("kafka"))
        home.write(PROJECT.format(database=database, servers=servers, prefix=self.prefix))

    def make_topics(self) -> None:
        """With several partitions, as brokers inside librdkafka have them anyway."""
        admin = AdminClient({"bootstrap.servers": self.servers}, logger=logging.getLogger("kafka"))
        topics = [NewTopic(f"{self.prefix}.web.{name}", 3, 1) for name in ("events", "accounts")]
        for done in admin.create_topics(topics).values():
            done.result(20)

    def start(self) -> Program:
        return self.home.start("run").wait_for("Ctrl-C stops it")

    def send(self, table: str, key: bytes | None, value: bytes) -> None:
        self.producer.produce(f"{self.prefix}.web.{table}", key=key, value=value)
        assert self.producer.flush(20) == 0

    def view(
        self, number: int, page: str, minutes: int, device: str, key: bytes, login: str = ""
    ) -> None:
        at = (NOW - timedelta(minutes=minutes)).isoformat()
        row = {"id": f"e{number}", "device": device, "page": page, "at": at}
        self.send("events", key, json.dumps({**row, "login": login} if login else row).encode())

    def eventually(self, statement: str, expected: list[tuple[Any, ...]]) -> None:
        deadline = time.monotonic() + 40
        found: Any = None
        while found != expected:
            assert time.monotonic() < deadline, found
            with psycopg.connect(self.database) as connection:
                found = connection.execute(statement.encode()).fetchall()

    def shown(self, who: str) -> dict[str, Any]:
        ended = self.home.run("profiles", "show", who, "--json")
        assert ended.code == 0, ended.errors
        found: dict[str, Any] = json.loads(ended.output)
        return found


@pytest.fixture(params=["librdkafka", pytest.param("kafka", marks=pytest.mark.servers)])
def site(request: pytest.FixtureRequest, home: Home, database_url: str) -> Iterator[Site]:
    """On brokers inside librdkafka, and on Apache Kafka."""
    if request.param == "kafka":
        site = Site(home, database_url, request.getfixturevalue("kafka_broker").bootstrap_servers)
        site.make_topics()
        yield site
        home.close()
        return
    mock = Producer(
        {"bootstrap.servers": "unused", "test.mock.num.brokers": 1},
        logger=logging.getLogger("mock"),
    )
    (broker,) = mock.list_topics(timeout=10).brokers.values()
    yield Site(home, database_url, f"{broker.host}:{broker.port}")
    home.close()
    mock.close()


FACTS = "SELECT count(*) FROM penstock.profile_facts WHERE owner IS NOT NULL"


@pytest.mark.timeout(150)  # it starts six processes, one after the other
def test_g2_a_login_adopts_what_a_device_did_before_through_kafka(site: Site) -> None:
    """Keys of messages are what producers use to keep a device's views in order: a word, a number,
    an object. Two sessions of an anonymous device, a kill, the login, one more session, and views
    that are sent twice."""
    site.send("accounts", b'{"id":1}', b'{"id":1,"email":"Ada@x.org","name":"Ada"}')
    for attempt in range(2):  # the producer did not hear the answer
        site.view(1, "/", 300, "77", b"77")
        site.view(3, "/vienna", 52, "77", b"77")
        if attempt == 0:
            program = site.start()
    site.view(2, "/routes", 60, "77", b"77")
    site.view(4, "/help", 7, "tablet", b"tablet")
    site.view(6, "/help", 6, "tablet", b'{"device":"tablet"}')
    site.send("events", b"77", b"{no JSON")
    site.eventually(FACTS, [(5,)])
    anonymous = site.shown("cookie:77")
    assert anonymous["traits"] == {}
    assert anonymous["computed"]["sessions_30d"]["value"] == 2
    assert anonymous["computed"]["last_session"]["value"]["values"] == ["/routes", "/vienna"]
    program.kill()
    site.view(5, "/login", 50, "77", b"77", login="ada@X.org")
    site.start()
    site.eventually(FACTS, [(6,)])
    ada = site.shown("ada@x.org")
    assert ada["traits"]["name"][0]["value"] == "Ada"
    assert "cookie:77" in ada["identifiers"]
    session = ada["computed"]["last_session"]["value"]
    assert (session["events"], session["values"]) == (3, ["/routes", "/vienna", "/login"])
    assert ada["computed"]["views"]["value"] == 4
    assert site.shown("cookie:tablet")["computed"]["views"]["value"] == 2
    # The broken view waits, as any record that cannot be read; who was busy is in the segment.
    site.eventually("SELECT count(*) FROM penstock.dead_letters", [(1,)])
    site.eventually(
        "SELECT profile FROM penstock.profile_members WHERE segment = 'active'", [(ada["id"],)]
    )
