"""Searches over the API, blocking or not, as what frameworks call documents."""

from __future__ import annotations

import ssl
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import quote

from penstock.errors import ConfigError, FatalError, PenstockError, RetryableError

DEFAULT_URL = "http://127.0.0.1:8321"


class Found(NamedTuple):
    """One passage or row: its text, where it is from, and how well it fits."""

    id: str
    text: str
    score: float
    metadata: dict[str, Any]


class SearchClient:
    """``POST /v1/search`` of a running Penstock. ``user`` and ``groups`` are whom to ask for, where
    the key may act for others; ``where`` and ``profile`` are as the API has them.

    Raises `ConfigError` for what the caller has to mend (a key, a filter), `RetryableError` when
    Penstock is away or busy, and `FatalError` otherwise, each with the API's own sentence.
    """

    def __init__(
        self,
        api_key: str,
        *,
        url: str = DEFAULT_URL,
        user: str | None = None,
        groups: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
        profile: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        self._url = f"{url.rstrip('/')}/v1/search"
        self._headers = {"Authorization": f"Bearer {api_key}"}
        if user is not None:
            self._headers["Penstock-User"] = user
        if groups:
            self._headers["Penstock-Groups"] = ", ".join(groups)
        self._more: dict[str, Any] = {"where": dict(where or {})}
        if profile is not None:
            self._more["profile"] = profile
        self._timeout_s = timeout_s

    def search(self, question: str, limit: int) -> list[Found]:
        """Best first, at most ``limit``."""
        import httpx2

        try:
            return _read(self._blocking.post(self._url, json=self._body(question, limit)))
        except httpx2.HTTPError as error:
            raise _away(self._url, error) from error

    async def asearch(self, question: str, limit: int) -> list[Found]:
        """The same, not blocking."""
        import httpx2

        async with httpx2.AsyncClient(**self._options) as client:
            try:
                return _read(await client.post(self._url, json=self._body(question, limit)))
            except httpx2.HTTPError as error:
                raise _away(self._url, error) from error

    def close(self) -> None:
        """Close the connections that are kept."""
        self._blocking.close()

    @cached_property
    def _blocking(self) -> Any:
        import httpx2

        client = httpx2.Client(**self._options)
        weakref.finalize(self, client.close)
        return client

    @cached_property
    def _options(self) -> dict[str, Any]:
        # Certificates are read once, not at each question.
        verify = ssl.create_default_context() if self._url.startswith("https:") else False
        return {"headers": self._headers, "timeout": self._timeout_s, "verify": verify}

    def _body(self, question: str, limit: int) -> dict[str, Any]:
        return {"question": question, "limit": limit, **self._more}


def _read(response: Any) -> list[Found]:
    if response.status_code != 200:
        raise _refused(response)
    said = response.json()
    ages = {part["source"]: part.get("age_ms") for part in said["sources"]}
    return [_found(result, ages, said["taken_at"]) for result in said["results"]]


def _found(result: Mapping[str, Any], ages: Mapping[str, Any], taken_at: str) -> Found:
    text = result.get("text")
    if text is None:
        facts = (
            f"{name}: {value}" for name, value in result["values"].items() if value is not None
        )
        text = "\n".join([result["title"], *facts])
    place = f"penstock://{quote(result['source'], safe='')}/{quote(result['key'], safe='/')}"
    kept = ("kind", "source", "key", "title", "heading", "committed_at", "metadata", "values")
    metadata = {name: result[name] for name in kept if result.get(name) is not None}
    return Found(
        str(result.get("chunk", place)),
        text,
        float(result["score"]),
        {**metadata, "url": place, "age_ms": ages.get(result["source"]), "taken_at": taken_at},
    )


def _refused(response: Any) -> PenstockError:
    try:
        detail = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"expected an answer of Penstock's API, got status {response.status_code}"
    if response.status_code in {408, 425, 429, 502, 503, 504}:
        return RetryableError(detail)
    return ConfigError(detail) if 400 <= response.status_code < 500 else FatalError(detail)


def _away(url: str, error: Exception) -> RetryableError:
    return RetryableError(
        f"expected to reach Penstock at {url}, got: {error or type(error).__name__}; is "
        "`penstock run` or `penstock serve` running there?"
    )
