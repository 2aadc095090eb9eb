"""A project that trusts an identity provider, and one with a certificate, from its settings on."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from penstock.errors import ConfigError
from penstock.project import open_project
from penstock.settings import Settings

KEY = RSAKey.generate_key(2048, {"kid": "one"})


def settings(folder: Path, database: str, **server: Any) -> Settings:
    (folder / "documents").mkdir(exist_ok=True)
    return Settings.model_validate(
        {
            "project": "tokens",
            "database": database,
            "server": {"port": 0, **server},
            "knowledge": {"embedder": "constant", "reranker": "none"},
            "sources": {"documents": {"type": "files", "path": str(folder / "documents")}},
        }
    )


async def test_g7_a_user_shows_a_token_and_asks_as_that_user(
    tmp_path: Path, database_url: str
) -> None:
    """With the scopes that the settings give to all; never in another's name; within limits."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(KeySet([KEY]).as_dict(private=False)), encoding="utf-8")
    oidc = {"issuer": "https://login.example", "audience": "penstock", "jwks_file": str(keys)}
    limits = {"key": {"rate": 0.001, "burst": 3}}
    chosen = settings(tmp_path, database_url, oidc=oidc, limits=limits)
    claims = {
        "iss": "https://login.example", "aud": "penstock", "sub": "ada", "exp": time.time() + 600
    }  # fmt: skip
    token = jwt.encode({"alg": "RS256", "kid": "one"}, claims, KEY)
    old = jwt.encode({"alg": "RS256", "kid": "one"}, {**claims, "exp": 1}, KEY)
    async with (
        open_project(settings=chosen) as project,
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=project.application()),
            base_url="http://localhost",
        ) as client,
    ):

        async def ask(token: str, path: str = "/v1/models", **more: str) -> httpx2.Response:
            return await client.get(path, headers={"Authorization": f"Bearer {token}", **more})

        answer = await ask(token)
        assert answer.status_code == 200
        assert answer.headers["ratelimit"] == '"key";r=2;t=0'
        assert (await ask(token, **{"Penstock-User": "eve"})).status_code == 403
        assert (await ask(token, "/v1/tables/documents/x")).status_code == 403
        limited = await ask(token)
        assert limited.status_code == 429
        assert limited.json()["error"]["type"] == "rate_limit_error"
        assert int(limited.headers["retry-after"]) > 100
        refused = await ask(old)
        assert refused.status_code == 401
        assert "it has expired" in refused.json()["error"]["message"]
        assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Of this machine, signed by itself, and its key."""
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


async def test_a_server_has_its_certificate(
    tmp_path: Path, database_url: str, certificate: tuple[Path, Path]
) -> None:
    """And says what is wrong with one that it cannot use."""
    public, key = certificate
    tls = {"certificate": str(public), "key": str(key)}
    chosen = settings(tmp_path, database_url, tls=tls)
    trusting = ssl.create_default_context(cafile=str(public))
    async with (
        open_project(settings=chosen) as project,
        project.serving() as address,
        httpx2.AsyncClient(verify=trusting, trust_env=False) as client,
    ):
        assert address.startswith("https://")
        assert (await client.get(f"{address}/healthz")).status_code == 200
    key.write_text("nonsense", encoding="utf-8")
    async with open_project(settings=chosen) as project:
        with pytest.raises(ConfigError, match=r"correct server\.tls"):
            async with project.serving():
                pass
