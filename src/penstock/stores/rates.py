"""Rates that several processes keep together."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Lease(NamedTuple):
    """Requests that this process may let in, and those that are left for whoever asks next."""

    granted: float
    left: float


class RateStore(Protocol):
    """Buckets of tokens, one for each name, that all processes of a tenant share."""

    async def lease(self, name: str, *, rate: float, size: int, block: int) -> Lease:
        """Take up to ``block`` tokens out of a bucket that holds ``size`` and fills at ``rate`` a
        second; what was taken is this process's and does not come back."""
