"""What is counted and timed, by name. Standard library only.

All metrics are listed here; the reference page and ``/metrics`` are made from this list.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

MetricName = Literal[
    "penstock_source_changes_total",
    "penstock_source_errors_total",
    "penstock_source_up",
    "penstock_source_failed",
    "penstock_source_health",
    "penstock_source_retained_bytes",
    "penstock_source_retained_budget_bytes",
    "penstock_source_parked_tables",
    "penstock_pipeline_changes_total",
    "penstock_pipeline_lag_records",
    "penstock_pipeline_errors_total",
    "penstock_chunks_embedded_total",
    "penstock_chunks_reused_total",
    "penstock_dead_letters_total",
    "penstock_freshness_seconds",
    "penstock_rewrites_total",
    "penstock_rewrites_failed_total",
    "penstock_model_requests_total",
    "penstock_model_errors_total",
    "penstock_model_retries_total",
    "penstock_model_fallbacks_total",
    "penstock_model_tokens_total",
    "penstock_model_cost_total",
    "penstock_model_breaker_state",
    "penstock_model_breaker_opened_total",
    "penstock_model_first_piece_seconds_total",
    "penstock_model_answers_reused_total",
]

METRICS: Mapping[MetricName, str] = {
    "penstock_source_changes_total": "Changes that a source gave and the log holds.",
    "penstock_source_errors_total": "Times that reading a source failed and was begun again.",
    "penstock_source_up": "1 while a source is being read, 0 while it is not.",
    "penstock_source_failed": "1 while a source has stopped and waits for a person.",
    "penstock_source_health": "0 while a source's way is well, 1 for a warning, 2 for an error.",
    "penstock_source_retained_bytes": "What a source's system keeps for us (PostgreSQL: WAL).",
    "penstock_source_retained_budget_bytes": "How much of that there may be.",
    "penstock_source_parked_tables": "Tables that are left out until a person has mended them.",
    "penstock_pipeline_changes_total": "Changes that a pipeline has processed.",
    "penstock_pipeline_lag_records": "Records in the log that a pipeline has yet to process.",
    "penstock_pipeline_errors_total": "Times that a step of a pipeline failed and was repeated.",
    "penstock_chunks_embedded_total": "Chunks whose vector was computed.",
    "penstock_chunks_reused_total": "Chunks whose vector was stored already.",
    "penstock_dead_letters_total": "Records put aside because they could not be processed.",
    "penstock_freshness_seconds": "From the source's commit until a query can see it.",
    "penstock_rewrites_total": "Questions that a generator was asked to rewrite, in this process.",
    "penstock_rewrites_failed_total": "Those that were searched as they are, because it failed.",
    "penstock_model_requests_total": "Requests to a language model, second tries among them.",
    "penstock_model_errors_total": "Those that failed for a reason of the endpoint.",
    "penstock_model_retries_total": "Second and third tries.",
    "penstock_model_fallbacks_total": "Questions that went on to the next model of a chain.",
    "penstock_model_tokens_total": "Tokens read, kept from before and written, by kind.",
    "penstock_model_cost_total": "What requests cost, in the currency of the prices.",
    "penstock_model_breaker_state": "0 while an endpoint is asked, 1 half open, 2 not asked.",
    "penstock_model_breaker_opened_total": "Times that an endpoint's breaker opened.",
    "penstock_model_first_piece_seconds_total": "Waited for first pieces, of all requests.",
    "penstock_model_answers_reused_total": "Answers that took no request, by how they were had.",
}


class Percentiles(NamedTuple):
    """Of the samples kept: how many, and the 50th, 95th and 99th percentile in milliseconds."""

    samples: int
    p50: float | None
    p95: float | None
    p99: float | None

    def to_dict(self) -> dict[str, float | int | None]:
        """As JSON shows it."""
        return {"samples": self.samples, "p50": self.p50, "p95": self.p95, "p99": self.p99}


def percentiles(samples: Iterable[float]) -> Percentiles:
    """The nearest-rank percentiles of some durations in milliseconds."""
    ordered = sorted(samples)
    if not ordered:
        return Percentiles(0, None, None, None)

    def rank(share: float) -> float:
        return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3)

    return Percentiles(len(ordered), rank(0.50), rank(0.95), rank(0.99))


class FreshnessWindow:
    """The latest samples of time from commit to visible, in milliseconds."""

    def __init__(self, size: int = 4096) -> None:
        self._samples: deque[float] = deque(maxlen=size)
        self.total = 0

    def add(self, milliseconds: Iterable[float]) -> None:
        """Keep samples; clocks of two machines may disagree, so nothing is below zero."""
        for value in milliseconds:
            self._samples.append(max(0.0, value))
            self.total += 1

    def percentiles(self) -> Percentiles:
        """Of the samples kept."""
        return percentiles(self._samples)

    def samples(self) -> list[float]:
        """Those kept, oldest first."""
        return list(self._samples)

    def clear(self) -> None:
        """Begin anew, for a measurement."""
        self._samples.clear()


@dataclass
class SourceMeter:
    """How one source is doing."""

    name: str
    state: Literal["starting", "running", "waiting", "stopped", "failed"] = "starting"
    changes: int = 0
    errors: int = 0
    position: str | None = None
    last_error: str | None = None
    copies: list[dict[str, float | str | None]] = field(default_factory=list)
    """How far each table is that is being copied: stream, rows, rate, and what remains."""
    health: Literal["ok", "warning", "error"] = "ok"
    health_message: str | None = None
    retained_bytes: int | None = None
    retained_budget_bytes: int | None = None
    parked: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WaitingTexts:
    """Texts of one step that wait for their vectors, because the endpoint does not give them.
    Times are microseconds since 1970; what comes behind them in the log is the pipeline's lag."""

    texts: int
    since: int
    tries: int
    next_try: int
    reason: str


@dataclass
class PipelineMeter:
    """How one pipeline is doing on one topic."""

    name: str
    topic: str
    state: Literal["starting", "running", "waiting", "stopped", "failed"] = "starting"
    changes: int = 0
    errors: int = 0
    embedded: int = 0
    reused: int = 0
    dead_letters: int = 0
    position: int = 0
    lag: int = 0
    last_error: str | None = None
    freshness: FreshnessWindow = field(default_factory=FreshnessWindow)
    waiting: dict[int, WaitingTexts] = field(default_factory=dict)
    """By partition, what waits for an endpoint."""

    def postponed(self, partition: int, texts: int, now: int, pause_s: float, reason: str) -> None:
        """A step was put off; ``texts`` of it wait for an endpoint (0: it waits for another)."""
        before = self.waiting.pop(partition, None)
        if texts:
            since, tries = (now, 0) if before is None else (before.since, before.tries)
            next_try = now + round(pause_s * 1e6)
            self.waiting[partition] = WaitingTexts(texts, since, tries + 1, next_try, reason)


@dataclass
class RewriteMeter:
    """How often questions were to be rewritten, and how often that failed."""

    asked: int = 0
    failed: int = 0


@dataclass
class ModelMeter:
    """What one language model was asked, in this process."""

    name: str
    requests: int = 0
    errors: int = 0
    retries: int = 0
    fallbacks: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost: float = 0.0
    first_piece_s: float = 0.0
    breaker: Callable[[], tuple[int, int]] = lambda: (0, 0)
    """0 closed, 1 half open, 2 open; and how often it opened."""


@dataclass
class ReuseMeter:
    """Answers that took no request, in this process."""

    cache: int = 0
    coalesced: int = 0
    similar: int = 0


@dataclass
class Meters:
    """Everything that one process counts; handed to the loops by whoever runs them."""

    sources: dict[str, SourceMeter] = field(default_factory=dict)
    pipelines: dict[tuple[str, str], PipelineMeter] = field(default_factory=dict)
    rewrites: RewriteMeter = field(default_factory=RewriteMeter)

    models: dict[str, ModelMeter] = field(default_factory=dict)
    reuse: ReuseMeter = field(default_factory=ReuseMeter)

    def model(self, name: str) -> ModelMeter:
        """The meter of a language model, made when it is first asked for."""
        return self.models.setdefault(name, ModelMeter(name))

    def source(self, name: str) -> SourceMeter:
        """The meter of a source, made on first use."""
        return self.sources.setdefault(name, SourceMeter(name))

    def clear_freshness(self) -> None:
        """Begin a measurement."""
        for meter in self.pipelines.values():
            meter.freshness.clear()

    def pipeline(self, name: str, topic: str) -> PipelineMeter:
        """The meter of a pipeline on a topic, made on first use."""
        return self.pipelines.setdefault((name, topic), PipelineMeter(name, topic))
