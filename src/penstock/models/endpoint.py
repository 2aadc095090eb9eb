"""Requests to an HTTP endpoint of models: bounded, timed, with errors by consequence."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from penstock.errors import (
    BadRecordError,
    ConfigError,
    FatalError,
    PenstockError,
    RetryableError,
    UnavailableError,
)

if TYPE_CHECKING:
    from httpx2 import AsyncClient, Headers, Response

_MAX_RETRY_AFTER_S = 300.0
_MAX_EMBEDDINGS_BYTES = 256 * 1024 * 1024
_EXCERPT = 300
_SECRET = 8
_MESSAGE_BYTES = 8192
_WAIT = frozenset({408, 409, 424, 425, 429})
_REFUSED = frozenset({400, 413, 422})


Sign = Callable[[str, bytes], Awaitable[Mapping[str, str]]]
"""From a request's URL and body to the headers that say who asks."""


class Endpoint:
    """One base URL with its key (in ``key_header``, as a bearer token where that is
    ``authorization``). Redirects are not followed and proxies of the environment are not
    used, so the key goes nowhere else; no error holds it."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        timeout_s: float,
        connections: int,
        max_bytes: int,
        sign: Sign | None = None,
        connect_s: float = 10.0,
        key_header: str = "authorization",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.url = _checked_url(base_url)
        self._key = _checked_key(api_key)
        self._sign = sign
        self._timeout_s = timeout_s
        self._connections = connections
        self._connect_s = min(connect_s, timeout_s)
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        self._headers.update(headers or {})
        if self._key:
            bearer = key_header == "authorization"
            self._headers[key_header] = f"Bearer {self._key}" if bearer else self._key
        self.max_bytes = max_bytes
        self._client: AsyncClient | None = None

    async def post(self, path: str, body: object) -> Any:
        """What the endpoint answers, as parsed JSON."""
        async with self.stream(path, body) as answer:
            content = await answer.whole()
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise RetryableError(
                f"expected JSON from {self.url}{path}, got {self.excerpt(content)!r}: "
                "is base_url the one of the API?",
                malformed=True,
            ) from error

    @asynccontextmanager
    async def stream(self, path: str, body: object) -> AsyncIterator[Answer]:
        """Send a request; the answer has a good status, and its body is still to be read."""
        url = self.url + path
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        client = self._opened()
        content = _json(body)
        headers = await self._sign(url, content) if self._sign is not None else {}
        request = client.build_request("POST", url, content=content, headers=headers)
        with self._translated(url):
            async with asyncio.timeout_at(deadline):
                response = await client.send(request, stream=True)
        answer = Answer(self, response, deadline)
        try:
            if response.status_code != 200:
                raise await self._refusal(url, answer)
            yield answer
        finally:
            await response.aclose()

    def excerpt(self, text: str | bytes) -> str:
        """The beginning of what was received, fit for an error: one line, without the key."""
        decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        if self._key:
            decoded = decoded.replace(self._key, "***")
        line = " ".join(decoded.split())
        return line if len(line) <= _EXCERPT else line[:_EXCERPT] + "…"

    def hush(self, error: PenstockError) -> None:
        """Take the key out of an error that quotes what the endpoint said. A word that short keeps
        no secret, and may stand in any sentence."""
        if len(self._key) >= _SECRET:
            error.args = tuple(str(said).replace(self._key, "***") for said in error.args)

    async def close(self) -> None:
        """Release connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _opened(self) -> AsyncClient:
        if self._client is None:
            import httpx2

            self._client = httpx2.AsyncClient(
                headers=self._headers,
                timeout=httpx2.Timeout(self._timeout_s, connect=self._connect_s),
                limits=httpx2.Limits(max_connections=self._connections),
                trust_env=False,
                follow_redirects=False,
            )
        return self._client

    @contextmanager
    def _translated(self, url: str) -> Iterator[None]:
        """The client's errors as ours."""
        import httpx2

        try:
            yield
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise UnavailableError(
                f"expected an answer from {url} within {self._timeout_s:g} s, got none",
                timeout=True,
            ) from error
        except httpx2.HTTPError as error:
            said = self.excerpt(str(error) or type(error).__name__)
            raise UnavailableError(f"cannot talk to {url}: {said}") from error

    async def _refusal(self, url: str, answer: Answer) -> PenstockError:
        """What an answer with another status than 200 means for us."""
        status = answer.status
        said = f"{url} answered {status}: {self.excerpt(_message(await answer.beginning()))}"
        if status in _WAIT or status >= 500:
            return RetryableError(said, retry_after_s=retry_after_s(answer.headers), status=status)
        if status in _REFUSED:
            return BadRecordError(said, status=status)
        if 300 <= status < 400:
            said = f"{url} answered {status}: redirects are not followed, set base_url"
        return FatalError(said, status=status)


class Answer:
    """An answer that is being received. One time limit holds from the request to the last byte, and
    is watched while waiting for bytes only: a reader may take its time in any task."""

    def __init__(self, endpoint: Endpoint, response: Response, deadline: float) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self._endpoint = endpoint
        self._response = response
        self._deadline = deadline

    async def parts(self) -> AsyncIterator[bytes]:
        """The body piece by piece, as far as size and time allow."""
        size = 0
        arriving = aiter(self._response.aiter_bytes())
        while True:
            with self._endpoint._translated(str(self._response.url)):  # noqa: SLF001  # same module
                async with asyncio.timeout_at(self._deadline):
                    part = await anext(arriving, None)
            if part is None:
                return
            size += len(part)
            if size > self._endpoint.max_bytes:
                raise RetryableError(
                    f"expected at most {self._endpoint.max_bytes} bytes from "
                    f"{self._endpoint.url}, got more",
                    malformed=True,
                )
            yield part

    async def whole(self) -> bytes:
        """All of the body."""
        return b"".join([part async for part in self.parts()])

    async def beginning(self) -> bytes:
        """As much of the body as a message needs."""
        content = b""
        async for part in self.parts():
            content += part
            if len(content) >= _MESSAGE_BYTES:
                break
        return content[:_MESSAGE_BYTES]


def embeddings_endpoint(
    base_url: str, api_key: str, timeout_s: float, concurrency: int, *, sign: Sign | None = None
) -> Endpoint:
    """An endpoint for so many requests of loads and of live changes, and some of questions."""
    return Endpoint(
        base_url,
        api_key,
        timeout_s=timeout_s,
        connections=2 * concurrency + 4,
        max_bytes=_MAX_EMBEDDINGS_BYTES,
        sign=sign,
    )


def malformed(said: str) -> RetryableError:
    """An answer that is none: a text may be the reason, or a proxy."""
    return RetryableError(said, malformed=True)


def retry_after_s(headers: Headers) -> float | None:
    """How long the endpoint asks to wait, from ``Retry-After`` in seconds or as a date."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            until = parsedate_to_datetime(value)
            seconds = (until - parsedate_to_datetime(headers.get("date", ""))).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S) if math.isfinite(seconds) else None


def error_message(body: object) -> str | None:
    """The sentence in an error object of the API, if this is one."""
    error = (body.get("error") or body.get("message")) if isinstance(body, dict) else None
    if isinstance(error, dict):
        return str(error.get("message") or error.get("code") or error)
    return str(error) if error else None


def _message(content: bytes) -> str | bytes:
    try:
        return error_message(orjson.loads(content)) or content
    except orjson.JSONDecodeError:
        return content


def _json(body: object) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise BadRecordError(f"a text cannot be sent as JSON: {error}") from error


def _checked_url(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            "expected base_url like https://host/v1 (http or https, no user, no query), got "
            f"{base_url.rsplit('@', 1)[-1]!r}"
        )
    return base_url.rstrip("/")


def _checked_key(api_key: str) -> str:
    key = api_key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError("expected an API key of printable ASCII without blanks, got another text")
    return key
