"""What tokens cost: as the project says, or as ``genai-prices`` has it (its data come with the
package; nothing is asked of a network)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Protocol

from penstock.errors import MissingExtraError
from penstock.models.gateway.draft import Tokens


class Pricing(Protocol):
    """What calls of one model cost."""

    def cost(self, tokens: Tokens) -> float | None:
        """In the currency of the prices; None: unknown."""


class UnknownPrice:
    """No price is known."""

    def cost(self, tokens: Tokens) -> float | None:
        del tokens
        return None


@dataclass(frozen=True, slots=True)
class SetPrice:
    """Of a million tokens, as the project says. Those that were kept cost ``cached``, by default as
    much as others."""

    input: float
    output: float
    cached: float | None = None

    def cost(self, tokens: Tokens) -> float | None:
        kept = (tokens.cached or 0) if self.cached is not None else 0
        read = (tokens.read - kept) * self.input + kept * (self.cached or 0.0)
        return (read + tokens.written * self.output) / 1e6


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """In US dollars, as the model's maker asks for it."""

    provider: str
    model: str
    url: str = ""

    def cost(self, tokens: Tokens) -> float | None:
        return _listed(self.provider, self.model, self.url, tokens)


def listed(provider: str, model: str, url: str = "") -> Pricing:
    """The price of a model that is listed; for another it is unknown. Without a ``provider``, the
    endpoint's address says who it is."""
    try:
        found = _listed(provider, model, url, Tokens(1, 1))
    except MissingExtraError:
        found = None
    return UnknownPrice() if found is None else ListedPrice(provider, model, url)


@cache
def _listing() -> bool:
    try:
        import genai_prices  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("the price of a model", "prices") from error
    return True


def _listed(provider: str, model: str, url: str, tokens: Tokens) -> float | None:
    _listing()
    from genai_prices import Usage, calc_price

    usage = Usage(
        input_tokens=tokens.read,
        output_tokens=tokens.written,
        cache_read_tokens=tokens.cached or None,
    )
    try:
        found = (
            calc_price(usage, model_ref=model, provider_id=provider)
            if provider
            else calc_price(usage, model_ref=model, provider_api_url=url)
        )
        return float(found.total_price)
    except LookupError:
        return None
