"""A schema registry with Confluent's HTTP interface, read only.

Schemas never change under their number, so they are kept for ever; the number of them is bounded.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import httpx2 as httpx
import orjson

from penstock.errors import BadRecordError, SourceError, UnavailableError

MOST_SCHEMAS: Final = 10_000
_MOST_BYTES: Final = 4_000_000
_TIMEOUT_S: Final = 10.0
_PATIENCE_S: Final = 5.0


class SchemaRegistry:
    """Gives schemas by number; ``get`` of one that is not there is a `BadRecordError`."""

    def __init__(self, url: str, *, user: str | None = None, password: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._auth = (user, password or "") if user is not None else None
        self._client: httpx.AsyncClient | None = None
        self._known: dict[int, Any] = {}
        self._missing: dict[int, float] = {}

    def known(self, number: int) -> Any:
        """A schema that was fetched; ``BadRecordError`` when the registry does not have it."""
        found = self._known.get(number)
        if found is None:
            raise BadRecordError(
                f"expected schema {number} in the registry at {self._url}, it has none: register "
                "it, or mend `registry`, and retry this record"
            )
        return found

    async def fetch(self, number: int) -> None:
        """Get a schema, unless it is known, or was missing a moment ago."""
        now = asyncio.get_running_loop().time()
        if number in self._known or now < self._missing.get(number, 0.0):
            return
        found = await self._get(f"{self._url}/schemas/ids/{number}")
        if len(self._known) >= MOST_SCHEMAS:
            del self._known[next(iter(self._known))]
        if len(self._missing) >= MOST_SCHEMAS:
            self._missing.clear()
        if found is None:
            self._missing[number] = now + _PATIENCE_S
        else:
            self._known[number] = found

    async def close(self) -> None:
        """Release connections; what was fetched stays known."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _get(self, url: str) -> Any:
        """The schema at this address; None when there is none that we can read."""
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=_TIMEOUT_S,
                auth=self._auth,
                follow_redirects=False,  # the project names the one place that is asked
                headers={"Accept": "application/vnd.schemaregistry.v1+json"},
            )
        try:
            response = await self._client.get(url)
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"expected the schema registry at {self._url} to answer, got {error!r}"
            ) from error
        if response.status_code == 404:
            return None
        if response.status_code in {401, 403}:
            raise SourceError(
                f"expected to be let in by the schema registry at {self._url}, got "
                f"{response.status_code}: mend `registry.user` and `registry.password`"
            )
        if response.status_code != 200:
            raise UnavailableError(
                f"expected the schema registry at {self._url} to answer, got {response.status_code}"
            )
        return _schema(response.content)


def _schema(body: bytes) -> Any:
    try:
        answer = orjson.loads(body) if len(body) <= _MOST_BYTES else None
        if not isinstance(answer, dict) or answer.get("schemaType", "AVRO") != "AVRO":
            return None
        return orjson.loads(answer["schema"])
    except (ValueError, KeyError, TypeError):
        return None
