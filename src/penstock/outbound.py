"""Fetching from an address that another party may have a hand in: what it may never reach.

The name is resolved here, every address that it has is looked at, and the connection goes to one of
those, so that a name that means something else a moment later (rebinding) changes nothing. Nothing
follows redirections, uses a proxy of the environment, or reads more than was said.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import urlsplit

from penstock.errors import BadRecordError, ConfigError, UnavailableError

if TYPE_CHECKING:
    import httpcore2

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
_TIMEOUT_S: Final = 10.0
_REFUSED: Final = frozenset({400, 409, 413, 415, 422})
"""What says that the same would be refused again."""
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_OLD_COMPATIBLE: Final = ipaddress.ip_network("::/96")


def public(address: str) -> bool:
    """Whether an address is one of the internet, whatever form it is wrapped in."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.sixtofour is not None or found.teredo is not None:
            return False
        within = found.ipv4_mapped
        if within is None and (found in _NAT64 or found in _OLD_COMPATIBLE):
            within = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if within is not None:
            return public(str(within))
    return found.is_global and not found.is_multicast and not found.is_reserved


async def resolved(host: str, port: int) -> Sequence[str]:
    """All addresses of a name, as the system resolves it."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnavailableError(f"expected to find the host {host[:100]!r}, but {error}") from error
    return [str(entry[4][0]) for entry in found]


def checked(url: str, *, private: bool = False) -> str:
    """The address, if one may go there at all. `ConfigError` where not."""
    schemes = {"https", "http"} if private else {"https"}
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"expected an address, got {url[:100]!r}: {error}") from error
    plain = url.isascii() and url.isprintable() and not any(mark in url for mark in " \\")
    if parts.scheme not in schemes or not host or "@" in parts.netloc or not plain:
        raise ConfigError(
            f"expected an address with {' or '.join(sorted(schemes))}, a host and no user in it, "
            f"got {url[:100]!r}"
        )
    return url


async def fetch(
    url: str,
    *,
    most_bytes: int,
    private: bool = False,
    resolve: Resolve = resolved,
) -> bytes:
    """The body at an address. ``private``: also one of this machine or of a private network.

    Raises `ConfigError` for an address where one may not go, `UnavailableError` for what did not
    come.
    """
    headers = {"Accept": "application/json"}
    async with _asked("GET", url, headers, None, private=private, resolve=resolve) as response:
        if response.status != 200:
            raise UnavailableError(f"expected 200 of {url[:100]!r}, got {response.status}")
        return await _body(response, url, most_bytes)


async def post(
    url: str,
    body: bytes,
    *,
    headers: Mapping[str, str],
    private: bool = False,
    resolve: Resolve = resolved,
) -> None:
    """Send JSON to an address, as `fetch` goes there; what it answers beside its status is not
    read. `UnavailableError` where it may be taken later, `BadRecordError` where it was refused."""
    told = {"Content-Type": "application/json", **headers}
    async with _asked("POST", url, told, body, private=private, resolve=resolve) as response:
        said = f"expected 2xx of {url[:100]!r}, got {response.status}"
        if response.status in _REFUSED:
            raise BadRecordError(said)
        if not 200 <= response.status < 300:
            raise UnavailableError(said)


@asynccontextmanager
async def _asked(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    *,
    private: bool,
    resolve: Resolve,
) -> AsyncIterator[httpcore2.Response]:
    import httpcore2

    checked(url, private=private)
    backend = _backend(resolve, private=private)
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), _TIMEOUT_S)
    told: list[tuple[bytes | str, bytes | str]] = [("Host", urlsplit(url).netloc)]
    told.extend(headers.items())
    if body is not None:
        told.append(("Content-Length", str(len(body))))
    try:
        async with (
            asyncio.timeout(2 * _TIMEOUT_S),
            httpcore2.AsyncConnectionPool(network_backend=backend) as pool,
            pool.stream(
                method, url, headers=told, content=body, extensions={"timeout": timeouts}
            ) as response,
        ):
            yield response
    except (
        httpcore2.NetworkError,
        httpcore2.TimeoutException,
        httpcore2.ProtocolError,
        TimeoutError,
    ) as error:
        raise UnavailableError(f"expected an answer of {url[:100]!r}, but {error!r}") from error


async def _body(response: httpcore2.Response, url: str, most_bytes: int) -> bytes:
    parts: list[bytes] = []
    left = most_bytes
    async for part in response.aiter_stream():
        left -= len(part)
        if left < 0:
            raise UnavailableError(f"expected at most {most_bytes:,} bytes of {url[:100]!r}")
        parts.append(part)
    return b"".join(parts)


def _backend(resolve: Resolve, *, private: bool) -> httpcore2.AsyncNetworkBackend:
    import httpcore2

    class Backend(httpcore2.AsyncNetworkBackend):
        """Connects to addresses that were looked at."""

        def __init__(self) -> None:
            self._real = httpcore2.AnyIOBackend()

        async def connect_tcp(
            self, host: str, port: int, *args: Any, **kwargs: Any
        ) -> httpcore2.AsyncNetworkStream:
            found = await resolve(host, port)
            wrong = [address for address in found if not (private or public(address))]
            if wrong or not found:
                raise ConfigError(
                    f"expected {host[:100]!r} to be a host of the internet, it is "
                    f"{', '.join(wrong[:3]) or 'nowhere'}: nothing was sent there"
                )
            return await self._real.connect_tcp(found[0], port, *args, **kwargs)

        async def sleep(self, seconds: float) -> None:
            await self._real.sleep(seconds)

    return Backend()
