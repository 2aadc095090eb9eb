"""The embedder that is searched now, out of those that a project names, exchanged while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from penstock.errors import RetryableError
from penstock.models.base import Embedder, Priority, Vectors, question_vectors

logger = structlog.get_logger("penstock.models")

_WAIT_S = 10.0


class ServingModels:
    """Stands for the model whose vectors are searched. ``pointer`` says its name (None: nothing is
    embedded yet); ``find`` makes the embedder of a name, or None when the project has none;
    ``adopt`` takes a model into use while there is nothing that another one has embedded.

    Whoever does a piece of work asks `serving` once and keeps to what it gave.
    """

    def __init__(
        self,
        default: Embedder,
        *,
        pointer: Callable[[], Awaitable[str | None]],
        find: Callable[[str], Embedder | None],
        adopt: Callable[[str, int], Awaitable[bool]],
    ) -> None:
        self._made: dict[str, Embedder] = {default.name: default}
        self._default = self._current = default
        self._pointer = pointer
        self._find = find
        self._adopt = adopt
        self._asked = False
        self._take(default)

    def _take(self, embedder: Embedder) -> None:
        self._current = embedder
        self.name = embedder.name
        self.dimensions = embedder.dimensions
        self.max_tokens = embedder.max_tokens

    def load(self) -> None:
        """Make a local model ready."""
        load = getattr(self._current, "load", None)
        if load is not None:
            load()

    def known(self, name: str) -> Embedder | None:
        """The embedder of this name, if the project has it."""
        found = self._made.get(name) or self._find(name)
        if found is not None:
            self._made[name] = found
        return found

    def keep(self, embedder: Embedder) -> Embedder:
        """Use this embedder for its name, and close it with the others."""
        return self._made.setdefault(embedder.name, embedder)

    @property
    def names(self) -> list[str]:
        """Those that were asked for and found."""
        return sorted(self._made)

    async def serving(self, *, fresh: bool = True) -> Embedder:
        """The embedder whose vectors are searched; without ``fresh``, the one of last time will do
        (whoever reads with it sees in the snapshot whether it still is)."""
        if not fresh and self._asked:
            return self._current
        name = await self._pointer()
        self._asked = True
        if name is None or name == self._current.name:
            return self._current
        default = self._default
        if name != default.name and await self._adopt(default.name, default.dimensions):
            name = default.name
        found = await asyncio.to_thread(self.known, name)
        if found is None:
            raise RetryableError(
                f"the knowledge base is searched with vectors of {name!r}, which the project file "
                f"does not name ({default.name!r} is what it names): name that model in "
                "`models`, or run `penstock models migrate` to change to the one it names",
                retry_after_s=_WAIT_S,
            )
        logger.info("models.serving", model=name, before=self._current.name)
        self._take(found)
        return found

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """As the model counts that was serving when it was last asked."""
        return self._current.count_tokens(texts)

    async def embed(self, texts: Sequence[str], *, priority: Priority = "live") -> Vectors:
        """As the model does that was serving when it was last asked."""
        return await self._current.embed(texts, priority=priority)

    async def embed_questions(
        self, texts: Sequence[str], *, priority: Priority = "query"
    ) -> Vectors:
        """As the model does that was serving when it was last asked."""
        return await question_vectors(self._current, texts, priority=priority)

    async def close(self) -> None:
        """Close all that were made."""
        made, self._made = list(self._made.values()), {}
        await asyncio.gather(*(embedder.close() for embedder in made))
