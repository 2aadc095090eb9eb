"""Spans for OpenTelemetry. Needs the extra ``otel``, and is imported only where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from penstock import tracing
from penstock.errors import MissingExtraError
from penstock.tracing import Attribute, Here

if TYPE_CHECKING:
    from opentelemetry import trace as otel
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter


class _OtelSpan:
    def __init__(self, span: otel.Span) -> None:
        self._span = span

    def set(self, **attributes: Attribute) -> None:
        self._span.set_attributes(_named(attributes))

    def end(self) -> None:
        self._span.end()


class OtelTracer:
    """Measures with OpenTelemetry."""

    def __init__(self, tracer: otel.Tracer) -> None:
        self._tracer = tracer

    def span(
        self, name: str, attributes: Mapping[str, Attribute]
    ) -> AbstractContextManager[_OtelSpan]:
        """See `penstock.tracing.Tracer`."""
        return self._opened(name, attributes)

    def begin(self, name: str, attributes: Mapping[str, Attribute]) -> _OtelSpan:
        """See `penstock.tracing.Tracer`."""
        return _OtelSpan(self._tracer.start_span(name, attributes=_named(attributes)))

    def here(self) -> Here | None:
        """See `penstock.tracing.Tracer`."""
        from opentelemetry import trace as otel

        found = otel.get_current_span().get_span_context()
        if not found.is_valid:
            return None
        return Here(f"{found.trace_id:032x}", f"{found.span_id:016x}")

    @contextmanager
    def _opened(self, name: str, attributes: Mapping[str, Attribute]) -> Iterator[_OtelSpan]:
        with self._tracer.start_as_current_span(name, attributes=_named(attributes)) as span:
            yield _OtelSpan(span)


class Tracing:
    """Sends spans to ``endpoint`` (OTLP over HTTP) from `start` to `stop`. ``exporter`` stands in
    for it in tests."""

    def __init__(
        self, endpoint: str, *, project: str, version: str, exporter: SpanExporter | None = None
    ) -> None:
        self._endpoint = endpoint
        self._about = {
            "service.name": "penstock",
            "service.version": version,
            "penstock.project": project,
        }
        self._exporter = exporter
        self._provider: TracerProvider | None = None

    def start(self) -> None:
        """Raises `MissingExtraError` without the extra ``otel``."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        except ImportError as error:
            raise MissingExtraError("telemetry.otlp", "otel") from error
        provider = TracerProvider(resource=Resource.create(self._about), shutdown_on_exit=False)
        if self._exporter is None:
            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(self._endpoint)))
        else:
            provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._provider = provider
        tracing.trace(OtelTracer(provider.get_tracer("penstock", self._about["service.version"])))

    def stop(self) -> None:
        """Send what is left, for a moment at most."""
        if self._provider is not None:
            tracing.trace(None)
            self._provider.force_flush(2000)
            self._provider.shutdown()
            self._provider = None


def _named(attributes: Mapping[str, Attribute]) -> dict[str, str | int | float | bool]:
    return {
        name.replace("__", "."): value for name, value in attributes.items() if value is not None
    }
