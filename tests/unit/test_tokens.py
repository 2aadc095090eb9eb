"""Tokens of an identity provider, a real one over HTTP, and those who forge them."""

from __future__ import annotations

import base64
import hmac
import json
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from penstock.keys import Scope
from penstock.outbound import fetch
from penstock.records import Microseconds
from penstock.serving.api.problems import ProblemError
from penstock.serving.api.server import serve
from penstock.serving.api.tokens import Expected, Tokens

ISSUER = "https://login.example"
NOW = 1_800_000_000
ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "EdDSA")


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = float(NOW)

    def now(self) -> Microseconds:
        return Microseconds(int(self.time * 1e6))

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    WEAK = RSAKey.generate_key(1024, {"kid": "weak"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
EC384 = ECKey.generate_key("P-384", {"kid": "ec384"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
STRANGER = RSAKey.generate_key(2048, {"kid": "rsa"})
SECRET = OctKey.generate_key(256, {"kid": "oct"})


class Issuer:
    """A provider whose keys are fetched over HTTP."""

    def __init__(self, *keys: Any) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.up = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.asked += 1
        body = json.dumps(KeySet(self.keys).as_dict(private=False)).encode()
        start: Any = {
            "type": "http.response.start",
            "status": 200 if self.up else 500,
            "headers": [],
        }
        await send(start)
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def verifying(issuer: Issuer, **more: Any) -> AsyncIterator[tuple[Tokens, Hand]]:
    clock = Hand()
    expected = Expected(
        **{
            "issuer": ISSUER, "audience": "penstock", "algorithms": ALGORITHMS,
            "scopes": frozenset({Scope.ASK}), **more,
        }
    )  # fmt: skip
    async with serve(issuer, host="127.0.0.1", port=0) as address:

        async def keys() -> bytes:
            return await fetch(f"{address}/keys", most_bytes=100_000, private=True)

        yield Tokens(expected, keys, clock, "default"), clock


def token(key: Any = RSA, alg: str = "RS256", head: Any = None, **claims: Any) -> str:
    said = {"iss": ISSUER, "aud": "penstock", "sub": "ada", "exp": NOW + 60, **claims}
    said = {name: value for name, value in said.items() if value is not None}
    header = {"alg": alg, "kid": key.kid, **(head or {})}
    return jwt.encode(header, said, key, algorithms=[alg])


async def refused(tokens: Tokens, shown: str, status: int = 401) -> str:
    assert tokens.looks_like_one(shown)
    with pytest.raises(ProblemError) as caught:
        await tokens.caller(shown)
    assert caught.value.status == status
    return caught.value.detail


@pytest.mark.parametrize(
    ("key", "alg"), [(RSA, "RS256"), (RSA, "PS256"), (EC, "ES256"), (EC384, "ES384"), (ED, "EdDSA")]
)
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
async def test_a_token_says_who_asks(key: Any, alg: str) -> None:
    """With every kind of key; its groups and scopes where the settings name the claims."""
    issuer = Issuer(RSA, EC, EC384, ED)
    async with verifying(issuer, groups_claim="groups", scopes_claim="scope") as (tokens, _):
        shown = token(key, alg, groups=["staff"], scope="openid penstock:ask penstock:act-as ask")
        caller = await tokens.caller(shown)
    assert (caller.principal.user, caller.principal.groups) == ("ada", ("staff",))
    assert caller.scopes == {Scope.ASK}
    assert caller.principal.tenant == "default"


async def test_g7_what_a_token_claims_is_looked_at() -> None:
    """Times, issuer, audience, user; as a provider would sign it, and still no."""
    async with verifying(Issuer(RSA), tenant_claim="org") as (tokens, _):
        for claims, said in (
            ({"exp": NOW - 31}, "expired"),
            ({"exp": None}, "expired"),
            ({"exp": "tomorrow"}, "exp is no time"),
            ({"exp": True}, "exp is no time"),
            ({"exp": float("1e300")}, "exp is no time"),
            ({"nbf": NOW + 31}, "not valid yet"),
            ({"iat": NOW + 31}, "not valid yet"),
            ({"iss": f"{ISSUER}/"}, "issuer is another"),
            ({"iss": [ISSUER]}, "issuer is another"),
            ({"aud": "other"}, "another audience"),
            ({"aud": None}, "another audience"),
            ({"aud": {"penstock": 1}}, "another audience"),
            ({"aud": ["a", "b"]}, "another audience"),
            ({"sub": None}, "no user"),
            ({"sub": 7}, "no user"),
            ({"sub": "a\x00b", "org": "default"}, "names cannot be used"),
        ):
            assert said in await refused(tokens, token(**claims)), claims
        assert "tenant" in await refused(tokens, token(org="other"), 403)
        assert await tokens.caller(token(org="default", aud=["x", "penstock"]))


def forged(head: Any, *, signature: bytes = b"x", claims: Any = None) -> str:
    said = claims or {"iss": ISSUER, "aud": "penstock", "sub": "ada", "exp": NOW + 60}

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    return ".".join(
        (part(json.dumps(head).encode()), part(json.dumps(said).encode()), part(signature))
    )


async def test_g7_forged_tokens_open_nothing() -> None:
    """No algorithm, another kind of algorithm, a key that the token brings, names as attacks."""
    public = RSA.as_pem(private=False)
    mixed = {"alg": "HS256", "kid": "rsa"}
    signed = forged(mixed).rpartition(".")[0].encode()
    with_public = forged(mixed, signature=hmac.digest(public, signed, "sha256"))
    async with verifying(Issuer(RSA, EC, SECRET, WEAK)) as (tokens, _):
        own = STRANGER.as_dict(private=False)
        attacks = {
            "none": forged({"alg": "none", "kid": "rsa"}),
            "None": forged({"alg": "None", "kid": "rsa"}),
            "no alg": forged({"kid": "rsa"}),
            "alg is a list": forged({"alg": ["RS256"], "kid": "rsa"}),
            "public key as a secret": with_public,
            "listed secret": token(SECRET, "HS256"),
            "another's key of the same name": token(STRANGER),
            "key in the head": token(STRANGER, head={"jwk": own}),
            "address in the head": token(STRANGER, head={"jku": "https://evil.example/keys"}),
            "certificate's address": token(STRANGER, head={"x5u": "https://evil.example/c"}),
            "unknown kid": token(STRANGER, head={"kid": "other"}),
            "kid as a path": token(STRANGER, head={"kid": "../../../../dev/null"}),
            "kid as SQL": token(STRANGER, head={"kid": "x' UNION SELECT 'k' --"}),
            "kid is a number": forged({"alg": "RS256", "kid": 7}),
            "no kid among several": forged({"alg": "RS256"}),
            "short key": forged({"alg": "RS256", "kid": "weak"}),
            "another curve's algorithm": forged({"alg": "ES384", "kid": "ec"}),
            "RSA name, EC algorithm": forged({"alg": "ES256", "kid": "rsa"}),
            "empty EC signature": forged({"alg": "ES256", "kid": "ec"}, signature=b"\0" * 64),
            "encrypted": forged({"alg": "RS256", "kid": "rsa", "enc": "A256GCM"}),
            "crit": forged({"alg": "RS256", "kid": "rsa", "crit": ["exp"]}),
            "another typ": token(head={"typ": "secevent+jwt"}),
            "head is a list": forged([]),
            "head is no JSON": forged({"alg": "RS256"}).replace("e", "W", 1),
        }  # fmt: skip
        for name, shown in attacks.items():
            assert await refused(tokens, shown), name
        good = token()
        head, body, signature = good.split(".")
        other = token(sub="eve").split(".")[1]
        await refused(tokens, f"{head}.{other}.{signature}")
        await refused(tokens, f"{head}.{body}.{signature[:-8]}AAAAAAAA")
        assert await tokens.caller(good)
    for nonsense in ("a.b", "a.b.c.d", "..", "a.b.c ", "x" * 20_000, "psk_x"):
        assert not Tokens.looks_like_one(nonsense)


async def test_keys_are_rotated_and_the_provider_is_not_asked_for_each_token() -> None:
    """A new key counts when a token names it; nonsense makes one question in half a minute."""
    issuer = Issuer(RSA)
    async with verifying(issuer) as (tokens, clock):
        await tokens.caller(token())
        assert issuer.asked == 1
        fresh = RSAKey.generate_key(2048, {"kid": "new"})
        for _ in range(20):
            await refused(tokens, token(fresh))
        assert issuer.asked == 1  # it was asked a moment ago
        issuer.keys = [fresh]
        clock.time += 31
        await tokens.caller(token(fresh))
        assert issuer.asked == 2
        await refused(tokens, token())  # the former key is gone
        clock.time += 20
        issuer.up = False
        clock.time += 1000
        assert await tokens.caller(token(fresh, exp=NOW + 5000))  # what is known goes on
        assert issuer.asked == 3
