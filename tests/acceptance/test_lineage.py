"""OpenLineage events of a real run: to a file, and to an endpoint that is away for a while."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
import pytest
from tests.acceptance.conftest import Home
from tests.unit.test_lineage import official

from penstock.testing.programs import free_port

Events = list[dict[str, Any]]


class Collector:
    """What takes events at ``/api/v1/lineage``, from when it is started."""

    def __init__(self) -> None:
        self.port = free_port()
        self.events: Events = []
        self.tokens: set[str | None] = set()
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.events.append(json.loads(body))
                collector.tokens.add(self.headers["Authorization"])
                self.send_response(201)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.stop()


def facts(events: Events, job: str) -> list[str]:
    return [event["eventType"] for event in events if event["job"]["name"] == job]


def test_a_run_tells_what_it_reads_and_writes(
    home: Home, database_url: str, source_url: str
) -> None:
    """START when it begins, RUNNING once its tables are known, COMPLETE at the end, one run id,
    and the live table's columns with where they are from."""
    with psycopg.connect(source_url, autocommit=True) as source:
        source.execute("CREATE TABLE flights (id integer PRIMARY KEY, gate text)")
        source.execute("INSERT INTO flights VALUES (1, 'A1')")
    home.project(
        database_url,
        f"  docs: {{type: files, path: ./documents}}\n"
        f'  ops: {{type: postgres, dsn: "{source_url}", tables: [flights], heartbeat: 0.2}}\n',
        more="lineage: {type: file, path: out/lineage.ndjson, every: 1s}\n",
    )
    (home.documents / "a.md").write_text("# Gates\n\nGates close early.\n")
    program = home.start("run").wait_for("everything is in step")
    place = home.folder / "out" / "lineage.ndjson"
    told: Events = []
    while "ops.flights" not in str(told):
        program.look(0.2)
        told = [json.loads(line) for line in place.read_text().splitlines()]
    program.signal(signal.SIGTERM).end()
    events: Events = [json.loads(line) for line in place.read_text().splitlines()]
    for event in events:
        official(event)
    for job in ("home", "home.source.ops", "home.source.docs", "home.tables.ops"):
        kinds = facts(events, job)
        assert (kinds[0], kinds[-1]) == ("START", "COMPLETE"), (job, kinds)
        assert len({e["run"]["runId"] for e in events if e["job"]["name"] == job}) == 1
    last = [event for event in events if event["job"]["name"] == "home.tables.ops"][-1]
    [table] = last["outputs"]
    assert [field["name"] for field in table["facets"]["schema"]["fields"]] == ["id", "gate"]
    [origin] = table["facets"]["columnLineage"]["fields"]["gate"]["inputFields"]
    [source_table] = [event for event in events if event["job"]["name"] == "home.source.ops"][-1][
        "inputs"
    ]
    assert (origin["namespace"], origin["name"], origin["field"]) == (
        source_table["namespace"], source_table["name"], "gate",
    )  # fmt: skip
    assert last["run"]["facets"]["penstock_progress"]["changes"] >= 1


def test_g12_an_endpoint_that_is_away_stops_nothing(
    home: Home, database_url: str, collector: Collector
) -> None:
    """Documents come while it is away; what was to be said then is said when it is back."""
    address = f"http://127.0.0.1:{collector.port}/api/v1/lineage"
    home.project(
        database_url,
        more=f'lineage: {{type: http, url: "{address}", private: true, '
        'headers: {Authorization: "Bearer t0ken"}}\n',
    )
    (home.documents / "a.md").write_text("# Gates\n\nGates close early.\n")
    program = home.start("run").wait_for("everything is in step").wait_for("lineage.waiting")
    collector.start()
    program.wait_for("lineage.resumed")
    ended = program.signal(signal.SIGTERM).end()
    assert "lineage.lost" not in ended.errors
    assert facts(collector.events, "home") == ["START", "COMPLETE"]
    assert facts(collector.events, "home.source.documents")[0] == "START"
    assert facts(collector.events, "home.source.documents")[-1] == "COMPLETE"
    assert collector.tokens == {"Bearer t0ken"}
    assert "t0ken" not in ended.errors + ended.output


def test_an_address_inside_is_refused_unless_it_is_said(home: Home, database_url: str) -> None:
    """Before anything starts, where it is plain; else nothing is sent there."""
    home.project(database_url, more="lineage: {type: http, url: 'http://127.0.0.1:1/'}\n")
    assert "expected an address with https" in home.run("run").sentence(2)
    home.project(database_url, more="lineage: {type: http, url: 'https://localhost:1/'}\n")
    program = home.start("run").wait_for("lineage.waiting").wait_for("everything is in step")
    assert "to be a host of the internet" in program.output + program.errors
    program.signal(signal.SIGTERM).end()
