"""What happens to profiles as a topic of the log: followed by a process that is killed again and
again, and by whoever reads what is published."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from .conftest import Home, Program
from .test_topics import Cluster, cluster

__all__ = ["cluster"]

PROJECT = """
project: home
database: "{database}"
server: {{port: 0}}
knowledge: {{embedder: constant}}
{more}
sources:
  crm: {{type: postgres, dsn: "{source}", heartbeat: 0.2, tables: [contacts, orders]}}
  people: {{type: profile_events, kind: customer, heartbeat: 0.2}}
profiles:
  customer:
    tables:
      crm.contacts: {{identifiers: {{email: email}}, traits: {{name: name, city: city}}}}
      crm.orders: {{identifiers: {{email: email}}}}
    segments: {{berliners: "city = 'Berlin'"}}
"""
ALL = """
SELECT number, event, profile, other, 'events' FROM penstock.profile_events
UNION ALL SELECT number, event, profile, segment, 'members' FROM penstock.profile_member_events
ORDER BY 1
"""
LIMIT_S = 40.0


class World:
    """A project over two databases, and what is told of its people."""

    def __init__(self, home: Home, database: str, source: str, more: str) -> None:
        self.home = home
        self.database = database
        self.source = psycopg.connect(source, autocommit=True)
        self.source.execute(
            "CREATE TABLE contacts (id int PRIMARY KEY, email text, name text, city text);"
            "CREATE TABLE orders (id int PRIMARY KEY, email text)"
        )
        home.write(PROJECT.format(database=database, source=source, more=more))

    def start(self) -> Program:
        return self.home.start("run").wait_for("Ctrl-C stops it")

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database) as connection:
            try:
                return connection.execute(statement.encode()).fetchall()
            except psycopg.errors.UndefinedTable:
                return []

    def eventually(self, statement: str, expected: list[tuple[Any, ...]]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while (found := self.rows(statement)) != expected:
            assert time.monotonic() < deadline, found

    def join(self, lot: int) -> None:
        """Two come, and are one; in Berlin by then."""
        say = self.source.execute
        emails = f"a{lot}@x.org", f"b{lot}@x.org"
        say(
            "INSERT INTO contacts VALUES (%s, %s, 'Ada', 'Bonn'), (%s, %s, 'Grace', 'Bonn')",
            [2 * lot, emails[0], 2 * lot + 1, emails[1]],
        )
        self.eventually(f"SELECT count(*) > {2 * lot} FROM penstock.profiles", [(True,)])
        say(
            "UPDATE contacts SET email = %s, city = 'Berlin' WHERE id = %s",
            [emails[1], 2 * lot],
        )
        say("INSERT INTO orders VALUES (%s, %s)", [lot, emails[1]])

    def part(self, lot: int) -> None:
        """They are two again, and leave; of some one is gone."""
        say = self.source.execute
        say(
            "UPDATE contacts SET email = %s, city = 'Bonn' WHERE id = %s",
            [f"a{lot}@x.org", 2 * lot],
        )
        if lot % 2:
            say("DELETE FROM contacts WHERE id = %s", [2 * lot + 1])

    def events(self, *events: tuple[str, int]) -> None:
        """Until so many of these have happened."""
        for event, count in events:
            self.eventually(
                f"SELECT count(*) FILTER (WHERE event = '{event}') >= {count} FROM ({ALL}) e",
                [(True,)],
            )

    def settled(self) -> None:
        """Until what was done last has come to profiles."""
        say = self.source.execute
        say("INSERT INTO contacts VALUES (-1, 'last@x.org', 'Last', 'Berlin')")
        self.eventually(
            "SELECT count(*) FROM penstock.profile_members m JOIN penstock.profile_records r "
            "ON r.profile = m.profile WHERE r.key = '-1'",
            [(1,)],
        )


@pytest.fixture
def made(home: Home, database_url: str, source_url: str) -> Iterator[Callable[[str], World]]:
    """Makes the world, with more of the project file."""
    with contextlib.ExitStack() as closing:
        closing.callback(home.close)  # before the databases go

        def make(more: str) -> World:
            world = World(home, database_url, source_url, more)
            closing.callback(world.source.close)
            return world

        yield make


def tailed(world: World) -> list[dict[str, Any]]:
    """The topic from its beginning: as many changes as there have to be."""
    of_ids = "('created', 'split', 'restored', 'merged', 'gone', 'means')"
    [(count,)] = world.rows(
        "SELECT count(*) + count(*) FILTER (WHERE event IN " + of_ids + ") + "
        "(SELECT count(*) FROM penstock.profile_member_events) FROM penstock.profile_events"
    )
    ended = world.home.run("tail", "people", "--beginning", "--json", "--count", str(count))
    assert ended.code == 0, ended.errors
    return [json.loads(line) for line in ended.output.splitlines()]


@pytest.mark.timeout(150)  # it starts seven processes, one after the other
@pytest.mark.parametrize("log", ["embedded", pytest.param("kafka", marks=pytest.mark.servers)])
def test_g2_events_of_profiles_are_in_the_log_once_and_in_order_whatever_is_killed(
    made: Callable[[str], World], log: str, request: pytest.FixtureRequest
) -> None:
    more = ""
    if log == "kafka":
        servers = request.getfixturevalue("kafka_broker").bootstrap_servers
        prefix = f"topic{uuid.uuid4().hex[:8]}."
        more = f'log: {{type: kafka, bootstrap_servers: "{servers}", prefix: {prefix}}}'
    world = made(more)
    program = world.start()
    for lot in range(2):
        for act, waited in ((world.join, ("merged", "entered")), (world.part, ("split", "left"))):
            act(lot)
            if lot == 0:
                world.events(*((event, 1) for event in waited))
            program.kill()
            program = world.start()
    world.settled()
    wanted = world.rows(ALL)
    assert {event for _, event, *_ in wanted} >= {"created", "merged", "left", "entered", "split"}
    numbers = [(number,) for number, *_, of in wanted if of == "events"]
    world.eventually("SELECT number FROM people.profile_events ORDER BY number", numbers)
    world.eventually(
        "SELECT segment, profile FROM people.segment_members ORDER BY 1, 2",
        world.rows("SELECT segment, profile FROM penstock.profile_members ORDER BY 1, 2"),
    )
    found = []
    for change in tailed(world):
        table = change["source"]["table"]
        number = int(change["source"]["sequence"].partition(".")[0])
        if table == "profile_events":
            after = change["after"]
            found.append((number, after["event"], after["profile"], after["other"], "events"))
            assert after["reason"] or after["event"] not in ("merged", "split", "gone")
        elif table == "segment_members":
            row = change["after"] or change["before"]
            event = "left" if change["op"] == "d" else "entered"
            found.append((number, event, row["profile"], row["segment"], "members"))
    assert found == wanted


def test_events_are_published_as_any_table_is(
    made: Callable[[str], World], cluster: Cluster
) -> None:
    """Whoever reads Kafka learns of a merge, with its reason, and what the id means from then."""
    more = f'publish: {{out: {{type: kafka, servers: "{cluster.servers}", sources: [people]}}}}'
    world = made(more)
    world.start()
    world.join(0)
    world.events(("merged", 1), ("entered", 1))
    [(profile, other)] = world.rows(
        "SELECT profile, other FROM penstock.profile_events WHERE event = 'merged'"
    )
    means = ("home.profile_ids", {"id": profile}, other)
    found: list[Any] = []
    deadline = time.monotonic() + LIMIT_S
    while means not in found:
        assert time.monotonic() < deadline, found
        found = [
            ("home.profile_ids", key, said["after"]["profile"])
            for key, said in cluster.read("home.profile_ids", 3)
        ]
    events = [said["after"] for _, said in cluster.read("home.profile_events", 3)]
    [merge] = [one for one in events if one["event"] == "merged"]
    assert (merge["profile"], merge["other"], merge["kind"]) == (profile, other, "customer")
    assert "email:b0@x.org" in merge["reason"]
    entered = cluster.read("home.segment_members", 1)
    assert [key["segment"] for key, _ in entered] == ["berliners"]
