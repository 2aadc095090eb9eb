"""What keeps answers, from settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.settings import Settings
from penstock.wiring.models import follow_up_writer

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from penstock.clock import Clock
    from penstock.operate.otel import Tracing
    from penstock.serving.sessions import Sessions
    from penstock.stores.postgres.ledger import PostgresLedger
    from penstock.stores.postgres.sessions import PostgresSessions


def ledger(settings: Settings, pool: AsyncConnectionPool[Any]) -> PostgresLedger:
    """The ledger of the project's tenant."""
    from penstock.stores.postgres.ledger import PostgresLedger

    return PostgresLedger(pool, tenant=settings.tenant, contents=settings.ledger.content)


def stored_sessions(
    settings: Settings, pool: AsyncConnectionPool[Any], kept: PostgresLedger
) -> PostgresSessions:
    """Conversations at rest."""
    from penstock.stores.postgres.sessions import PostgresSessions

    return PostgresSessions(pool, kept.key, tenant=settings.tenant)


def sessions(
    settings: Settings, pool: AsyncConnectionPool[Any], kept: PostgresLedger, clock: Clock
) -> Sessions:
    """Conversations. A structured generator makes follow-up questions stand for themselves."""
    from penstock.serving.followups import FollowUps
    from penstock.serving.sessions import Sessions

    follow_ups = FollowUps(follow_up_writer(settings, pool), settings.answers.rewrite_timeout)
    return Sessions(stored_sessions(settings, pool, kept), follow_ups, clock)


def tracing(settings: Settings) -> Tracing:
    """What sends spans away."""
    from penstock import __version__
    from penstock.operate.otel import Tracing

    assert settings.telemetry.otlp is not None
    return Tracing(settings.telemetry.otlp, project=settings.project, version=__version__)
