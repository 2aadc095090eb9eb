"""What language models have cost, and how new ones do: for people and programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from penstock import wiring
from penstock.errors import ConfigError
from penstock.models.gateway.canary import worse
from penstock.settings import GatewaySettings

if TYPE_CHECKING:
    from penstock.models.gateway.canary import Arm, Standing
    from penstock.project import Project
    from penstock.settings import CanarySettings
    from penstock.wiring.spending import StoredAccount

By = Literal["model", "key", "day"]
_COUNTED: Final = (
    "requests", "failed", "input_tokens", "output_tokens", "cached_tokens", "cost", "unknown",
)  # fmt: skip
_NANOS: Final = 1e9
_EVENTS: Final = 20
"""Decisions that are shown, the latest."""


def today(project: Project) -> date:
    """The day by which budgets are counted."""
    return datetime.fromtimestamp(project.clock.now() / 1e6, UTC).date()


async def costs(project: Project, by: By, days: int) -> list[dict[str, Any]]:
    """What was asked and what it cost, in lines by model, key or day, over the last ``days``."""
    account = wiring.spending(project.settings, project.pool, project.clock)
    since = today(project) - timedelta(days=days - 1)
    lines: dict[str, dict[str, Any]] = {}
    for day, key, model, *counts in await account.costs.spent(project.settings.tenant, since):
        name = {"model": model, "key": key or "-", "day": day.isoformat()}[by]
        line = lines.setdefault(name, {by: name, **dict.fromkeys(_COUNTED, 0)})
        counts[5] /= _NANOS
        for counted, more in zip(_COUNTED, counts, strict=True):
            line[counted] += more
    return [lines[name] for name in sorted(lines)]


async def canary_standing(project: Project) -> dict[str, Any]:
    """How the canary of the project file stands."""
    rules, account = _canary(project)
    events = await account.costs.events(project.settings.tenant, rules.model, _EVENTS)
    told = [
        {"at": at.isoformat(), "state": state, "reason": reason} for at, state, reason in events
    ]
    return {**_told(rules, await account.refresh(rules.model)), "events": told}


async def decide_canary(
    project: Project, state: Literal["promoted", "rolled back", "running"], *, force: bool
) -> dict[str, Any]:
    """Promote a canary, take it back, or begin anew. One that has not shown that it fails as seldom
    as may be is promoted with ``force`` only."""
    rules, account = _canary(project)
    standing = await account.refresh(rules.model)
    if state == "promoted" and not force:
        _is_proven(rules, standing)
    reason = "" if state == "running" else f"decided by a person, it was {standing.state}"
    await account.costs.decide(project.settings.tenant, rules.model, state, reason)
    return _told(rules, await account.refresh(rules.model))


def _is_proven(rules: CanarySettings, standing: Standing) -> None:
    new, others = standing.canary, standing.others
    if new.requests < rules.least_requests:
        raise ConfigError(
            f"expected at least {rules.least_requests} requests to {rules.model} before it is "
            f"promoted, got {new.requests}: wait, or promote it with --force"
        )
    if new.rate > max(rules.most_errors, others.rate):
        raise ConfigError(
            f"expected {rules.model} to fail as seldom as may be, but {new.rate:.1%} of its "
            f"{new.requests} requests failed beside {others.rate:.1%} of the others: roll it back, "
            "or promote it with --force"
        )
    if None not in (new.quality, others.quality) and worse(new, others):
        raise ConfigError(
            f"expected answers of {rules.model} to be as good, but {new.quality:.1%} of "
            f"{new.judged} were good beside {others.quality:.1%} of {others.judged} of the others: "
            "roll it back, or promote it with --force"
        )


def _canary(project: Project) -> tuple[CanarySettings, StoredAccount]:
    chosen = project.settings.answers.generator
    if not isinstance(chosen, GatewaySettings) or chosen.canary is None:
        raise ConfigError(
            "expected a canary in answers.generator (type: gateway), found none: add "
            "`canary: {model: NAME, share: 0.05}`"
        )
    return chosen.canary, wiring.spending(project.settings, project.pool, project.clock)


def _told(rules: CanarySettings, standing: Standing) -> dict[str, Any]:
    told = {"running": rules.share, "promoted": 1.0, "rolled back": 0.0}
    return {
        "model": rules.model,
        "state": standing.state,
        "share": told[standing.state],
        "requests": standing.canary.requests,
        "errors": standing.canary.errors,
        "other_requests": standing.others.requests,
        "other_errors": standing.others.errors,
        **_judged("", standing.canary),
        **_judged("other_", standing.others),
        "reason": standing.reason,
    }


def _judged(whose: str, arm: Arm) -> dict[str, Any]:
    quality = None if arm.quality is None else round(arm.quality, 4)
    return {
        f"{whose}judged": arm.judged,
        f"{whose}good": arm.good,
        f"{whose}quality": quality,
    }


def total(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All lines together."""
    return {name: sum(line[name] for line in lines) for name in _COUNTED}
