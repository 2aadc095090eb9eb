"""Tokens of an identity provider (OpenID Connect, JWT) as those who call.

What is looked at, in this order: that the token's head asks for nothing but a known key and an
asymmetric algorithm that the settings name; that the key is the provider's and of the algorithm's
kind; the signature; then issuer, audience and times. A key that a token brings along, or an address
where one might be, is never used.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from penstock.clock import Clock
from penstock.errors import ConfigError, MissingExtraError, PenstockError, UnavailableError
from penstock.keys import ApiKey, Scope
from penstock.principals import Principal
from penstock.serving.api.problems import ProblemError

if TYPE_CHECKING:
    from joserfc.jwk import Key

_LONGEST: Final = 16_384
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_KINDS: Final[Mapping[str, tuple[str, str | None]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""The kind and the curve of the key that an algorithm takes."""
_FORBIDDEN: Final = ("jwk", "jku", "x5u", "crit", "b64", "zip", "enc")
_PUBLIC: Final[Mapping[str, tuple[str, ...]]] = {
    "RSA": ("n", "e"),
    "EC": ("crv", "x", "y"),
    "OKP": ("crv", "x"),
}
_LEAST_RSA_BYTES: Final = 256
_FRESH_S: Final = 900.0
_AGAIN_S: Final = 30.0
"""After an unknown key, or a provider that did not answer, it is not asked again for so long."""
_PREFIX: Final = "penstock:"


@dataclass(frozen=True, slots=True)
class Expected:
    """What tokens must say, and what is taken from them (see `penstock.settings.OidcSettings`)."""

    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    scopes: frozenset[Scope]
    user_claim: str = "sub"
    groups_claim: str | None = None
    scopes_claim: str | None = None
    tenant_claim: str | None = None
    leeway_s: float = 30.0


class KeySet:
    """The provider's keys by name, fetched anew now and then and when a token names another."""

    def __init__(self, fetch: Callable[[], Awaitable[bytes]], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str | None, tuple[str, str | None, str | None, Key]] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._lock = asyncio.Lock()

    async def key(self, kid: str | None, algorithm: str) -> Key | None:
        """The key of that name, if it fits the algorithm."""
        now = self._clock.monotonic()
        stale = self._fetched_at is None or now - self._fetched_at > _FRESH_S
        if stale or kid not in self._keys:
            await self._refresh()
        if self._fetched_at is None:
            raise UnavailableError("expected the keys of the identity provider, they did not come")
        if kid is None and len(self._keys) == 1:
            kid = next(iter(self._keys))
        found = self._keys.get(kid)
        if found is None:
            return None
        kind, curve, wanted, key = found
        fits = (kind, curve) == _KINDS[algorithm] and wanted in {None, algorithm}
        return key if fits else None

    async def _refresh(self) -> None:
        async with self._lock:
            now = self._clock.monotonic()
            if self._tried_at is not None and now - self._tried_at < _AGAIN_S:
                return
            self._tried_at = now
            try:
                self._keys = _keys(await self._fetch())
                self._fetched_at = now
            except PenstockError:
                if self._fetched_at is None:
                    raise


def _keys(body: bytes) -> dict[str | None, tuple[str, str | None, str | None, Key]]:
    """The public keys of a set; no symmetric, short or encrypting ones."""
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry

    try:
        said = json.loads(body)
        listed = said["keys"]
        assert isinstance(listed, list)
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError) as error:
        raise UnavailableError("expected a JSON Web Key Set of the identity provider") from error
    found: dict[str | None, tuple[str, str | None, str | None, Key]] = {}
    for one in listed[:100]:
        if not isinstance(one, dict) or one.get("use", "sig") != "sig":
            continue
        kind = str(one.get("kty"))
        names = _PUBLIC.get(kind)
        if names is None:
            continue
        try:
            public: Any = {"kty": kind, **{name: one[name] for name in names}}
            if kind == "RSA" and len(_bytes(one["n"]).lstrip(b"\0")) < _LEAST_RSA_BYTES:
                continue
            key = JWKRegistry.import_key(public)
        except (JoseError, ValueError, KeyError, TypeError):
            continue
        kid = one.get("kid")
        curve = None if kind == "RSA" else str(one["crv"])
        found[kid if isinstance(kid, str) else None] = (kind, curve, one.get("alg"), key)
    return found


class Tokens:
    """Finds out who shows a token."""

    def __init__(
        self,
        expected: Expected,
        fetch: Callable[[], Awaitable[bytes]],
        clock: Clock,
        tenant: str,
    ) -> None:
        try:
            import joserfc  # noqa: F401 - told now, not at the first token
        except ImportError as error:
            raise MissingExtraError("server.oidc", "oidc") from error
        self._expected = expected
        self._keys = KeySet(fetch, clock)
        self._clock = clock
        self._tenant = tenant

    @staticmethod
    def looks_like_one(token: str) -> bool:
        """Whether this has a token's form at all."""
        return len(token) <= _LONGEST and _SHAPE.fullmatch(token) is not None

    async def caller(self, token: str) -> ApiKey:
        """Who shows it, as a key that is stored nowhere; `ProblemError` where it does not count."""
        claims = await self._claims(token)
        self._check(claims)
        return self._key(claims)

    async def _claims(self, token: str) -> Mapping[str, Any]:
        from joserfc import jwt
        from joserfc.errors import JoseError

        algorithm, kid = self._head(token)
        key = await self._keys.key(kid, algorithm)
        if key is None:
            raise _refused("its key is none of the identity provider's for this algorithm")
        try:
            claims: Mapping[str, Any] = jwt.decode(token, key, algorithms=[algorithm]).claims
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise _refused("its signature does not fit") from error
        return claims

    def _head(self, token: str) -> tuple[str, str | None]:
        try:
            head = json.loads(_bytes(token.partition(".")[0]))
        except (ValueError, RecursionError) as error:
            raise _refused("its head is no JSON") from error
        if not isinstance(head, dict):
            raise _refused("its head is no JSON object")
        algorithm, kid = head.get("alg"), head.get("kid")
        if algorithm not in self._expected.algorithms or algorithm not in _KINDS:
            raise _refused("its algorithm is none of server.oidc.algorithms")
        asked = [name for name in _FORBIDDEN if name in head]
        if asked:
            raise _refused(f"its head has {', '.join(asked)}, which is never used here")
        if not (kid is None or isinstance(kid, str)):
            raise _refused("its kid is no text")
        if str(head.get("typ", "JWT")).lower() not in {"jwt", "at+jwt", "application/at+jwt"}:
            raise _refused("its typ is neither JWT nor at+jwt")
        return str(algorithm), kid

    def _check(self, claims: Mapping[str, Any]) -> None:
        expected, now = self._expected, self._clock.now() / 1e6
        if claims.get("iss") != expected.issuer:
            raise _refused("its issuer is another")
        audience = claims.get("aud")
        named = audience if isinstance(audience, list) else [audience]
        if expected.audience not in named:
            raise _refused("it is for another audience")
        until = _time(claims, "exp")
        if until is None or until + expected.leeway_s <= now:
            raise _refused("it has expired, or does not say when it will")
        for name in ("nbf", "iat"):
            since = _time(claims, name)
            if since is not None and since - expected.leeway_s > now:
                raise _refused("it is not valid yet")

    def _key(self, claims: Mapping[str, Any]) -> ApiKey:
        expected = self._expected
        user = claims.get(expected.user_claim)
        if not isinstance(user, str) or not user:
            raise _refused(f"it has no user in {expected.user_claim}")
        if expected.tenant_claim and claims.get(expected.tenant_claim) != self._tenant:
            raise ProblemError(403, "forbidden", "this token is not of this project's tenant")
        try:
            groups = tuple(_texts(claims, expected.groups_claim))
            principal = Principal(user, groups, self._tenant)
        except ConfigError as error:
            raise _refused(f"its names cannot be used: {error}") from error
        scopes = expected.scopes
        if expected.scopes_claim is not None:
            said = {name.removeprefix(_PREFIX) for name in _texts(claims, expected.scopes_claim)
                    if name.startswith(_PREFIX)}  # fmt: skip
            scopes = frozenset(s for s in Scope if s.value in said and s is not Scope.ACT_AS)
        name = hashlib.sha256(f"{expected.issuer}\0{user}".encode()).hexdigest()[:24]
        return ApiKey(f"oidc.{name}", b"", user, principal, scopes, self._clock.now())


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e12:
        raise _refused(f"its {name} is no time")
    return float(value)


def _texts(claims: Mapping[str, Any], name: str | None) -> list[str]:
    """A claim with several names: a list of texts, or a text with blanks between."""
    value = None if name is None else claims.get(name)
    if isinstance(value, str):
        return value.split()
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _refused(reason: str) -> ProblemError:
    return ProblemError(
        401,
        "unauthorized",
        f"expected a valid token of the identity provider, but {reason}",
        headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
    )
