"""What a pipeline is: a computation from a batch of changes to effects on stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from penstock.models.base import Embedder, Priority
from penstock.records import Change
from penstock.stores.base import Effect, Store


class Rejected(NamedTuple):
    """A change that the pipeline cannot use, and why; it becomes a dead letter."""

    change: Change
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a batch comes to. ``embedded`` and ``reused`` count chunks whose vector was computed
    now, or was stored already."""

    effects: Sequence[Effect]
    rejected: Sequence[Rejected] = ()
    embedded: int = 0
    reused: int = 0


@dataclass(frozen=True, slots=True)
class Tools:
    """What a computation may ask: a model, and which vectors are stored. Never for writing."""

    embedder: Embedder
    store: Store
    priority: Priority = "live"


class Pipeline(Protocol):
    """Named, picklable, without state of its own. Nothing in it knows which log or runtime carries
    it; running the same batch twice gives the same state in the stores."""

    @property
    def name(self) -> str: ...

    @property
    def topics(self) -> tuple[str, ...]: ...

    @property
    def streams(self) -> frozenset[str] | None:
        """The streams that it uses, or None for all: others are not even decoded."""

    async def compute(self, changes: Sequence[Change], tools: Tools) -> Outcome:
        """Effects of these changes, in order. A single bad change is returned as rejected; errors
        that concern all of them are raised (`RetryableError`, `FatalError`)."""
