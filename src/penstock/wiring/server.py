"""What the HTTP endpoint is protected with, from settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.clock import Clock
from penstock.settings import LimitSettings, RateSettings, Settings

if TYPE_CHECKING:
    from penstock.serving.api.limits import Limit, Limits
    from penstock.serving.api.server import Tls


def limits(chosen: LimitSettings, clock: Clock) -> Limits:
    """How much keys may ask."""
    from penstock.serving.api.limits import Limits

    return Limits(clock, key=_limit(chosen.key), tenant=_limit(chosen.tenant))


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
