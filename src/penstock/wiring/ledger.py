"""What keeps answers, from settings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from penstock.settings import Settings
from penstock.wiring.models import follow_up_writer

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from penstock.clock import Clock
    from penstock.models.gateway.gateway import Gateway
    from penstock.operate.otel import Tracing
    from penstock.serving.forms import Slot
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
    settings: Settings,
    pool: AsyncConnectionPool[Any],
    kept: PostgresLedger,
    clock: Clock,
    asked: Gateway | None = None,
) -> Sessions:
    """Conversations. A structured generator makes follow-up questions stand for themselves."""
    from penstock.serving.followups import FollowUps
    from penstock.serving.sessions import Sessions

    follow_ups = FollowUps(follow_up_writer(settings, asked), settings.answers.rewrite_timeout)
    store = stored_sessions(settings, pool, kept)
    return Sessions(store, follow_ups, clock, _forms(settings))


def _forms(settings: Settings) -> dict[str, list[Slot]]:
    from penstock.serving.forms import Slot

    return {
        form: [
            Slot(
                name,
                wanted.question,
                wanted.type,
                None if wanted.pattern is None else re.compile(wanted.pattern),
                wanted.choices,
                wanted.required,
            )
            for name, wanted in chosen.slots.items()
        ]
        for form, chosen in settings.forms.items()
    }


def tracing(settings: Settings) -> Tracing:
    """What sends spans away."""
    from penstock import __version__
    from penstock.operate.otel import Tracing

    assert settings.telemetry.otlp is not None
    return Tracing(settings.telemetry.otlp, project=settings.project, version=__version__)
