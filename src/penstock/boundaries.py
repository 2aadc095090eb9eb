"""The named places where something becomes durable, so that a campaign can end the process there.

Each boundary has two sides: just before, and just after. The loops say where they are with `reach`;
nothing listens unless a campaign (``penstock torture``) has asked for it. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final, Literal, NamedTuple, TypeAlias, get_args


class Boundary(StrEnum):
    """Every commit boundary of the engine; the campaign goes through all of them."""

    RECEIVE = "receive"
    """A batch came from the source, and waits to be appended."""
    APPEND = "append"
    """Changes and the source's state go into the log."""
    CHUNK = "chunk"
    """The same, for a piece of the first copy of what the source holds."""
    ACKNOWLEDGE = "acknowledge"
    """The source may forget what was appended."""
    APPLY = "apply"
    """Results are written, in a transaction; the position has not moved."""
    COMMIT = "commit"
    """Results and position are committed."""
    MIGRATE = "migrate"
    """A migration of the project's database is committed."""
    ERASE = "erase"
    """A step of an erasure is committed. No part of a run, so no point of its campaign."""


Side: TypeAlias = Literal["before", "after"]
Hook: TypeAlias = Callable[[Boundary, Side], None]


class Point(NamedTuple):
    """One side of a boundary; written ``append.before``."""

    boundary: Boundary
    side: Side

    def __str__(self) -> str:
        return f"{self.boundary}.{self.side}"


POINTS: Final = tuple(
    Point(boundary, side)
    for boundary in Boundary
    if boundary is not Boundary.ERASE
    for side in get_args(Side)
)
"""All of a run, in the order of the code."""

_hook: Hook | None = None


def listen(hook: Hook | None) -> None:
    """Call this at every boundary from now on; None for nobody."""
    global _hook  # noqa: PLW0603 - the one switch of the process, off unless a campaign set it
    _hook = hook


def reach(boundary: Boundary, side: Side) -> None:
    """The process is at this place."""
    if _hook is not None:
        _hook(boundary, side)
