"""Prometheus metrics, made from the meters when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from penstock.telemetry import METRICS, Meters

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MeterCollector(Collector):
    """Reads the meters of this process."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    def collect(self) -> Iterator[Metric]:
        """All families that `METRICS` names."""
        yield from self._sources()
        yield from self._health()
        yield from self._pipelines()
        freshness = GaugeMetricFamily(
            "penstock_freshness_seconds",
            METRICS["penstock_freshness_seconds"],
            labels=["pipeline", "topic", "quantile"],
        )
        for meter in self._meters.pipelines.values():
            found = meter.freshness.percentiles()
            for quantile, value in (("0.5", found.p50), ("0.95", found.p95), ("0.99", found.p99)):
                if value is not None:
                    freshness.add_metric([meter.name, meter.topic, quantile], value / 1000)
        yield freshness
        rewrites = self._meters.rewrites
        for name, count in (
            ("penstock_rewrites_total", rewrites.asked),
            ("penstock_rewrites_failed_total", rewrites.failed),
        ):
            family = _counter(name, [])
            family.add_metric([], count)
            yield family
        yield from self._models()

    def _sources(self) -> Iterator[Metric]:
        changes = _counter("penstock_source_changes_total", ["source"])
        errors = _counter("penstock_source_errors_total", ["source"])
        up, failed = _gauge("penstock_source_up"), _gauge("penstock_source_failed")
        parked = _gauge("penstock_source_parked_tables")
        for meter in self._meters.sources.values():
            changes.add_metric([meter.name], meter.changes)
            errors.add_metric([meter.name], meter.errors)
            up.add_metric([meter.name], float(meter.state == "running"))
            failed.add_metric([meter.name], float(meter.state == "failed"))
            parked.add_metric([meter.name], len(meter.parked))
        yield from (changes, errors, up, failed, parked)

    def _health(self) -> Iterator[Metric]:
        health = _gauge("penstock_source_health")
        retained = _gauge("penstock_source_retained_bytes")
        budget = _gauge("penstock_source_retained_budget_bytes")
        for meter in self._meters.sources.values():
            health.add_metric([meter.name], ("ok", "warning", "error").index(meter.health))
            if meter.retained_bytes is not None:
                retained.add_metric([meter.name], meter.retained_bytes)
            if meter.retained_budget_bytes is not None:
                budget.add_metric([meter.name], meter.retained_budget_bytes)
        yield from (health, retained, budget)

    def _pipelines(self) -> Iterator[Metric]:
        labels = ["pipeline", "topic"]
        changes = _counter("penstock_pipeline_changes_total", labels)
        errors = _counter("penstock_pipeline_errors_total", labels)
        embedded = _counter("penstock_chunks_embedded_total", labels)
        reused = _counter("penstock_chunks_reused_total", labels)
        letters = _counter("penstock_dead_letters_total", labels)
        lag = GaugeMetricFamily(
            "penstock_pipeline_lag_records", METRICS["penstock_pipeline_lag_records"], labels=labels
        )
        for meter in self._meters.pipelines.values():
            names = [meter.name, meter.topic]
            changes.add_metric(names, meter.changes)
            errors.add_metric(names, meter.errors)
            embedded.add_metric(names, meter.embedded)
            reused.add_metric(names, meter.reused)
            letters.add_metric(names, meter.dead_letters)
            lag.add_metric(names, meter.lag)
        yield from (changes, errors, embedded, reused, letters, lag)

    def _models(self) -> Iterator[Metric]:
        names = ["requests", "errors", "retries", "fallbacks"]
        counted = {name: _counter(f"penstock_model_{name}_total", ["model"]) for name in names}
        tokens = _counter("penstock_model_tokens_total", ["model", "kind"])
        cost = _counter("penstock_model_cost_total", ["model"])
        waited = _counter("penstock_model_first_piece_seconds_total", ["model"])
        opened = _counter("penstock_model_breaker_opened_total", ["model"])
        state = GaugeMetricFamily(
            "penstock_model_breaker_state",
            METRICS["penstock_model_breaker_state"],
            labels=["model"],
        )
        for meter in self._meters.models.values():
            for name, family in counted.items():
                family.add_metric([meter.name], getattr(meter, name))
            tokens.add_metric([meter.name, "read"], meter.input_tokens)
            tokens.add_metric([meter.name, "kept"], meter.cached_tokens)
            tokens.add_metric([meter.name, "written"], meter.output_tokens)
            cost.add_metric([meter.name], meter.cost)
            waited.add_metric([meter.name], meter.first_piece_s)
            now, times = meter.breaker()
            state.add_metric([meter.name], now)
            opened.add_metric([meter.name], times)
        reused = _counter("penstock_model_answers_reused_total", ["how"])
        reused.add_metric(["cache"], self._meters.reuse.cache)
        reused.add_metric(["coalesced"], self._meters.reuse.coalesced)
        reused.add_metric(["similar"], self._meters.reuse.similar)
        yield from (*counted.values(), tokens, cost, waited, opened, state, reused)


def _counter(name: str, labels: list[str]) -> CounterMetricFamily:
    return CounterMetricFamily(name, METRICS[name], labels=labels)  # type: ignore[index]


def _gauge(name: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, METRICS[name], labels=["source"])  # type: ignore[index]


def render(meters: Meters) -> bytes:
    """The page that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MeterCollector(meters))
    return generate_latest(registry)
