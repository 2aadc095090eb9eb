"""Where time goes: spans around the steps of capture, pipelines, retrieval and model calls.

Nothing is measured unless somebody has asked for it with `trace`; until then a span is one shared
object that does nothing. Standard library only: what sends spans away is made elsewhere
(``penstock.operate.otel``).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self, TypeAlias

Attribute: TypeAlias = str | int | float | bool | None


REQUEST: ContextVar[str | None] = ContextVar("penstock_request", default=None)
"""Which trace the request at work belongs to, where a request is."""


class Here(NamedTuple):
    """A trace and a span of it, in the hexadecimal digits of W3C's trace context."""

    trace: str
    span: str | None = None


class Span(Protocol):
    """One step that takes time."""

    def set(self, **attributes: Attribute) -> None:
        """What is known only later. Names are written with ``__`` for a dot; None is left out."""


class OpenSpan(Span, Protocol):
    """A span that is ended by hand."""

    def end(self) -> None:
        """It took until now."""


class Tracer(Protocol):
    """What measures."""

    def begin(self, name: str, attributes: Mapping[str, Attribute]) -> OpenSpan:
        """A span that has no parts, for steps that give something out on their way."""

    def here(self) -> Here | None:
        """The span that is open around the caller."""

    def span(self, name: str, attributes: Mapping[str, Attribute]) -> AbstractContextManager[Span]:
        """A span while the block runs; those that begin in it are its parts. An error that leaves
        the block is told of it."""


class _Nothing:
    """The span of all that is not measured."""

    def set(self, **attributes: Attribute) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


_NOTHING: Final = _Nothing()
_tracer: Tracer | None = None


def trace(tracer: Tracer | None) -> None:
    """Measure with this from now on; None: nothing."""
    global _tracer  # noqa: PLW0603 - the one switch of the process, off unless the project set it
    _tracer = tracer


def here() -> Here | None:
    """Where the caller is: in a span, else in a request, else nowhere."""
    found = None if _tracer is None else _tracer.here()
    if found is not None:
        return found
    request = REQUEST.get()
    return None if request is None else Here(request)


def span(name: str, **attributes: Attribute) -> AbstractContextManager[Span]:
    """A span around a block that holds no ``yield``: the block's parts are found by the context,
    which a generator would take along."""
    if _tracer is None:
        return _NOTHING
    return _tracer.span(name, attributes)


def model_call(operation: str, model: str, **attributes: Attribute) -> AbstractContextManager[Span]:
    """A span of a call to a model, by the conventions for generative AI; ``model`` is
    ``provider/name``, as models are called here."""
    if _tracer is None:
        return _NOTHING
    name, named = _named(operation, model)
    return _tracer.span(name, {**named, **attributes})


def begin_model_call(operation: str, model: str) -> OpenSpan:
    """The same for a call whose answer comes in pieces: end it by hand."""
    if _tracer is None:
        return _NOTHING
    return _tracer.begin(*_named(operation, model))


def _named(operation: str, model: str) -> tuple[str, dict[str, Attribute]]:
    provider, slash, name = model.partition("/")
    if not slash:
        provider, name = "penstock", model
    return f"{operation} {name}", {
        "gen_ai__operation__name": operation,
        "gen_ai__provider__name": provider,
        "gen_ai__request__model": name,
    }
