"""Language models, from settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from penstock.clock import Clock, SystemClock
from penstock.config import anthropic_api_key, openai_api_key, secret_file
from penstock.errors import ConfigError
from penstock.settings import (
    AnthropicModelSettings,
    AnyChatSettings,
    AnyGeneratorSettings,
    CacheSettings,
    ConverseModelSettings,
    ExtractiveSettings,
    GatewaySettings,
    Settings,
)

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from penstock.models.endpoint import Endpoint
    from penstock.models.gateway.account import Account
    from penstock.models.gateway.canary import CanaryBook
    from penstock.models.gateway.endpoint import Dialect, EndpointModel
    from penstock.models.gateway.gateway import Gateway
    from penstock.models.gateway.guarded import GuardedModel
    from penstock.models.gateway.pace import Pace
    from penstock.models.gateway.prices import Pricing
    from penstock.models.gateway.similar import Embed, SimilarAnswers
    from penstock.telemetry import Meters
    from penstock.wiring.spending import StoredAccount


def gateway(
    settings: Settings,
    pool: AsyncConnectionPool[Any] | None = None,
    *,
    meters: Meters | None = None,
    clock: Clock | None = None,
    embed: Embed | None = None,
    alive: Callable[[str], Awaitable[bool]] | None = None,
) -> Gateway | None:
    """The language models of answers as one: the only way to any of them. None where answers need
    none. With a ``pool``, what they cost is kept in the project's database. ``embed`` compares
    questions; ``alive`` says whether an answer is still kept."""
    from penstock.models.gateway.gateway import Gateway, Route
    from penstock.models.gateway.reuse import ResponseCache
    from penstock.telemetry import Meters

    chosen = settings.answers.generator
    if isinstance(chosen, ExtractiveSettings):
        return None
    clock, meters = clock or SystemClock(), meters or Meters()
    account, canaries = _books(settings, pool, clock)
    several = chosen if isinstance(chosen, GatewaySettings) else None
    named: dict[str, AnyGeneratorSettings] = (
        {name: settings.generators[name] for name in several.names}
        if several is not None
        else {_alone(chosen): chosen}
        if isinstance(chosen, AnyGeneratorSettings)
        else {}
    )
    models = {
        name: _guarded(settings, name, one, account, clock, meters, _pace(name, one, pool, clock))
        for name, one in named.items()
    }
    _prices_are_known(several, models)
    cache = several.cache if several else None
    return Gateway(
        models,
        several.chain if several else tuple(models),
        account=account,
        routes=[Route(r.models, r.tenant, r.key, r.longer_than) for r in several.routes]
        if several
        else (),
        canary=_canary(several),
        canaries=canaries,
        cache=ResponseCache(clock, entries=cache.entries, ttl_s=cache.ttl) if cache else None,
        similar=_similar(cache, clock, embed),
        alive=alive,
        structured=chosen.structured,
        reuse=meters.reuse,
    )


def _similar(
    cache: CacheSettings | None, clock: Clock, embed: Embed | None
) -> SimilarAnswers | None:
    from penstock.models.gateway.similar import SimilarAnswers

    if cache is None or cache.similar is None or embed is None:
        return None
    return SimilarAnswers(clock, embed, least=cache.similar, entries=cache.entries, ttl_s=cache.ttl)


def spending(settings: Settings, pool: AsyncConnectionPool[Any], clock: Clock) -> StoredAccount:
    """What models cost, in the project's database."""
    from penstock.stores.postgres.model_costs import PostgresModelCosts
    from penstock.wiring.spending import StoredAccount

    return StoredAccount(PostgresModelCosts(pool), settings.tenant, clock)


def _books(
    settings: Settings, pool: AsyncConnectionPool[Any] | None, clock: Clock
) -> tuple[Account, CanaryBook]:
    from penstock.models.gateway.account import MemoryAccount
    from penstock.models.gateway.canary import MemoryCanaries

    if pool is None:
        return MemoryAccount(clock), MemoryCanaries()
    stored = spending(settings, pool, clock)
    return stored, stored


def _alone(chosen: AnyGeneratorSettings) -> str:
    kinds = {"anthropic": "anthropic", "converse": "bedrock"}
    return f"{kinds.get(getattr(chosen, 'type', ''), 'openai')}/{chosen.model}"


def _canary(several: GatewaySettings | None) -> Any:
    from penstock.models.gateway.canary import CanaryRules

    if several is None or several.canary is None:
        return None
    said = several.canary
    return CanaryRules(
        said.model,
        said.share,
        said.most_errors,
        said.least_requests,
        said.least_judged,
        said.margin,
        said.promote,
    )


def _guarded(
    settings: Settings,
    name: str,
    chosen: AnyGeneratorSettings,
    account: Account,
    clock: Clock,
    meters: Meters,
    pace: Pace | None,
) -> GuardedModel:
    from penstock.models.gateway.account import Budgets
    from penstock.models.gateway.breaker import BreakerRules
    from penstock.models.gateway.guarded import GuardedModel

    said = settings.answers.generator
    several = said if isinstance(said, GatewaySettings) else GatewaySettings(
        type="gateway", chain=(name,)
    )  # fmt: skip
    limits = several.budgets
    return GuardedModel(
        endpoint_model(settings, name, chosen, clock),
        account=account,
        clock=clock,
        budgets=Budgets(limits.per_tenant, limits.per_key, limits.keys),
        rules=BreakerRules(failures=several.breaker.failures, open_s=several.breaker.open),
        at_once=chosen.concurrency,
        longest_s=chosen.timeout,
        pace=pace,
        meter=meters.model(name),
    )


def _pace(
    name: str, chosen: AnyGeneratorSettings, pool: AsyncConnectionPool[Any] | None, clock: Clock
) -> Pace | None:
    """The limits that one model has of its own, over all processes of the project."""
    from penstock.models.gateway.pace import Pace
    from penstock.models.limits import Limits, MemoryLedger

    requests, cost = chosen.limits.requests_per_minute, chosen.budget.cost_per_day
    if requests is None and cost is None:
        return None
    price, written = chosen.input_price, chosen.output_price
    worth = written / price if price and written else 1.0
    limits = Limits(requests_per_minute=requests, cost_per_day=cost, price=price)
    if pool is None:
        return Pace(name, MemoryLedger(limits, clock), clock, written_worth=worth)
    from penstock.stores.postgres.model_usage import PostgresModelUsage
    from penstock.wiring.ledgers import StoredLedger

    ledger = StoredLedger(PostgresModelUsage(pool), f"chat/{name}", limits, clock)
    return Pace(name, ledger, clock, written_worth=worth)


def endpoint_model(
    settings: Settings, name: str, chosen: AnyGeneratorSettings, clock: Clock
) -> EndpointModel:
    """One model, asked once."""
    from penstock.models.gateway.endpoint import Defaults, EndpointModel, Patience

    dialect, endpoint = _way(settings, chosen)
    temperature = chosen.temperature
    if not dialect.takes_temperature and "temperature" not in chosen.model_fields_set:
        temperature = None  # type: ignore[assignment]  # it chooses for itself
    return EndpointModel(
        name,
        dialect,
        endpoint,
        patience=Patience(
            chosen.connect_timeout, chosen.first_timeout, chosen.between_timeout, chosen.timeout
        ),
        defaults=Defaults(chosen.max_tokens, temperature),
        pricing=pricing(chosen),
        clock=clock,
    )


def _way(settings: Settings, chosen: AnyGeneratorSettings) -> tuple[Dialect, Endpoint]:
    from penstock.models.endpoint import Endpoint
    from penstock.models.gateway.endpoint import MAX_BYTES

    common: dict[str, Any] = {
        "timeout_s": chosen.timeout,
        "connect_s": chosen.connect_timeout,
        "connections": chosen.concurrency,
        "max_bytes": MAX_BYTES,
    }
    if isinstance(chosen, ConverseModelSettings):
        from penstock.models.bedrock import Signer
        from penstock.models.gateway.converse import ConverseDialect

        signer = Signer(chosen.region, chosen.profile)
        url = chosen.endpoint or f"https://bedrock-runtime.{signer.region}.amazonaws.com"
        return ConverseDialect(chosen.model), Endpoint(url, "", sign=signer.sign, **common)
    if isinstance(chosen, AnthropicModelSettings):
        from penstock.models.gateway.anthropic import VERSION, AnthropicDialect

        key = _key(settings, chosen, anthropic_api_key() or "", "ANTHROPIC_API_KEY")
        found = Endpoint(chosen.base_url, key, key_header="x-api-key", headers=VERSION, **common)
        return AnthropicDialect(chosen.model), found
    assert isinstance(chosen, AnyChatSettings)
    from penstock.models.gateway.openai import OpenAIDialect

    key = _key(settings, chosen, openai_api_key() or "", "OPENAI_API_KEY")
    header = "api-key" if chosen.api_version else "authorization"
    hints = (urlsplit(chosen.base_url).hostname or "") == "api.openai.com"
    dialect = OpenAIDialect(chosen.model, api_version=chosen.api_version, hints=hints)
    return dialect, Endpoint(chosen.base_url, key, key_header=header, **common)


def _key(
    settings: Settings, chosen: AnyChatSettings | AnthropicModelSettings, own: str, name: str
) -> str:
    key = chosen.api_key.get_secret_value() if chosen.api_key else ""
    if not key and chosen.api_key_file is not None:
        key = secret_file(settings.path(chosen.api_key_file))
    if not (key or own):
        raise ConfigError(
            f"expected an API key for the endpoint {chosen.base_url}, found none: set {name}, or "
            "api_key: ${MY_KEY} in the project file"
        )
    return key or own


def pricing(chosen: AnyGeneratorSettings) -> Pricing:
    """What its tokens cost: as the project says, or as its maker asks."""
    from penstock.models.gateway.prices import SetPrice, UnknownPrice, listed

    if chosen.input_price is not None and chosen.output_price is not None:
        return SetPrice(chosen.input_price, chosen.output_price, chosen.cached_price)
    if chosen.input_price is not None or chosen.output_price is not None:
        return UnknownPrice()  # half of it is
    if isinstance(chosen, ConverseModelSettings):
        return listed("aws", chosen.model)
    if isinstance(chosen, AnthropicModelSettings):
        return listed("anthropic", chosen.model)
    assert isinstance(chosen, AnyChatSettings)
    provider = "azure" if chosen.api_version else ""
    return listed(provider, chosen.model, chosen.base_url)


def _prices_are_known(several: GatewaySettings | None, models: dict[str, GuardedModel]) -> None:
    from penstock.models.gateway.prices import UnknownPrice

    if several is None or not several.budgets.any:
        return
    for name, model in models.items():
        if isinstance(model.model.pricing, UnknownPrice):
            raise ConfigError(
                f"budgets need to know what {name} costs, and no price of it is listed: set "
                "input_price and output_price of the model, or install the extra `prices`"
            )
