"""`penstock serve --workers`: several processes take clients from one socket."""

from __future__ import annotations

import contextlib
import re
import signal
import time

import httpx2
import psutil
import pytest
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


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_each_process_answers_and_all_end_together(
    home: Home, database_url: str, ending: signal.Signals
) -> None:
    """With the first process standing still, the other answers at its address; when the first
    ends, also when it is killed, the other ends."""
    home.project(database_url)
    key = home.run("keys", "create", "app", "--json").json["token"]
    program = home.start("serve", "--workers", "2")
    address = _address(program)
    children = _children(program, 1)
    assert len(children) == 1
    program.signal(signal.SIGSTOP)
    statuses: list[int] = []
    while len(statuses) < 3:  # a connection that the stopped one has taken is not answered
        with contextlib.suppress(httpx2.TransportError):
            answer = httpx2.post(
                f"{address}/v1/context",
                json={"question": "How long is a ticket valid?"},
                headers={"Authorization": f"Bearer {key}"},
                timeout=2,
            )
            statuses.append(answer.status_code)
    assert statuses == [200] * 3
    program.signal(signal.SIGCONT)
    program.signal(ending).end()
    gone, alive = psutil.wait_procs(children, timeout=40)
    assert (len(gone), alive) == (1, [])
