"""What is told of the inside."""

from __future__ import annotations

from penstock.settings.base import Section


class TelemetrySettings(Section):
    """Where spans go. Metrics are at ``/metrics`` in any case."""

    otlp: str | None = None
    """The address of an OpenTelemetry collector (OTLP over HTTP) for spans, such as
    ``http://localhost:4318/v1/traces``; needs the extra ``otel``. Headers are taken from
    ``OTEL_EXPORTER_OTLP_HEADERS``. Without it nothing is measured."""
