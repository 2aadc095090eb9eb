"""Who may call what: every route says it, and one that says nothing is not served.

A caller shows an API key as a bearer token. What is asked is asked as the key's principal; a key
with the scope ``act-as`` may name the user in whose name it asks (headers ``Penstock-User`` and
``Penstock-Groups``), because the application has authenticated that user.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute

from penstock.clock import Clock
from penstock.errors import ConfigError
from penstock.keys import ApiKey, Scope, id_of
from penstock.models.base import CALLER_KEY
from penstock.principals import Principal
from penstock.serving.api.limits import Limits
from penstock.serving.api.problems import ProblemError
from penstock.serving.api.tokens import Tokens
from penstock.stores.keys import KeyStore

_REMEMBERED_S: Final = 0.5
"""How long a key is not looked up again: half of the second in which it may still be used after it
was revoked."""
_MOST_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, with which key, in whose name."""

    key: ApiKey
    principal: Principal


class Doorkeeper:
    """Finds the key of a request."""

    def __init__(
        self,
        keys: KeyStore,
        clock: Clock,
        tenant: str,
        limits: Limits | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self._tokens = tokens
        self._limits = limits
        self._keys = keys
        self._clock = clock
        self._tenant = tenant
        self._known: OrderedDict[str, tuple[float, ApiKey | None]] = OrderedDict()

    async def caller(self, request: Request, needs: Scope) -> Caller:
        """Who calls; a `ProblemError` for whoever may not."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip()
        key = await self._shown(token) if kind.lower() == "bearer" else None
        if key is None:
            raise ProblemError(
                401,
                "unauthorized",
                "expected a valid key in the header `Authorization: Bearer psk_...`: make one with "
                "`penstock keys create`",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if key.principal.tenant != self._tenant:
            raise ProblemError(403, "forbidden", "this key belongs to another tenant")
        if self._limits is not None:
            await self._limits.admit(request.scope, key.id)
        if needs not in key.scopes:
            raise ProblemError(
                403,
                "forbidden",
                f"expected a key with the scope {needs!s}, got one with "
                f"{', '.join(sorted(key.scopes))}: make another key",
            )
        CALLER_KEY.set(key.id)
        return Caller(key, self._acting(request, key))

    async def _shown(self, token: str) -> ApiKey | None:
        """The key that a token opens, or what stands for it of a user who shows a provider's."""
        if self._tokens is not None and self._tokens.looks_like_one(token):
            return await self._tokens.caller(token)
        key_id = id_of(token)
        key = None if key_id is None else await self._find(key_id)
        return key if key is not None and key.opens(token, self._clock.now()) else None

    def _acting(self, request: Request, key: ApiKey) -> Principal:
        user = request.headers.get("penstock-user")
        groups = request.headers.get("penstock-groups")
        if user is None and groups is None:
            return key.principal
        if Scope.ACT_AS not in key.scopes:
            raise ProblemError(
                403,
                "forbidden",
                "expected no Penstock-User and no Penstock-Groups from this key: only a key with "
                f"the scope {Scope.ACT_AS!s} may ask in the name of users",
            )
        named = tuple(name.strip() for name in (groups or "").split(",") if name.strip())
        try:
            return Principal(_text(user), tuple(_text(name) or "" for name in named), self._tenant)
        except ConfigError as error:
            raise ProblemError(400, "invalid_request", str(error)) from error

    async def _find(self, key_id: str) -> ApiKey | None:
        now = self._clock.monotonic()
        known = self._known.get(key_id)
        if known is not None and now - known[0] < _REMEMBERED_S:
            return known[1]
        key = await self._keys.find(key_id)
        self._known[key_id] = (now, key)
        self._known.move_to_end(key_id)
        while len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)
        return key


def _text(header: str | None) -> str | None:
    """A header's bytes as UTF-8, which HTTP libraries hand over as Latin-1."""
    if header is None:
        return None
    try:
        return header.encode("latin-1").decode("utf-8")
    except UnicodeError as error:
        raise ProblemError(
            400, "invalid_request", "expected UTF-8 in Penstock-User and Penstock-Groups"
        ) from error


class Needs:
    """The dependency of a route that asks for a scope."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> Caller:
        doorkeeper: Doorkeeper = request.app.state.doorkeeper
        return await doorkeeper.caller(request, self.scope)


class Open:
    """The dependency of a route that everybody may call."""

    async def __call__(self) -> None:
        """Nothing is asked."""


Asking = Annotated[Caller, Depends(Needs(Scope.ASK))]
Tabling = Annotated[Caller, Depends(Needs(Scope.TABLES))]
Embedding = Annotated[Caller, Depends(Needs(Scope.EMBED))]
Writing = Annotated[Caller, Depends(Needs(Scope.WRITE))]
OPEN: Final = Depends(Open())


def policies(app: FastAPI) -> dict[tuple[str, str], Scope | None]:
    """What each route asks for, by method and path; None: nothing.

    Raises `RuntimeError` or `TypeError` for a route that does not say: it is never served.
    """
    found: dict[tuple[str, str], Scope | None] = {}
    for route in _routes(app.routes):
        if not isinstance(route, APIRoute):
            raise TypeError(f"expected routes that say who may call them, got {route!r}")
        said: list[Any] = [
            needed.call
            for needed in route.dependant.dependencies
            if isinstance(needed.call, Needs | Open)
        ]
        if len(said) != 1:
            raise RuntimeError(
                f"expected the route {route.path} to say once who may call it, got {len(said)}: "
                "give it a parameter of `Asking`, `Tabling`, `Writing` or `Embedding`, or the "
                "dependency `OPEN`"
            )
        scope = said[0].scope if isinstance(said[0], Needs) else None
        for method in sorted(route.methods or ()):
            found[method, route.path] = scope
    return found


def _routes(routes: Iterable[Any]) -> Iterator[Any]:
    """Those of included routers too, which FastAPI keeps as they were given."""
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is None:
            yield route
        else:
            yield from _routes(included.routes)
