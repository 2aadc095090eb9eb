"""What holds around every request: its end when its client is gone, its longest time, its place
among the others, and the end of the server.

A request whose client has gone is cancelled: its database query and its model's stream end with it.
One that has not begun to answer in time is told so. When the server ends, it says on ``/readyz``
that it is not ready, refuses what is new, and waits for what is at work.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import structlog

from penstock.serving.api.guard import Application, Receive, Scope, Send
from penstock.serving.api.limits import ADMITTED, Admission
from penstock.serving.api.problems import ProblemError, response_of
from penstock.tracing import REQUEST

logger = structlog.get_logger("penstock.api")

PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
DRAINING: Final = "the server is ending"
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")


class Reachability(Protocol):
    """Knows whether what requests are answered from is there."""

    @property
    def doubted(self) -> bool:
        """Whether there is a reason to ask before something is begun."""

    def suspect(self) -> None:
        """A request was refused because something is not available."""

    async def __call__(self) -> str | None:
        """Why it is not there; None while it is."""


class Attended:
    """An application that is looked after. ``limit_s`` is how long a request may take until it
    begins to answer, ``drain_s`` how long the end waits for what is at work. What would wait for a
    database that is known to be away is refused at once."""

    def __init__(
        self,
        app: Application,
        *,
        limit_s: float = 120.0,
        drain_s: float = 20.0,
        reachable: Reachability | None = None,
    ) -> None:
        self._app = app
        self._reachable = reachable
        self._limit_s = limit_s
        self._drain_s = drain_s
        self._working = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    @property
    def working(self) -> int:
        """How many requests are at work, without probes."""
        return self._working

    async def drain(self) -> None:
        """Take nothing new; returns when nothing is at work, or after ``drain_s``."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await self._idle.wait()
        if self._working:
            logger.warning("api.cut", requests=self._working)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
        elif self.draining:
            problem = ProblemError(
                503,
                "ending",
                "expected another server to be asked, this one is ending: ask again",
                headers={"Retry-After": "1", "Connection": "close"},
            )
            await response_of(str(scope["path"]), problem)(scope, receive, send)
        elif away := await self._away():
            said = f"expected the database to answer this from: {away}"
            headers = {"Retry-After": "2"}
            problem = ProblemError(503, "unavailable", said, headers=headers)
            await response_of(str(scope["path"]), problem)(scope, receive, send)
        else:
            await self._attend(scope, receive, self._noticing(send))

    async def _away(self) -> str | None:
        known = self._reachable
        return await known() if known is not None and known.doubted else None

    def _noticing(self, send: Send) -> Send:
        known = self._reachable
        if known is None:
            return send

        async def noticing(message: Scope) -> None:
            if message["type"] == "http.response.start" and message["status"] == 503:
                known.suspect()
            await send(message)

        return noticing

    async def _attend(self, scope: Scope, receive: Receive, send: Send) -> None:
        admission = scope[ADMITTED] = Admission()
        REQUEST.set(_trace_of(scope))
        self._working += 1
        self._idle.clear()
        try:
            await _Attendance(self._app, scope, receive, send, admission).run(self._limit_s)
        finally:
            admission.end()
            self._working -= 1
            if not self._working:
                self._idle.set()


class _Attendance:
    """One request at work."""

    def __init__(
        self, app: Application, scope: Scope, receive: Receive, send: Send, admission: Admission
    ) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._admission = admission
        self._read = asyncio.Event()
        self._gone = asyncio.Event()
        self._begun = False
        self._ended = False
        self._timer: asyncio.Timeout | None = None

    async def run(self, limit_s: float) -> None:
        watching = asyncio.ensure_future(self._watch())
        work = asyncio.ensure_future(self._work(limit_s))
        watching.add_done_callback(lambda _: work.cancel() if self._gone.is_set() else None)
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            if not self._gone.is_set():
                raise
        finally:
            work.cancel()
            watching.cancel()
            await asyncio.gather(work, watching, return_exceptions=True)

    async def _work(self, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s) as self._timer:
                await self._app(self._scope, self._receiving, self._sending)
        except TimeoutError:
            if self._begun:
                raise
            problem = ProblemError(
                504,
                "too_slow",
                f"expected an answer within {limit_s:g} s, there is none yet: ask for less, or "
                "raise server.limits.request",
            )
            path = str(self._scope["path"])
            await response_of(path, problem)(self._scope, self._receive, self._send)

    async def _watch(self) -> None:
        """Wait for the client to go, once all of its request is read."""
        await self._read.wait()
        while not self._ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                if not self._ended:
                    self._gone.set()
                return

    async def _receiving(self) -> Scope:
        if self._read.is_set():
            await self._gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._gone.set()
        if not message.get("more_body"):
            self._read.set()
        return message

    async def _sending(self, message: Scope) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            if self._timer is not None:
                self._timer.reschedule(None)
            headers: list[Any] = list(message.get("headers", ()))
            headers += [
                (name.lower().encode(), value.encode())
                for name, value in self._admission.headers.items()
            ]
            message = {**message, "headers": headers}
        elif not message.get("more_body"):
            self._ended = True
        await self._send(message)


def _trace_of(scope: Scope) -> str:
    """The trace that whoever asks is in (W3C's ``traceparent``), or a new one."""
    for name, value in scope["headers"]:
        if name == b"traceparent" and (found := _TRACEPARENT.fullmatch(value)) is not None:
            return str(found[1].decode())
    return secrets.token_hex(16)


def attended(app: Any) -> Attended | None:
    """The one that looks after this application, if there is one around it."""
    while app is not None:
        if isinstance(app, Attended):
            return app
        app = getattr(app, "_app", None)
    return None


def readiness(
    problems_now: Callable[[], list[str]],
    reachable: Reachability | None,
    ending: Callable[[], bool],
) -> Callable[[], Awaitable[list[str]]]:
    """Why this process is not ready: it ends, ``reachable`` says that what it answers from is away,
    or it has problems of its own."""

    async def found() -> list[str]:
        if ending():
            return [DRAINING]
        away = None if reachable is None else await reachable()
        return ([] if away is None else [away]) + problems_now()

    return found
