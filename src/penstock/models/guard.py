"""Whether an endpoint still has the model that it had: by what it says, and by what it does.

The vector of one fixed text is kept from the first answer on. Where a service takes several texts
at once, every request for documents carries that text too, so the vectors of an answer are vouched
for by the same answer; elsewhere, and for questions, it is asked for now and then.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from penstock.clock import Clock
from penstock.errors import ChangedModelError, FatalError
from penstock.models.base import Vectors
from penstock.models.limits import References

PROBE: Final = "The lock keeper writes down the height of the water every morning."
ALIKE: Final = 0.99
"""The least cosine between two vectors of the probe by one model: other hardware and rounding to
bytes stay above it, other weights stay far below."""
EVERY_S: Final = 60.0
WAIT_S: Final = 60.0
"""How long to wait before an exchanged model is asked again."""


class ModelGuard:
    """Compares with what was kept. ``known`` is true once this name has given a good vector."""

    def __init__(self, name: str, references: References, clock: Clock) -> None:
        self._name = name
        self._references = references
        self._clock = clock
        self._kept: Vectors | None = None
        self._said: str | None = None
        self._checked_at: float | None = None
        self.problem: ChangedModelError | None = None

    @property
    def due(self) -> bool:
        """Whether nothing was compared for a while, or what was compared last was wrong."""
        if self.problem is not None or self._checked_at is None:
            return True
        return self._clock.monotonic() - self._checked_at >= EVERY_S

    async def known(self) -> bool:
        """Whether this name has ever given a good vector."""
        return await self._reference() is not None

    async def dimensions(self, expected: int, found: int) -> None:
        """Refuse vectors of another length."""
        said = f"expected vectors of {expected} dimensions from {self._name}, got {found}"
        if not await self.known():
            raise FatalError(f"{said}: set the embedder's dimensions to what the model gives")
        raise self._changed(said)

    def model(self, said: str | None) -> None:
        """Refuse the answer of another model than those before."""
        if said is None:
            return
        if self._said is None:
            self._said = said
        elif said != self._said:
            raise self._changed(
                f"expected vectors of the model {self._said!r}, got some of {said!r}"
            )

    async def probe(self, vector: Vectors) -> None:
        """Refuse an answer whose vector of the probe is not the one that it was."""
        kept = await self._reference()
        if kept is None:
            bytes_ = await self._references.remember(self._name, vector.astype("<f4").tobytes())
            kept = self._kept = np.frombuffer(bytes_, "<f4").astype(np.float32)
        alike = float(kept @ vector) if kept.size == vector.size else 0.0
        if alike < ALIKE:
            self._said = None  # what it says it is counts from the next good answer on
            raise self._changed(
                f"expected a vector of the model that {self._name} was, got one of another (the "
                f"cosine of the probe is {alike:.3f})"
            )
        self._checked_at = self._clock.monotonic()
        self.problem = None

    async def _reference(self) -> Vectors | None:
        if self._kept is None:
            found = await self._references.recall(self._name)
            if found is not None:
                self._kept = np.frombuffer(found, "<f4").astype(np.float32)
        return self._kept

    def _changed(self, said: str) -> ChangedModelError:
        self.problem = ChangedModelError(
            f"{said}: its vectors do not compare with those stored, so none is stored; bring the "
            "former model back, or name the new one in `models` and run `penstock models migrate`",
            retry_after_s=WAIT_S,
        )
        return self.problem
