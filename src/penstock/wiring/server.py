"""What the HTTP endpoint is protected with, from settings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from penstock.clock import Clock
from penstock.errors import UnavailableError
from penstock.settings import RateSettings, Settings

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from penstock.serving.api.limits import Limit, Limits
    from penstock.serving.api.server import Tls
    from penstock.serving.api.tokens import Tokens
    from penstock.stores.postgres.rates import PostgresRates

_MOST_KEYS: Final = 1_000_000
"""Bytes of a key set."""


def limits(settings: Settings, pool: AsyncConnectionPool[Any], clock: Clock) -> Limits:
    """How much keys may ask, of all processes together."""
    from penstock.serving.api.limits import Limits

    chosen = settings.server.limits
    return Limits(
        clock,
        key=_limit(chosen.key),
        tenant=_limit(chosen.tenant),
        rates=rates(settings, pool),
    )


def rates(settings: Settings, pool: AsyncConnectionPool[Any]) -> PostgresRates:
    """What is left of the rates of keys."""
    from penstock.stores.postgres.rates import PostgresRates

    return PostgresRates(pool, tenant=settings.tenant)


def _limit(chosen: RateSettings) -> Limit:
    from penstock.serving.api.limits import Limit

    return Limit(**chosen.model_dump())


def tls(settings: Settings) -> Tls | None:
    """The server's certificate, if it has one."""
    from penstock.serving.api.server import Tls

    chosen = settings.server.tls
    if chosen is None:
        return None
    return Tls(settings.path(chosen.certificate), settings.path(chosen.key))


def tokens(settings: Settings, clock: Clock) -> Tokens | None:
    """What finds out who shows a token of the identity provider, if there is one."""
    from penstock.keys import Scope
    from penstock.outbound import checked, fetch
    from penstock.serving.api.tokens import Expected, Tokens

    chosen = settings.server.oidc
    if chosen is None:
        return None
    if chosen.jwks_url is not None:
        checked(chosen.jwks_url, private=chosen.private)

    async def keys() -> bytes:
        if chosen.jwks_url is not None:
            return await fetch(chosen.jwks_url, most_bytes=_MOST_KEYS, private=chosen.private)
        assert chosen.jwks_file is not None
        path = settings.path(chosen.jwks_file)
        try:
            return await asyncio.to_thread(path.read_bytes)
        except OSError as error:
            raise UnavailableError(f"expected keys in {str(path)!r}, but {error}") from error

    expected = Expected(
        issuer=chosen.issuer,
        audience=chosen.audience,
        algorithms=chosen.algorithms,
        scopes=frozenset(Scope(scope) for scope in chosen.scopes),
        user_claim=chosen.user_claim,
        groups_claim=chosen.groups_claim,
        scopes_claim=chosen.scopes_claim,
        tenant_claim=chosen.tenant_claim,
        leeway_s=chosen.leeway,
    )
    return Tokens(expected, keys, clock, settings.tenant)
