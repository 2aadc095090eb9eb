"""What the API needs of where keys are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from penstock.keys import ApiKey
from penstock.records import Microseconds


class KeyStore(Protocol):
    """API keys at rest. What was revoked is not found valid by whoever asks after that."""

    async def add(self, key: ApiKey) -> None:
        """Keep a new key."""

    async def find(self, key_id: str) -> ApiKey | None:
        """The key of that name, valid or not."""

    async def all_of(self, tenant: str) -> Sequence[ApiKey]:
        """All keys of a tenant, the newest first."""

    async def revoke(self, tenant: str, key_id: str, now: Microseconds) -> bool:
        """From now on it opens nothing; False when there is no such key. Again does nothing."""
