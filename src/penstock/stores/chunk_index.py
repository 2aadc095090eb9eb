"""What a second store of chunks promises: vectors with their filters, by chunk.

PostgreSQL holds the truth. A second store finds nearest neighbours; texts, permissions and
citations come from the PostgreSQL snapshot, so it holds none of them. Its suite is
`penstock.testing.chunk_indexes`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
import orjson
from numpy.typing import NDArray

from penstock.stores.base import Filter, Vectors

SPAN: Final = 1000
"""Chunks are compared by ranges of so many ids."""


class ChunkRow(NamedTuple):
    """One chunk as a second store keeps it. ``version`` rises with each version of its document;
    ``digest`` (31 bits) is that of everything a filter or a comparison looks at."""

    chunk: int
    version: int
    digest: int
    tenant: str
    model: int
    source: str
    key: str
    title: str
    kind: str
    facts: Sequence[str]
    vector: NDArray[np.float32]


class Gone(NamedTuple):
    """A chunk that is no more, as of a version of its document."""

    chunk: int
    version: int


class Range(NamedTuple):
    """How many chunks there are in a range of ids, and the sum of their digests."""

    chunks: int
    digests: int


class ChunkIndex(Protocol):
    """A second store of the chunks of one or more tenants."""

    async def prepare(self, dimensions: int) -> None:
        """Make what must exist before the first write; nothing if it is there. `FatalError` when
        what is there is for vectors of another length."""

    async def write(self, rows: Sequence[ChunkRow], gone: Sequence[Gone]) -> None:
        """Store and remove; returns when that is durable. What is stored under a newer version
        stays: repeating, and writing late, change nothing."""

    async def refresh(self) -> None:
        """Return when all that was written before can be found."""

    async def nearest(
        self, vector: Vectors, *, tenant: str, model: int, limit: int, where: Filter
    ) -> list[int]:
        """The chunks nearest by cosine, nearest first. May ignore parts of the filter that it
        cannot express: the caller checks each chunk."""

    async def ranges(self, tenant: str) -> Mapping[int, Range]:
        """What there is, by ``chunk // SPAN``; after a refresh."""

    async def digests(self, tenant: str, span: int) -> Mapping[int, int]:
        """The digest of each chunk of one range."""

    async def close(self) -> None:
        """Disconnect; may be called more than once."""


@runtime_checkable
class ForgettingIndex(Protocol):
    """A second store that can be told to give up the bytes of what was removed."""

    async def forget(self) -> None:
        """Give up versions of before, as far as the store does that when it is told to."""


def facts_of(metadata: Mapping[str, Any]) -> list[str]:
    """Top-level values that a filter may name, as texts that are equal when the values are."""
    return [fact for name, value in metadata.items() if (fact := fact_of(name, value)) is not None]


def fact_of(name: str, value: Any) -> str | None:
    """One value as text; None for lists, objects and numbers that have more than one writing:
    those are compared in PostgreSQL alone."""
    if isinstance(value, float):
        if not math.isfinite(value) or abs(value) > 2**53:
            return None
        value = int(value) if value.is_integer() else value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        return None
    if isinstance(value, str | int | float | bool) or value is None:
        written = f"{name}={orjson.dumps(value).decode()}"
        return written if len(written) <= 256 else None
    return None
