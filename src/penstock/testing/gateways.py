"""A gateway over scripted endpoints, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from penstock.clock import Clock
from penstock.models.endpoint import Endpoint
from penstock.models.gateway.account import Account, Budgets, MemoryAccount
from penstock.models.gateway.endpoint import Defaults, EndpointModel, Patience
from penstock.models.gateway.gateway import Gateway
from penstock.models.gateway.guarded import GuardedModel
from penstock.models.gateway.openai import OpenAIDialect
from penstock.models.gateway.pace import Pace
from penstock.models.gateway.prices import SetPrice
from penstock.testing.fake_openai import FakeOpenAI

PRICE = SetPrice(1.0, 10.0)


def gateway(
    endpoints: Mapping[str, FakeOpenAI],
    clock: Clock,
    *,
    chain: Sequence[str] = (),
    account: Account | None = None,
    budgets: Budgets | None = None,
    at_once: int = 64,
    max_tokens: int = 100,
    timeout_s: float = 5.0,
    key: str = "k",
    paces: Mapping[str, Pace] = MappingProxyType({}),
    **more: Any,
) -> Gateway:
    """One model for each endpoint, all of them a chain unless that is said. ``paces`` are limits
    of single models."""
    account = account or MemoryAccount(clock)
    models = {}
    for name, endpoint in endpoints.items():
        model = EndpointModel(
            name,
            OpenAIDialect(name),
            Endpoint(
                endpoint.base_url, key, timeout_s=timeout_s, connections=64, max_bytes=1_000_000
            ),
            patience=Patience(first=2, between=2, total=timeout_s),
            defaults=Defaults(max_tokens, 0.0),
            pricing=PRICE,
            clock=clock,
        )
        models[name] = GuardedModel(
            model,
            account=account,
            clock=clock,
            budgets=budgets or Budgets(),
            at_once=at_once,
            pace=paces.get(name),
        )
    return Gateway(models, tuple(chain or endpoints), account=account, **more)
