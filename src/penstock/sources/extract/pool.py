"""The parent's side of extraction: a few child processes, watched and replaced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import asdict
from typing import Any, Final

from penstock.errors import BadRecordError, MissingExtraError, UnavailableError
from penstock.sources.extract.base import Extracted, Limits
from penstock.sources.extract.child import FRAME
from penstock.sources.extract.sniff import PLAIN, sniff
from penstock.sources.extract.text import extract_text

_CHILD: Final = "penstock.sources.extract.child"
_START_S: Final = 30.0
_DEATH_S: Final = 2.0
_HEADER_LIMIT: Final = 1_000_000


class ChildExtractor:
    """Reads plain text at once and everything else in ``children`` long-lived processes.

    A process is started when a document first needs one, ended after ``idle_s`` without work, and
    killed and replaced when a document breaks a limit.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        children: int = 2,
        idle_s: float = 30.0,
        documents_per_child: int = 1000,
    ) -> None:
        self._limits = limits or Limits()
        self._free = asyncio.Semaphore(children)
        self._idle: list[_Child] = []
        # Models of recognition need more memory than a parser may have: processes of their own.
        self._ocr_limits = self._limits.for_ocr()
        self._idle_ocr: list[_Child] = []
        self._idle_s = idle_s
        self._documents_per_child = documents_per_child
        self._timer: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def extract_plain(self, name: str, data: bytes) -> Extracted | None:
        """See `Extractor.extract_plain`."""
        if not data:
            return Extracted("", None, _media_type(name), {})
        kind = sniff(name, data)
        return extract_text(kind, data) if kind in PLAIN else None

    async def extract(self, name: str, data: bytes) -> Extracted:
        """See `Extractor.extract`."""
        plain = self.extract_plain(name, data)
        if plain is not None:
            return plain
        async with self._free:
            header, text = await self._ask(self._idle, self._limits, name, data)
            if "ocr" in header:
                header, text = await self._ask(self._idle_ocr, self._ocr_limits, name, data)
        if "extra" in header:
            raise MissingExtraError(header["what"], header["extra"])
        if "error" in header:
            raise BadRecordError(header["error"])
        return Extracted(text, header["title"], header["media_type"], header["metadata"])

    async def _ask(
        self, idle: list[_Child], limits: Limits, name: str, data: bytes
    ) -> tuple[dict[str, Any], str]:
        """Ask a child, which is kept if it is still good."""
        child = idle.pop() if idle else await _Child.start(limits)
        healthy = False
        try:
            header, text = await child.ask(name, data)
            healthy = child.documents < self._documents_per_child and "spent" not in header
        finally:
            if healthy:
                idle.append(child)
            else:
                await asyncio.shield(child.end())
            self._end_when_idle()
        return header, text

    def _end_when_idle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._end_idle)

    def _end_idle(self) -> None:
        self._timer = None
        ending = [*self._idle, *self._idle_ocr]
        self._idle.clear()
        self._idle_ocr.clear()
        for child in ending:
            task = asyncio.ensure_future(child.end())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End all children; documents that are being read are given up by their callers."""
        if self._timer is not None:
            self._timer.cancel()
        self._end_idle()
        if self._ending:
            await asyncio.gather(*self._ending)


def _media_type(name: str) -> str:
    try:
        return sniff(name, b"").value
    except BadRecordError as error:
        return str(error.facts["kind"].value)


class _Child:
    """One process and what it was asked."""

    def __init__(self, process: asyncio.subprocess.Process, limits: Limits) -> None:
        self._process = process
        self._limits = limits
        self.documents = 0

    @classmethod
    async def start(cls, limits: Limits) -> _Child:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                _CHILD,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=_environment(),
                limit=1 << 20,
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        except OSError as error:
            raise UnavailableError(
                f"no process could be started to read documents: {error}"
            ) from error
        child = cls(process, limits)
        try:
            async with asyncio.timeout(_START_S):
                await child._send(asdict(limits), b"")
                await child._receive()
        except (OSError, EOFError, TimeoutError) as error:
            await child.end()
            msg = f"the process that reads documents did not start: {child._ending()}"
            raise UnavailableError(msg) from error
        except BaseException:
            await asyncio.shield(child.end())
            raise
        return child

    async def ask(self, name: str, data: bytes) -> tuple[dict[str, Any], str]:
        """The child's answer; a death or a limit becomes an answer too."""
        self.documents += 1
        limit = self._limits.wall_s
        try:
            async with asyncio.timeout(limit):
                await self._send({"name": name}, data)
                header, body = await self._receive()
        except TimeoutError:
            return {
                "error": f"expected to be read in {limit:g} s, took longer",
                "spent": True,
            }, ""
        except (OSError, EOFError):
            await self._died()
            return {"error": self._ending(), "spent": True}, ""
        return header, body.decode()

    async def _send(self, header: dict[str, Any], body: bytes) -> None:
        assert self._process.stdin is not None
        encoded = json.dumps(header).encode()
        self._process.stdin.write(FRAME.pack(len(encoded), len(body)) + encoded)
        self._process.stdin.write(body)
        await self._process.stdin.drain()

    async def _receive(self) -> tuple[dict[str, Any], bytes]:
        assert self._process.stdout is not None
        head = await self._process.stdout.readexactly(FRAME.size)
        header_size, body_size = FRAME.unpack(head)
        if header_size > _HEADER_LIMIT or body_size > self._limits.output_bytes:
            raise EOFError
        header = json.loads(await self._process.stdout.readexactly(header_size))
        return header, await self._process.stdout.readexactly(body_size)

    def _ending(self) -> str:
        code = self._process.returncode
        if code == -signal.SIGXCPU:
            return f"expected to need at most {self._limits.cpu_s} s of processor time, needed more"
        if code is not None and code < 0:
            return f"expected a document that can be read, its parser died of signal {-code}"
        return f"expected a document that can be read, its parser ended with {code}"

    async def _died(self) -> None:
        """Its output has ended, so it is dying by itself: killing it now could take the exit status
        away from the loop that waits for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DEATH_S):
                await self._process.wait()
        await self.end()

    async def end(self) -> None:
        """Kill the process and wait until it is gone."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.returncode is None:
            with contextlib.suppress(asyncio.TimeoutError, ProcessLookupError):
                self._process.kill()
        # Waiting ends only when the pipe is closed, so what is left in it must be read.
        if self._process.stdout is not None:
            with contextlib.suppress(OSError):
                while await self._process.stdout.read(1 << 16):
                    pass
        await self._process.wait()


def _environment() -> dict[str, str]:
    """What Python needs to find us and nothing that is secret."""
    kept = {
        name: value
        for name in ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
        if (value := os.environ.get(name))
    }
    return kept | {
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
        "POLARS_MAX_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "RAYON_NUM_THREADS": "1",
    }
