"""What the HTTP endpoint lets in, how much of it, and how it is protected on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field, field_validator, model_validator

from penstock.settings.base import Duration, Section

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
_SAFE: Final[tuple[Algorithm, ...]] = ("RS256", "PS256", "ES256", "ES384", "EdDSA")


class RateSettings(Section):
    """Bounds of requests. ``rate`` and ``burst`` hold for all processes of a project together,
    ``concurrent`` for each by itself."""

    rate: float | None = Field(default=None, gt=0)
    """Requests a second, on average. Default: no bound."""
    burst: int | None = Field(default=None, ge=1)
    """How many may come at once. Default: those of one second."""
    concurrent: int | None = Field(default=None, ge=1)
    """How many may be at work at the same time."""


class LimitSettings(Section):
    """What is too much is answered with 429 and the time to come back."""

    key: RateSettings = RateSettings(concurrent=100)
    """Of each API key, or each user who shows a token. Default: 100 at the same time."""
    tenant: RateSettings = RateSettings(concurrent=500)
    """Of all of them together. Default: 500 at the same time."""
    request: Duration = Field(default=120.0, gt=0)
    """How long a request may take until it begins to answer."""
    drain: Duration = 20.0
    """How long the end of the server waits for requests that are at work."""


class TlsSettings(Section):
    """The server's certificate. Read when it starts."""

    certificate: Path
    """A file with the certificate and those between it and its root, as PEM, relative to the
    project file."""
    key: Path
    """A file with its key, as PEM."""


class OidcSettings(Section):
    """Tokens (JWT) of an identity provider, beside API keys. Needs the extra ``oidc``."""

    issuer: str = Field(min_length=1)
    """The ``iss`` of the tokens, exactly."""
    audience: str = Field(min_length=1)
    """What must stand in ``aud``: the name of this API at the provider."""
    jwks_url: str | None = None
    """Where the provider's keys are, with https at a host of the internet."""
    jwks_file: Path | None = None
    """A file with them instead, relative to the project file."""
    private: bool = False
    """Whether ``jwks_url`` may also be on this machine or in a private network, and http."""
    algorithms: tuple[Algorithm, ...] = _SAFE
    """Which signatures count. Only asymmetric ones can."""
    user_claim: str = "sub"
    """The claim with the user's name, as lists of permissions have it."""
    groups_claim: str | None = None
    """The claim with the names of the user's groups. Default: none are taken."""
    scopes_claim: str | None = None
    """The claim with scopes (of ``penstock:ask``, the ``ask``). Default: ``scopes`` holds for all.
    A user can never act as another."""
    scopes: tuple[Literal["ask", "embed", "tables", "write"], ...] = ("ask",)
    """What every token may, where no claim says it."""
    tenant_claim: str | None = None
    """The claim that must name the project's tenant. Default: none is looked at."""
    leeway: Duration = Field(default=30.0, le=300)
    """By how much clocks may differ."""

    @model_validator(mode="after")
    def _keys_are_somewhere(self) -> OidcSettings:
        if (self.jwks_url is None) == (self.jwks_file is None):
            raise ValueError("expected one of jwks_url and jwks_file: where the keys are")
        return self

    @field_validator("algorithms", mode="after")
    @classmethod
    def _some_algorithm(cls, algorithms: tuple[Algorithm, ...]) -> tuple[Algorithm, ...]:
        if not algorithms:
            raise ValueError("expected at least one algorithm")
        return algorithms
