"""Sources that documents are pushed to, as the API knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.records import Microseconds
from penstock.sources.base import Source

if TYPE_CHECKING:
    from penstock.serving.writing import Inlet, Written
    from penstock.sources.push import PushSource


@dataclass(frozen=True, slots=True)
class SourceInlet:
    """See `penstock.serving.writing.Inlet`."""

    source: PushSource

    async def push(
        self, documents: Sequence[Written], *, once: str | None = None
    ) -> tuple[Microseconds, bool]:
        """See `Inlet.push`."""
        from penstock.serving.writing import ReusedIdError
        from penstock.sources import push

        pushed = [
            push.Pushed(d.key, d.content, d.media_type, d.title, d.metadata, d.allow, d.deny)
            for d in documents
        ]
        try:
            return await self.source.push(pushed, once=once)
        except push.ReusedIdError as error:
            raise ReusedIdError(error.reason) from error


def inlets(sources: Mapping[str, Source]) -> dict[str, Inlet]:
    """Those of these sources that documents are pushed to."""
    from penstock.sources.push import PushSource

    return {
        name: SourceInlet(source)
        for name, source in sources.items()
        if isinstance(source, PushSource)
    }
