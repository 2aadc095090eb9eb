"""`penstock models` beside `penstock run`: added to the file while it runs, killed, gone on."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from tests.acceptance.conftest import Home

from penstock.testing import fake_openai as fake
from penstock.testing.fake_openai import Reply, ThreadedEndpoint

LIMIT_S = 60.0


@pytest.fixture
def other() -> Iterator[ThreadedEndpoint]:
    with ThreadedEndpoint(dimensions=24) as server:
        yield server


def until(what: Callable[[], object], sentence: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < deadline, f"never: {sentence}"
        time.sleep(0.1)


def count(database_url: str, query: str) -> int:
    with psycopg.connect(database_url, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.timeout(240)
def test_changing_the_model_beside_a_run(
    home: Home, database_url: str, other: ThreadedEndpoint
) -> None:
    """Estimate, fill, kill -9, edit and delete, go on, cut over: the running process follows
    without a restart; back again; the former vectors dropped."""
    home.project(database_url)
    for number in range(400):
        (home.documents / f"d{number:03}.md").write_text(f"# Ferry {number}\n\nleaves at {number}")
    running = home.start("run").wait_for("is running")
    chunks = "SELECT count(*) FROM penstock.chunks"
    until(lambda: count(database_url, chunks) == 400, "all are there")

    model = (
        "models:\n  b: {type: openai, model: b, dimensions: 24, batch: 50, concurrency: 1,\n"
        f"      base_url: '{other.base_url}', api_key: k, price: 2}}\n"
    )
    home.project(database_url, more=model)
    found = home.run("models", "migrate", "--to", "b", "--estimate", "--json").json["estimate"]
    assert (found["chunks"], found["texts"]) == (400, 400)
    assert found["cost"] > 0
    assert found["seconds"] > 0

    # Killed in the middle of the filling.
    asked = 0

    def react(_: object) -> Reply | None:
        nonlocal asked
        asked += 1
        return fake.slow(60) if asked > 6 else None

    other.fake.reacts = react
    filling = home.start("models", "migrate", "--to", "b", "--yes")
    until(lambda: asked > 6, "in the middle")
    filling.signal(signal.SIGKILL)
    filling.end()
    half = "SELECT count(*) FROM penstock.vectors WHERE model = 2"
    assert 0 < count(database_url, half) < 400

    # Meanwhile things change, and the old model serves.
    (home.documents / "d001.md").write_text("# Ferry 1\n\nleaves at noon")
    (home.documents / "d002.md").unlink()
    until(lambda: count(database_url, chunks) == 399, "the deletion is carried")
    other.fake.reacts = None
    other.fake.requests.clear()
    listed = home.run("models", "list", "--json").json
    assert listed["serving"] == "constant-4096"
    assert [line["role"] for line in listed["stored"]] == ["serving", "shadow"]

    done = home.run("models", "migrate", "--to", "b", "--json").json
    assert done["serving"] == "openai/b/24"
    assert done["filled"]["texts"] < 400
    assert done["compared"]["of"] == "headings"
    (home.documents / "d003.md").write_text("# Ferry 3\n\nleaves at dawn")
    new = """SELECT count(*) FROM penstock.chunks c JOIN penstock.vectors v
             ON v.hash = c.hash AND v.model = 2 WHERE c.text LIKE '%dawn%'"""
    until(lambda: count(database_url, new) == 1, "the running process uses the new model")
    shown = home.run("search", "Ferry 3\nleaves at dawn", "--mode", "vector", "--json").json
    assert "dawn" in shown["passages"][0]["text"]
    assert shown["passages"][0]["similarity"] > 0.999
    assert home.run("verify", "--json").code == 0

    back = home.run("models", "migrate", "--rollback", "--json").json
    assert back["serving"] == "constant-4096"
    assert back["filled"]["texts"] <= 2
    (home.documents / "d004.md").write_text("# Ferry 4\n\nleaves at dusk")
    old = new.replace("dawn", "dusk").replace("v.model = 2", "v.model = 1")
    until(lambda: count(database_url, old) == 1, "the running process uses the former model")
    assert home.run("models", "migrate", "--finish", "--json").json["dropped"] > 350
    assert count(database_url, half) == 0
    running.signal()
    ended = running.end()
    assert "error" not in ended.errors
    assert json.dumps(done)
