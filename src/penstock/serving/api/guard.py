"""What is refused before a route sees it: foreign hosts and pages, and bodies that are too large.

A browser sends a page's requests to any address that the page names, also to one of this machine,
and a name can be made to mean this machine after the page was loaded. So the Host must be one of
ours, and an Origin must be allowed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final, TypeAlias

from penstock.serving.api.problems import ProblemError, response_of

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Scope]]
Send: TypeAlias = Callable[[Scope], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_HEAD: Final = 65_536
"""Bytes of an address with its query, and of all headers together."""
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Guard:
    """An application that looks first. ``hosts`` are names beside those of this machine, "*" is
    any; ``origins`` are those of pages that may call."""

    def __init__(
        self,
        app: Application,
        *,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        most_bytes: int,
    ) -> None:
        self._app = app
        self._hosts = LOOPBACK | set(hosts)
        self._origins = frozenset(origins)
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        problem = self._refusal(scope)
        if problem is None:
            counted = _Counted(receive, self._most_bytes)
            try:
                await self._app(scope, counted, send)
                return
            except _TooLargeError:
                problem = self._too_large()
        await response_of(str(scope["path"]), problem)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ProblemError | None:
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MOST_HEAD:
            said = f"expected an address of at most {MOST_HEAD:,} bytes: send less in its query"
            return ProblemError(414, "address_too_long", said)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEAD:
            said = f"expected headers of at most {MOST_HEAD:,} bytes together: send less"
            return ProblemError(431, "headers_too_large", said)
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1")
        if "*" not in self._hosts and _name(host) not in self._hosts:
            return ProblemError(
                421,
                "unknown_host",
                f"expected a Host of this server, got {host[:100]!r}: add it to server.hosts",
            )
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") not in self._origins:
            return ProblemError(
                403,
                "forbidden_origin",
                f"expected no page of {origin.decode('latin-1')[:100]!r} to call this: add it to "
                "server.origins if it may",
            )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._most_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> ProblemError:
        return ProblemError(
            413,
            "too_large",
            f"expected a body of at most {self._most_bytes:,} bytes: send less, or raise "
            "server.max_body",
        )


class _TooLargeError(Exception):
    """More came than was said."""


class _Counted:
    """A body that ends when it is too large, whatever its head said."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._left = most

    async def __call__(self) -> Scope:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise _TooLargeError
        return message


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    return _name(f"[{host}]" if ":" in host else host) in LOOPBACK


def _name(host: str) -> str:
    """A host without its port; one that is an address of this machine is a name of it."""
    name = host.rsplit(":", 1)[0] if host.rpartition(":")[2].isdigit() else host
    try:
        if ipaddress.ip_address(name.strip("[]")).is_loopback:
            return "127.0.0.1"
    except ValueError:
        pass
    return name.lower()
