"""Events on standard error as JSON: one object on each line, with the trace that they are of."""

from __future__ import annotations

import json
import signal

import httpx2
from tests.acceptance.conftest import Home
from tests.acceptance.test_serving_beside import address, key

from penstock.database.connect import connect

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_each_event_is_an_object_on_a_line(home: Home, database_url: str) -> None:
    """Of a run, of a source that cannot be reached, and of its workers."""
    away = "postgresql://nobody@127.0.0.1:1/none"
    home.project(
        database_url,
        f"  documents: {{type: files, path: ./documents}}\n"
        f'  shop: {{type: postgres, dsn: "{away}", tables: [t]}}\n',
        more="log: {partitions: 2}\n",
    )
    program = home.start("--logs", "json", "run", "--workers", "2")
    program.wait_for('"event":"source.waiting"')
    ended = program.signal(signal.SIGTERM).end()
    events = [json.loads(line) for line in ended.errors.splitlines() if line.startswith("{")]
    rest = [line for line in ended.errors.splitlines() if not line.startswith("{")]
    assert rest == ["stopped; the next run goes on from here"]
    [waiting, *_] = [event for event in events if event["event"] == "source.waiting"]
    assert (waiting["level"], waiting["source"]) == ("warning", "shop")
    assert waiting["time"].endswith("Z")
    assert "127.0.0.1" in waiting["reason"]


async def test_what_fails_in_a_request_says_in_which_trace(home: Home, database_url: str) -> None:
    """The one that the client's header names."""
    home.project(database_url)
    assert home.run("run", "--once").code == 0
    program = home.start("--logs", "json", "serve")
    where, token = address(program), key(home)
    async with await connect(database_url) as connection:
        await connection.execute("ALTER TABLE penstock.ledger_entries RENAME TO away")
    headers = {
        "Authorization": f"Bearer {token}",
        "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
    }
    told = {"question": "x", "answer": "y"}
    answer = httpx2.post(f"{where}/v1/interactions", json=told, headers=headers, timeout=30)
    assert answer.status_code == 500
    assert "ledger_entries" not in answer.text
    program.wait_for('"event":"api.failed"')
    found = [json.loads(line) for line in program.errors.splitlines() if "api.failed" in line]
    assert found[0]["trace_id"] == TRACE
    assert found[0]["path"] == "/v1/interactions"
