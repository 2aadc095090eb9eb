"""OpenSearch as a second store of chunks: k-NN with HNSW, filtered while it searches.

A chunk is a document whose id is the chunk's number and whose external version is that of its
document, so writes can be repeated and come late. What is written is found after a refresh, and
only then counts as searchable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from penstock.errors import ConfigError, FatalError, PenstockError, RetryableError, UnavailableError
from penstock.stores.base import Filter, Vectors
from penstock.stores.chunk_index import SPAN, ChunkRow, Gone, Range, fact_of

if TYPE_CHECKING:
    from httpx2 import AsyncClient, Response

BULK_BYTES: Final = 4_000_000
_MOST: Final = 64 * 1024 * 1024
_PAGES: Final = 10_000
_EXCERPT: Final = 300
_MISSING: Final = 404
_CONFLICT: Final = 409
_BUSY: Final = frozenset({408, 429})

_KEYWORD: Final = {"type": "keyword", "ignore_above": 8000}
_FIELDS: Final = {
    "chunk": {"type": "long"},
    "digest": {"type": "long"},
    "model": {"type": "short"},
    "tenant": {"type": "keyword"},
    "source": {"type": "keyword"},
    "kind": {"type": "keyword"},
    "facts": {"type": "keyword"},
    "key": _KEYWORD,
    "title": _KEYWORD,
}


class OpenSearchIndex:
    """One index of an OpenSearch 2.19 or later with the k-NN plugin.

    ``engine`` is ``lucene`` or ``faiss``. Redirects are not followed and proxies of the environment
    are not used, so the password goes nowhere else.
    """

    def __init__(
        self,
        url: str,
        index: str,
        *,
        username: str = "",
        password: str = "",
        engine: str = "lucene",
        replicas: int = 0,
        shards: int = 1,
        timeout_s: float = 30.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc or "@" in parts.netloc:
            raise ConfigError(
                "expected the address of OpenSearch as http(s)://host:port, without name and "
                "password (they have settings of their own)"
            )
        self._url = url.rstrip("/")
        self._index = index
        self._auth = (username, password) if username else None
        self._engine = engine
        self._replicas = replicas
        self._shards = shards
        self._timeout_s = timeout_s
        self._client: AsyncClient | None = None

    # ------------------------------------------------------------------ writing

    async def prepare(self, dimensions: int) -> None:
        """See `penstock.stores.chunk_index.ChunkIndex`."""
        method = {
            "name": "hnsw",
            "engine": self._engine,
            "space_type": "cosinesimil",
            "parameters": {"m": 16, "ef_construction": 100},
        }
        vector = {"type": "knn_vector", "dimension": dimensions, "method": method}
        answer = await self._send(
            "PUT",
            f"/{self._index}",
            {
                "settings": {
                    "index.knn": True,
                    "index.number_of_shards": self._shards,
                    "index.number_of_replicas": self._replicas,
                    # How long a removed chunk's version is remembered against a late write.
                    "index.gc_deletes": "1h",
                    "index.refresh_interval": "30s",
                },
                "mappings": {
                    "dynamic": "strict",
                    "_source": {"excludes": ["vector"]},
                    "properties": {**_FIELDS, "vector": vector},
                },
            },
            accepted=(400,),
        )
        if _kind(answer) == "resource_already_exists_exception":
            await self._expect_length(dimensions)
        elif "error" in answer:
            raise FatalError(f"expected OpenSearch to make {self._index!r}, got {_said(answer)}")

    async def _expect_length(self, dimensions: int) -> None:
        found = await self._send("GET", f"/{self._index}/_mapping")
        fields = next(iter(found.values()))["mappings"].get("properties", {})
        length = fields.get("vector", {}).get("dimension")
        if length != dimensions:
            raise FatalError(
                f"expected the index {self._index!r} for vectors of {dimensions} numbers, got one "
                f"for {length}: name another index, or delete that one"
            )

    async def write(self, rows: Sequence[ChunkRow], gone: Sequence[Gone]) -> None:
        """See `penstock.stores.chunk_index.ChunkIndex`."""
        lines: list[bytes] = []
        size = 0
        for chunk, version in gone:
            lines.append(orjson.dumps({"delete": _target(chunk, version)}))
        for row in rows:
            lines.append(orjson.dumps({"index": _target(row.chunk, row.version)}))
            lines.append(orjson.dumps(_document(row), option=orjson.OPT_SERIALIZE_NUMPY))
            size += len(lines[-1])
            if size > BULK_BYTES:
                await self._bulk(lines)
                lines, size = [], 0
        if lines:
            await self._bulk(lines)

    async def _bulk(self, lines: Sequence[bytes]) -> None:
        # A mistyped name must not make an index without mapping, whatever the cluster allows.
        answer = await self._send(
            "POST", f"/{self._index}/_bulk?require_alias=false", b"\n".join(lines) + b"\n"
        )
        if not answer["errors"]:
            return
        for item in answer["items"]:
            [result] = item.values()
            # A higher version is there already; or what is to be removed is not there.
            if result["status"] < 300 or result["status"] in {_CONFLICT, _MISSING}:
                if _kind(result) == "index_not_found_exception":
                    raise self._no_index()
                continue
            said = f"expected OpenSearch to take chunk {result['_id']}, got {_said(result)}"
            if result["status"] in _BUSY or result["status"] >= 500:
                raise RetryableError(said)
            raise FatalError(f"{said}: mend the index, or delete it and attach the store again")

    async def refresh(self) -> None:
        """See `penstock.stores.chunk_index.ChunkIndex`."""
        answer = await self._send("POST", f"/{self._index}/_refresh")
        if answer["_shards"]["failed"]:
            raise UnavailableError(
                f"expected all shards of {self._index!r} to refresh, some failed"
            )

    # ------------------------------------------------------------------ reading

    async def nearest(
        self, vector: Vectors, *, tenant: str, model: int, limit: int, where: Filter
    ) -> list[int]:
        """See `penstock.stores.chunk_index.ChunkIndex`."""
        knn = {
            "vector": vector.reshape(-1).tolist(),
            "k": min(max(limit, 1), _PAGES),
            "filter": {"bool": {"filter": _conditions(tenant, model, where)}},
        }
        if self._engine == "faiss":
            knn["method_parameters"] = {"ef_search": max(100, limit)}
        answer = await self._search({"size": min(limit, _PAGES), "query": {"knn": {"vector": knn}}})
        return [int(hit["_id"]) for hit in answer["hits"]["hits"]]

    async def ranges(self, tenant: str) -> Mapping[int, Range]:
        """See `penstock.stores.chunk_index.ChunkIndex`."""
        found: dict[int, Range] = {}
        after: dict[str, Any] = {}
        by_range = {"range": {"histogram": {"field": "chunk", "interval": SPAN}}}
        while True:
            answer = await self._search(
                {
                    "size": 0,
                    "query": {"term": {"tenant": tenant}},
                    "aggs": {
                        "ranges": {
                            "composite": {"size": 1000, "sources": [by_range], **after},
                            "aggs": {"digests": {"sum": {"field": "digest"}}},
                        }
                    },
                }
            )
            part = answer["aggregations"]["ranges"]
            for bucket in part["buckets"]:
                span = int(bucket["key"]["range"]) // SPAN
                found[span] = Range(bucket["doc_count"], int(bucket["digests"]["value"]))
            if "after_key" not in part:
                return found
            after = {"after": part["after_key"]}

    async def digests(self, tenant: str, span: int) -> Mapping[int, int]:
        """See `penstock.stores.chunk_index.ChunkIndex`."""
        bounds = {"gte": span * SPAN, "lt": (span + 1) * SPAN}
        answer = await self._search(
            {
                "size": SPAN,
                "_source": False,
                "docvalue_fields": ["digest"],
                "query": {
                    "bool": {"filter": [{"term": {"tenant": tenant}}, {"range": {"chunk": bounds}}]}
                },
            }
        )
        return {int(hit["_id"]): hit["fields"]["digest"][0] for hit in answer["hits"]["hits"]}

    async def _search(self, body: Mapping[str, Any]) -> Any:
        # A part of an answer would pass for all of it.
        path = f"/{self._index}/_search?allow_partial_search_results=false"
        return await self._send("POST", path, body)

    # ------------------------------------------------------------------ talking

    async def close(self) -> None:
        """See `penstock.stores.chunk_index.ChunkIndex`."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _send(
        self, method: str, path: str, body: Any = None, *, accepted: Sequence[int] = ()
    ) -> Any:
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient(
                auth=self._auth,
                timeout=httpx2.Timeout(self._timeout_s, connect=min(10.0, self._timeout_s)),
                trust_env=False,
                follow_redirects=False,
            )
        lines = isinstance(body, bytes)
        content = body if lines or body is None else orjson.dumps(body)
        kind = "application/x-ndjson" if lines else "application/json"
        try:
            async with self._client.stream(
                method, self._url + path, content=content, headers={"content-type": kind}
            ) as response:
                received = await _whole(response)
        except httpx2.HTTPError as error:
            said = str(error) or type(error).__name__
            raise UnavailableError(
                f"expected OpenSearch at {self._url} to answer, got {said[:_EXCERPT]!r}"
            ) from error
        if response.status_code >= 300 and response.status_code not in accepted:
            raise self._refusal(response.status_code, received)
        try:
            return orjson.loads(received)
        except orjson.JSONDecodeError as error:
            raise RetryableError(
                f"expected JSON from {self._url}, got {received[:_EXCERPT]!r}: is it OpenSearch?"
            ) from error

    def _refusal(self, status: int, received: bytes) -> PenstockError:
        excerpt = received[:_EXCERPT].decode(errors="replace")
        said = f"OpenSearch at {self._url} answered {status}: {excerpt}"
        if status in _BUSY or status >= 500:
            return RetryableError(said)
        if status == _MISSING:
            return self._no_index()
        return FatalError(f"{said}: mend the address, the rights or the index")

    def _no_index(self) -> FatalError:
        return FatalError(
            f"expected the index {self._index!r} in OpenSearch at {self._url}, it is not there: "
            "`penstock reconcile --repair` makes and fills it again"
        )


async def _whole(response: Response) -> bytes:
    received = bytearray()
    async for piece in response.aiter_bytes():
        received += piece
        if len(received) > _MOST:
            raise RetryableError(f"expected an answer of at most {_MOST} bytes, got a longer one")
    return bytes(received)


def _target(chunk: int, version: int) -> dict[str, Any]:
    return {"_id": str(chunk), "version": version, "version_type": "external_gte"}


def _document(row: ChunkRow) -> dict[str, Any]:
    return {
        "chunk": row.chunk,
        "digest": row.digest,
        "model": row.model,
        "tenant": row.tenant,
        "source": row.source,
        "key": row.key,
        "title": row.title,
        "kind": row.kind,
        "facts": row.facts,
        "vector": row.vector,
    }


def _conditions(tenant: str, model: int, where: Filter) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"term": {"tenant": tenant}}, {"term": {"model": model}}]
    if where.sources is not None:
        found.append({"terms": {"source": list(where.sources)}})
    if where.path is not None:
        if "*" in where.path or "?" in where.path:
            found.append({"wildcard": {"key": {"value": where.path.replace("\\", "\\\\")}}})
        else:
            found.append({"term": {"key": where.path}})
    if where.title is not None:
        found.append({"term": {"title": where.title}})
    if where.kind is not None:
        found.append({"term": {"kind": where.kind}})
    facts = (fact_of(name, value) for name, value in where.metadata.items())
    found.extend({"term": {"facts": fact}} for fact in facts if fact is not None)
    return found


def _kind(answer: Mapping[str, Any]) -> str:
    error = answer.get("error")
    return str(error.get("type", "")) if isinstance(error, Mapping) else ""


def _said(answer: Mapping[str, Any]) -> str:
    return orjson.dumps(answer.get("error", answer)).decode()[:_EXCERPT]
