"""A source that does what a list says: changes, time, errors, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from penstock.records import Change, Column, Microseconds, Op, Position, Schema
from penstock.sources.base import SourceBatch, State, StateChange

ITEMS = Schema("scripted", "public.items", (Column("id", "integer", key=True), Column("v", "text")))
"""The stream that `item` makes changes of."""


def item(number: int, key: str, value: str | None, *, at: int = 0) -> Change:
    """Change number ``number`` of the source: ``value`` None deletes the row ``key``."""
    return Change(
        schema=ITEMS,
        op=Op.DELETE if value is None else Op.UPDATE,
        key=(key,),
        position=Position(f"{number:016d}"),
        committed_at=Microseconds(at),
        after=None if value is None else (key, value),
    )


class ScriptedSource:
    """Plays a script of batches and errors; after an error, ``read`` goes on from the state.

    Each batch's state must hold ``at``, the number of batches to skip when resuming.
    """

    def __init__(self, script: Sequence[SourceBatch | Exception], name: str = "scripted") -> None:
        self.name = name
        self._script = list(script)
        self.acknowledged: list[StateChange] = []
        self.given = 0
        self.closed = False

    async def read(self, state: State) -> AsyncIterator[SourceBatch]:
        skip = int(state.get("at", "0"))
        batches = 0
        for step in list(self._script):
            if isinstance(step, Exception):
                if batches < skip:
                    continue
                self._script.remove(step)
                raise step
            batches += 1
            if batches > skip:
                self.given += 1
                yield step
        await asyncio.Event().wait()

    async def acknowledge(self, state: StateChange) -> None:
        self.acknowledged.append(state)

    async def close(self) -> None:
        self.closed = True


def script(*batches: Sequence[Change]) -> list[SourceBatch | Exception]:
    """Batches with the state that resumes after each."""
    return [
        SourceBatch(changes, {"at": str(i)}, as_of=Microseconds(i))
        for i, changes in enumerate(batches, 1)
    ]
