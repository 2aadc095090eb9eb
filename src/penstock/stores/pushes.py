"""Documents on their way from a process that serves the API to the one that runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class Sent(NamedTuple):
    """What has become of it: whether it was taken, and the answer."""

    taken: bool
    answer: dict[str, Any] | None


class Mail(NamedTuple):
    """One that was taken."""

    id: int
    source: str
    once: str | None
    parcel: bytes


class PushStore(Protocol):
    """Holds them. Nothing here is promised to a sender before there is an answer."""

    async def send(self, source: str, once: str | None, parcel: bytes, wait_s: float) -> int:
        """Put it where it is taken within so long, or never; returns its number."""

    async def look(self, number: int) -> Sent | None:
        """What has become of it; None: it is not there any more."""

    async def withdraw(self, number: int) -> bool:
        """Take it back; False: it was taken, and what becomes of it is not known yet."""

    async def forget(self, number: int) -> None:
        """Its answer was read."""

    async def take(self, sources: Sequence[str], limit: int) -> Sequence[Mail]:
        """What has come for these, in order; each is given once."""

    async def settle(self, number: int, answer: dict[str, Any]) -> None:
        """Tell the one who waits."""
