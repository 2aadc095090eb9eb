"""The program as a user meets it: started in a folder, signalled, its output read."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil
import pytest

LIMIT_S = 50.0


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    output: str
    errors: str

    @property
    def json(self) -> Any:
        return json.loads(self.output)

    def sentence(self, code: int = 1) -> str:
        """What it said on standard error, of an end that a user can understand."""
        assert self.code == code, (self.code, self.output, self.errors)
        assert "Traceback" not in self.errors + self.output, self.errors
        assert "error: unexpected" not in self.errors, self.errors
        return self.errors


class Program:
    """One process of ours; what it writes is collected while somebody waits for something."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "penstock.cli", *arguments],
            cwd=folder,
            env=environment | {"PYTHONUNBUFFERED": "1", "COLUMNS": "100"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._pipes = {self.process.stdout.fileno(): b"", self.process.stderr.fileno(): b""}
        self._open = list(self._pipes)

    @property
    def output(self) -> str:
        return next(iter(self._pipes.values())).decode()

    @property
    def errors(self) -> str:
        return list(self._pipes.values())[1].decode()

    def _read(self, seconds: float) -> None:
        for pipe in select.select(self._open, [], [], max(0.0, seconds))[0]:
            data = os.read(pipe, 65536)
            self._pipes[pipe] += data
            if not data:
                self._open.remove(pipe)

    def wait_for(self, text: str, limit_s: float = LIMIT_S) -> Self:
        """Until it has said this."""
        deadline = time.monotonic() + limit_s
        while text not in self.output + self.errors:
            if time.monotonic() > deadline or not self._open:
                raise AssertionError(f"never said {text!r}: {self.output}\n{self.errors}")
            self._read(deadline - time.monotonic())
        return self

    def look(self, seconds: float) -> Self:
        """Read what it says for so long, or until it ends."""
        deadline = time.monotonic() + seconds
        while self._open and time.monotonic() < deadline:
            self._read(deadline - time.monotonic())
        return self

    def signal(self, number: int = signal.SIGINT) -> Self:
        self.process.send_signal(number)
        return self

    def end(self, limit_s: float = LIMIT_S) -> Ended:
        """Until it has ended by itself."""
        deadline = time.monotonic() + limit_s
        while self._open:
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"did not end: {self.output}\n{self.errors}")
            self._read(deadline - time.monotonic())
        code = self.process.wait(max(0.1, deadline - time.monotonic()))
        return Ended(code, self.output, self.errors)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


class Home:
    """A folder with a project in it, and the commands that run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.documents = folder / "documents"
        self.file = folder / "penstock.yaml"
        self._programs: list[Program] = []

    def write(self, text: str) -> None:
        self.file.write_text(text, encoding="utf-8")

    def project(self, database: str, sources: str = "", more: str = "") -> None:
        """A project over a database, with a folder of documents unless ``sources`` says else."""
        self.documents.mkdir(exist_ok=True)
        chosen = sources or "  documents: {type: files, path: ./documents, heartbeat: 0.1}\n"
        self.write(
            f'project: home\ndatabase: "{database}"\nserver: {{port: 0}}\n'
            f"knowledge: {{embedder: constant}}\n{more}sources:\n{chosen}"
        )

    def start(self, *arguments: str) -> Program:
        program = Program(arguments, self.folder)
        self._programs.append(program)
        return program

    def run(self, *arguments: str, limit_s: float = LIMIT_S) -> Ended:
        return self.start(*arguments).end(limit_s)

    def servers(self) -> list[int]:
        """The embedded servers of this folder that live, by process."""
        pid = self.folder / ".penstock" / "database" / "pgdata" / "postmaster.pid"
        try:
            number = int(pid.read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return []
        return [number] if psutil.pid_exists(number) else []

    def close(self) -> None:
        for program in self._programs:
            program.kill()
        for number in self.servers():
            os.kill(number, signal.SIGQUIT)


@pytest.fixture
def home() -> Iterator[Home]:
    # Not pytest's folder: root's lets no other user in, and a server of root's runs as another.
    folder = Path(tempfile.mkdtemp(prefix="penstock-home-", dir="/tmp"))
    folder.chmod(0o755)
    found = Home(folder)
    yield found
    found.close()
    shutil.rmtree(folder, ignore_errors=True)
