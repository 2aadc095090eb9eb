"""Several processes share a project; they are killed and stopped, and nothing is lost or twice."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from tests.acceptance.conftest import Home, Program

KEYS = 200
PARTITIONS = 8
MOVED_S = 20.0  # on a machine that does much else; see bench/workers.py for how long it takes

# Every write to the live table, as it happened: the order of changes per key.
AUDIT = """
CREATE TABLE audit (number bigserial, id integer, version bigint, op text);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit (id, version, op)
    SELECT (CASE WHEN tg_op = 'DELETE' THEN old.id ELSE new.id END),
           (CASE WHEN tg_op = 'DELETE' THEN old.version ELSE new.version END), tg_op;
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON shop.things
    FOR EACH ROW EXECUTE FUNCTION audit();
"""


class Crew:
    """A project with a source that is written to, and the workers that share it."""

    def __init__(self, home: Home, database: str, source: str, log: str) -> None:
        self.home = home
        self.database = database
        self.source = source
        self.workers: dict[str, Program] = {}
        self._stop = threading.Event()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self.writes = 0
        with psycopg.connect(source, autocommit=True) as connection:
            connection.execute("CREATE TABLE things (id integer PRIMARY KEY, version bigint)")
            connection.execute(
                f"INSERT INTO things SELECT n, 0 FROM generate_series(1, {KEYS}) AS n"
            )
        home.project(
            database,
            f'  shop: {{type: postgres, dsn: "{source}", tables: [things], heartbeat: 200ms}}\n',
            f"log: {{partitions: {PARTITIONS}, {log}}}\nrun: {{lease: 2s}}\n",
        )

    def join(self, count: int) -> None:
        """Start more workers."""
        started = [self.home.start("worker") for _ in range(count)]
        for program in started:
            program.wait_for("worker ")
            self.workers[program.output.split()[1]] = program

    def target(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database, autocommit=True) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def until(self, what: str, condition: Callable[[], object], limit_s: float = 40.0) -> float:
        """Wait for a condition; how long it took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() < began + limit_s, (what, self._state())
            for program in self.workers.values():
                program.look(0.02)
        return time.monotonic() - began

    def _state(self) -> object:
        leases = self.target("SELECT kind, item, worker FROM penstock.leases ORDER BY 1, 2")
        return leases, {name: program.errors[-1500:] for name, program in self.workers.items()}

    def owner(self, kind: str) -> str:
        [(worker,)] = self.target("SELECT worker FROM penstock.leases WHERE kind = %s", kind)
        return str(worker)

    def begin(self) -> None:
        """Wait for the first load; from here on each write to the live table is recorded."""
        self.until("loaded", self._loaded)
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(AUDIT.encode())
        self._writer.start()

    def _loaded(self) -> bool:
        if self.target("SELECT to_regclass('shop.things') IS NULL")[0][0]:
            return False
        return bool(self.target("SELECT count(*) FROM shop.things")[0][0] == KEYS)

    def _write(self) -> None:
        """Insert, update and delete; each version is a larger number than all before."""
        chance = random.Random(7)
        with psycopg.connect(self.source, autocommit=True) as connection:
            while not self._stop.is_set():
                self.writes += 1
                key, number = chance.randrange(1, KEYS + 1), self.writes
                if chance.random() < 0.1:
                    connection.execute("DELETE FROM things WHERE id = %s", [key])
                else:
                    connection.execute(
                        "INSERT INTO things VALUES (%s, %s) ON CONFLICT (id) DO UPDATE"
                        " SET version = excluded.version",
                        [key, number],
                    )

    def moves_on(self) -> float:
        """Until something that is written from now on is in the live table."""
        wanted = self.writes + 1
        newest = "SELECT coalesce(max(version), 0) FROM shop.things"
        return self.until("moves on", lambda: self.target(newest)[0][0] >= wanted, MOVED_S)

    def end(self) -> None:
        """Stop writing; then source and target must become equal, and each key's history true."""
        self._stop.set()
        self._writer.join()
        rows = "SELECT id, version FROM {} ORDER BY id"
        with psycopg.connect(self.source, autocommit=True) as connection:
            expected = connection.execute(rows.format("things").encode()).fetchall()
        self.until("equal", lambda: self.target(rows.format("shop.things")) == expected)
        history: dict[int, list[int]] = {}
        for key, version in self.target(
            "SELECT id, version FROM audit WHERE op <> 'DELETE' ORDER BY number"
        ):
            history.setdefault(key, []).append(version)
        assert sum(map(len, history.values())) > 100
        for key, versions in history.items():
            assert versions == sorted(set(versions)), (key, "out of order, or twice")
        self.home.run("verify").sentence(0)


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.servers)])
def crew(
    request: pytest.FixtureRequest, home: Home, database_url: str, source_url: str
) -> Iterator[Crew]:
    log = "type: embedded"
    if request.param == "kafka":
        broker = request.getfixturevalue("kafka_broker")
        prefix = f"crew-{uuid.uuid4().hex[:8]}."
        log = f'type: kafka, bootstrap_servers: "{broker.bootstrap_servers}", prefix: {prefix}'
    made = Crew(home, database_url, source_url, log)
    yield made
    made._stop.set()
    home.close()  # before the databases are taken away


@pytest.mark.timeout(100)
def test_g1_g2_workers_are_killed_while_four_share_a_topic(crew: Crew) -> None:
    """2 workers, then 4; two of them, the one with the source among them, are killed."""
    crew.join(2)
    crew.begin()
    crew.join(2)
    crew.moves_on()
    chance = random.Random(os.getpid())
    for _ in range(2):
        victim = chance.choice([crew.owner("source"), *crew.workers])
        crew.workers.pop(victim).process.kill()
        crew.moves_on()
    owner = crew.owner("source")
    crew.workers.pop(owner).process.kill()
    crew.until("source moved", lambda: crew.owner("source") in crew.workers, MOVED_S)
    crew.moves_on()
    crew.end()


@pytest.mark.timeout(100)
def test_g1_g2_a_worker_that_slept_past_its_lease_is_fenced_and_joins_again(crew: Crew) -> None:
    """SIGSTOP past the lease, SIGCONT: its late writes are refused, and it goes on living."""
    crew.join(2)
    crew.begin()
    crew.moves_on()
    sleeper = crew.owner("source")
    program = crew.workers[sleeper]
    program.signal(signal.SIGSTOP)
    crew.until("source moved", lambda: crew.owner("source") != sleeper, MOVED_S)
    crew.moves_on()
    program.signal(signal.SIGCONT)
    joined = "SELECT count(*) FROM penstock.workers"
    crew.until("joined again", lambda: crew.target(joined)[0][0] == 2, MOVED_S)
    crew.moves_on()
    crew.end()
    assert program.process.poll() is None, program.errors
    assert "Traceback" not in program.errors
