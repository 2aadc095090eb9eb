"""API keys: what an application shows, what is stored of it, what it may. Standard library only.

A key is ``psk_`` with twelve characters that name it and 32 that are the secret (160 bits). Only a
SHA-256 of the whole is stored: of a secret this long, a slow hash would protect nothing more.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from penstock.errors import ConfigError
from penstock.principals import DEFAULT_TENANT, Principal
from penstock.records import Microseconds

PREFIX: Final = "psk_"
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_NAME_LENGTH: Final = 12
_SECRET_LENGTH: Final = 32
_SHAPE: Final = re.compile(
    rf"psk_([{_ALPHABET}]{{{_NAME_LENGTH}}})[{_ALPHABET}]{{{_SECRET_LENGTH}}}"
)


class Scope(StrEnum):
    """What a key may be used for."""

    ASK = "ask"
    """Contexts, searches and answers, of what its principal may see."""
    EMBED = "embed"
    """Vectors of texts."""
    TABLES = "tables"
    """Rows of live tables by their columns, as far as its principal may see them."""
    WRITE = "write"
    """Push, replace and delete documents of sources of the type ``push``."""
    ACT_AS = "act-as"
    """Ask in the name of users that the application vouches for."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is stored. Times are since 1970 in UTC; None: never."""

    id: str
    digest: bytes
    label: str
    principal: Principal
    scopes: frozenset[Scope]
    created_at: Microseconds
    expires_at: Microseconds | None = None
    revoked_at: Microseconds | None = None

    def opens(self, token: str, now: Microseconds) -> bool:
        """Whether this is the key's token, and the key is neither expired nor revoked."""
        fits = hmac.compare_digest(self.digest, digest(token))
        expired = self.expires_at is not None and self.expires_at <= now
        return fits and not expired and self.revoked_at is None


def mint(
    label: str,
    scopes: frozenset[Scope],
    now: Microseconds,
    *,
    principal: Principal | None = None,
    expires_at: Microseconds | None = None,
) -> tuple[str, ApiKey]:
    """A new key: the token, which is shown once, and what is stored."""
    if not scopes:
        raise ConfigError(f"expected at least one scope of {', '.join(Scope)}, got none")
    if expires_at is not None and expires_at <= now:
        raise ConfigError("expected a key that expires later than now: give it a longer life")
    name = "".join(secrets.choice(_ALPHABET) for _ in range(_NAME_LENGTH))
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))
    token = f"{PREFIX}{name}{secret}"
    who = principal or Principal(tenant=DEFAULT_TENANT)
    return token, ApiKey(name, digest(token), label, who, scopes, now, expires_at)


def id_of(token: str) -> str | None:
    """The name in a token; None for what is no token of ours."""
    found = _SHAPE.fullmatch(token)
    return None if found is None else found[1]


def digest(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).digest()
