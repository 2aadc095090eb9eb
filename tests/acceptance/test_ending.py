"""How a process that serves ends, and what it says of itself while its database is away."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psycopg
import pytest
from tests.acceptance.conftest import Home
from tests.acceptance.test_serving_beside import MARKDOWN, NOTES, address, key, until

from penstock.database.embedded import EmbeddedPostgres
from penstock.testing import fake_openai as fake
from penstock.testing.fake_openai import ThreadedEndpoint

WORDS = ["The ", "ferry ", "leaves ", "at ", "nine ", "[1]."]
PAUSE_S = 0.4


@pytest.fixture
def endpoint() -> Iterator[ThreadedEndpoint]:
    with ThreadedEndpoint() as server:
        yield server


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    """A server of the test's own, which it stops and starts."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
    folder.chmod(0o755)
    made = EmbeddedPostgres(folder / "server", settings={"fsync": "off"})
    asyncio.run(made.start())
    with psycopg.connect(made.dsn("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE project")
    yield made
    asyncio.run(made.stop())
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("command", [["run"], ["serve", "--workers", "2"]], ids=["run", "serve"])
def test_a_stream_that_is_at_work_is_finished(
    home: Home, database_url: str, endpoint: ThreadedEndpoint, command: list[str]
) -> None:
    """SIGTERM comes after the first word: all others come, and then the process ends."""
    home.project(
        database_url,
        more="answers: {generator: {type: openai, model: m, structured: false, "
        f'base_url: "{endpoint.base_url}", api_key: k}}}}\n',
    )
    (home.documents / "ferry.md").write_text("The ferry leaves at nine.")
    assert home.run("run", "--once").code == 0
    pieces = [fake.event({"choices": [{"delta": {"content": word}}]}) for word in WORDS]
    endpoint.fake.reacts = lambda _: fake.stream(*pieces, b"data: [DONE]\n\n", pause_s=PAUSE_S)
    program = home.start(*command)
    where, token = address(program), key(home)
    ask = {
        "model": "penstock",
        "stream": True,
        "messages": [{"role": "user", "content": "When does the ferry leave?"}],
    }
    said, done, begun = "", False, threading.Event()
    with httpx2.stream(
        "POST",
        f"{where}/v1/chat/completions",
        json=ask,
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    ) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                delta = json.loads(line[6:])["choices"][0]["delta"]
                said += delta.get("content") or ""
            if said and not begun.is_set():
                begun.set()
                program.signal(signal.SIGTERM)
            done = done or line == "data: [DONE]"
    assert (said, done) == ("".join(WORDS), True)
    assert program.end().code == 130
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{where}/healthz")


@pytest.mark.parametrize("command", ["run", "serve"])
def test_a_process_whose_database_is_away_is_not_ready_until_it_is_back(
    home: Home, server: EmbeddedPostgres, command: str
) -> None:
    """It lives, says why it is not ready, refuses with 503 and goes on by itself; whoever asks is
    not told where the database is."""
    home.project(server.dsn("project"), NOTES)
    run = home.start("run").wait_for("everything is in step")
    program = run if command == "run" else home.start(command)
    token = key(home)
    with httpx2.Client(
        base_url=address(program), headers={"Authorization": f"Bearer {token}"}, timeout=30
    ) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        assert client.get("/readyz").json() == {"ready": True, "problems": []}
        asyncio.run(server.stop())
        said = "the database does not answer"
        until(lambda: said in client.get("/readyz").json()["problems"])
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        began = time.monotonic()
        answer = client.post("/v1/search", json={"question": "zebra"})
        assert (answer.status_code, answer.headers["content-type"]) == (
            503, "application/problem+json",
        )  # fmt: skip
        assert time.monotonic() - began < 5  # nobody waits for what is known to be away
        asyncio.run(server.start())
        until(lambda: client.get("/readyz").status_code == 200)
        until(
            lambda: (
                (
                    client.put("/v1/documents/notes/a.md", content="# zebra", headers=MARKDOWN)
                ).status_code
                == 200
            )
        )
        assert client.post("/v1/search", json={"question": "zebra", "mode": "text"}).json()
    run.signal(signal.SIGTERM).end()
