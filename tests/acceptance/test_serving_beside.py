"""The API in processes of its own, beside the one that runs: pushes, workers, and their end."""

from __future__ import annotations

import re
import select
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import psutil
import pytest
from tests.acceptance.conftest import Home, Program

NOTES = "  notes: {type: push, heartbeat: 0.1}\n"
MARKDOWN = {"Content-Type": "text/markdown"}


def address(program: Program) -> str:
    """Where the API says that it is."""
    found = None
    while found is None:
        found = re.search(r"http://[0-9.]+:[0-9]+", program.wait_for("http://").output)
        program.look(0.05)
    return found[0]


def key(home: Home) -> str:
    made = home.run("keys", "create", "editor", "-s", "ask", "-s", "write", "--json")
    return str(made.json["token"])


@pytest.fixture
def served(home: Home, database_url: str) -> Iterator[tuple[Program, Program, httpx2.Client]]:
    """A run, a serve beside it, and a client of the latter."""
    home.project(database_url, NOTES)
    run = home.start("run").wait_for("everything is in step")
    serve = home.start("serve")
    with httpx2.Client(
        base_url=address(serve), headers={"Authorization": f"Bearer {key(home)}"}, timeout=40
    ) as client:
        yield run, serve, client


def found(client: httpx2.Client, word: str, **more: Any) -> set[str]:
    answer = client.post("/v1/search", json={"question": word, "mode": "text", **more})
    assert answer.status_code == 200, answer.text
    return {item["key"] for item in answer.json()["results"]}


def test_g6_what_is_pushed_to_serve_is_read_at_once(
    served: tuple[Program, Program, httpx2.Client],
) -> None:
    """Pushed, replaced and deleted through a process that does not carry the source: each answer
    comes when the next question sees it; once is once; a position can be waited for."""
    _, _, client = served
    for number in range(3):
        answer = client.put(
            "/v1/documents/notes/a.md", content=f"# zebra{number}", headers=MARKDOWN
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["searchable"]
        assert found(client, f"zebra{number}") == {"a.md"}
    assert client.delete("/v1/documents/notes/a.md").status_code == 200
    assert found(client, "zebra2") == set()
    once = {**MARKDOWN, "Idempotency-Key": "k1"}
    first = client.put("/v1/documents/notes/b.md", content="# okapi", headers=once)
    again = client.put("/v1/documents/notes/b.md", content="# okapi", headers=once)
    assert (first.json()["position"], again.headers["Idempotent-Replayed"]) == (
        again.json()["position"], "true",
    )  # fmt: skip
    other = client.put("/v1/documents/notes/b.md", content="# other", headers=once)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    late = client.put("/v1/documents/notes/c.md?wait=0", content="# gnu", headers=MARKDOWN)
    assert found(client, "gnu", after=late.json()["position"]) == {"c.md"}


def test_what_cannot_be_read_is_refused_by_serve(
    served: tuple[Program, Program, httpx2.Client],
) -> None:
    """As by the process that runs."""
    _, _, client = served
    broken = {"Content-Type": "application/pdf"}
    answer = client.put("/v1/documents/notes/a.pdf", content=b"no PDF", headers=broken)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_document")
    assert client.put("/v1/documents/none/a.md", content="# a", headers=MARKDOWN).status_code == 404


def test_many_pushes_through_serve_keep_their_order(
    served: tuple[Program, Program, httpx2.Client],
) -> None:
    """Eight writers of a document each, one version after the other: the last one stays."""
    _, _, client = served

    def write(writer: int) -> None:
        for version in range(6):
            answer = client.put(
                f"/v1/documents/notes/w{writer}.md?wait=0",
                content=f"# writer{writer} version{version}",
                headers=MARKDOWN,
            )
            assert answer.status_code in {200, 202}, answer.text

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    last = client.put("/v1/documents/notes/last.md", content="# last", headers=MARKDOWN)
    assert last.status_code == 200
    for writer in range(8):
        document = client.get(f"/v1/documents/notes/w{writer}.md").json()
        assert "version5" in document["text"]


def test_pushes_without_a_run_are_refused_with_what_to_do(
    served: tuple[Program, Program, httpx2.Client],
) -> None:
    """Within moments, and nothing of them comes later; with the next run they are taken again."""
    run, _, client = served
    run.signal(signal.SIGTERM).end()
    answer = client.put("/v1/documents/notes/a.md", content="# lost", headers=MARKDOWN)
    assert answer.status_code == 503
    assert "it does not run: start it" in answer.json()["detail"]
    assert int(answer.headers["Retry-After"]) >= 1
    assert found(client, "lost") == set()


def test_workers_of_serve_share_one_address_and_its_rate(home: Home, database_url: str) -> None:
    """Several processes answer, a key has its rate once for all, and the end is in order."""
    home.project(database_url, NOTES, more="")
    text = home.file.read_text()
    limits = "server: {port: 0, limits: {key: {rate: 1, burst: 12}}}"
    home.write(text.replace("server: {port: 0}", limits))
    home.start("run").wait_for("everything is in step")
    serve = home.start("serve", "--workers", "3")
    where = address(serve)
    children = psutil.Process(serve.process.pid).children()
    assert len(children) == 2
    until(lambda: all(listens(child) for child in children))
    token = {"Authorization": f"Bearer {key(home)}"}

    def ask(_: int) -> int:
        with httpx2.Client(base_url=where, headers=token, timeout=40) as client:
            return client.get("/v1/models").status_code

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(ask, range(60)))
    let_in = codes.count(200)
    assert set(codes) == {200, 429}
    assert 12 <= let_in <= 13 + (time.monotonic() - began)
    serve.signal(signal.SIGTERM)
    assert serve.end().code == 130
    assert not [child for child in children if child.is_running()]


def listens(process: psutil.Process) -> bool:
    """Whether a process is far enough to answer: its threads of the server are there."""
    return bool(process.net_connections("tcp")) and process.num_threads() > 1


def until(true: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + 40
    while not true():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.05)


def test_a_worker_of_serve_that_dies_is_replaced(home: Home, database_url: str) -> None:
    """And requests go on meanwhile; when the first process is killed, all end."""
    home.project(database_url, NOTES)
    serve = home.start("serve", "--workers", "2")
    where = address(serve)
    parent = psutil.Process(serve.process.pid)
    [child] = parent.children()
    child.kill()
    serve.wait_for("worker.ended")
    until(lambda: [new.pid for new in parent.children()] not in ([], [child.pid]))
    with httpx2.Client(base_url=where) as client:
        assert {client.get("/healthz").status_code for _ in range(10)} == {200}
    children = parent.children()
    parent.kill()
    psutil.wait_procs(children, timeout=30)
    assert not [one for one in children if one.is_running()]
