"""`penstock serve --workers`: several processes take clients from one socket."""

from __future__ import annotations

import re
import signal
import time

import httpx2
import psutil
from tests.acceptance.conftest import Home, Program


def _address(program: Program) -> str:
    program.wait_for("the API is at http")
    found = re.search(r"http://[\d.]+:\d+", program.output)
    assert found is not None
    return found[0]


def _children(program: Program, count: int) -> list[psutil.Process]:
    """The processes that it has started, once each of them serves."""
    deadline = time.monotonic() + 40
    while True:
        found = [c for c in psutil.Process(program.process.pid).children() if len(c.threads()) > 1]
        if len(found) == count or time.monotonic() > deadline:
            return found
        program.look(0.1)


def test_each_process_answers_and_all_end_together(home: Home, database_url: str) -> None:
    """With the first process standing still, the others answer at its address; when it ends, also
    when it is killed, they end."""
    home.project(database_url)
    (home.documents / "rules.md").write_text("# Rules\n\nA ticket is valid for nine days.\n")
    assert home.run("run", "--once", "--quiet").code == 0
    key = home.run("keys", "create", "app", "--json").json["token"]
    head = {"Authorization": f"Bearer {key}"}
    for ending in (signal.SIGTERM, signal.SIGKILL):
        program = home.start("serve", "--workers", "3")
        address = _address(program)
        children = _children(program, 2)
        assert len(children) == 2
        program.signal(signal.SIGSTOP)
        answered = 0
        for _ in range(200):  # a connection that the stopped one has taken is not answered
            try:
                answer = httpx2.post(
                    f"{address}/v1/context",
                    json={"question": "How long is a ticket valid?"},
                    headers=head,
                    timeout=2,
                )
            except httpx2.TransportError:
                continue
            assert answer.status_code == 200
            assert "nine days" in answer.text
            answered += 1
            if answered == 5:
                break
        assert answered == 5
        program.signal(signal.SIGCONT)
        program.signal(ending).end()
        gone, alive = psutil.wait_procs(children, timeout=40)
        assert (len(gone), alive) == (2, [])
