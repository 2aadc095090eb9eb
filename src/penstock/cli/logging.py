"""Events as lines on standard error: for people, or one JSON object for each."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import orjson
import structlog

from penstock import tracing

_STYLES: Final = {"warning": ("\033[33m", "\033[0m"), "error": ("\033[1;31m", "\033[0m")}
Event = MutableMapping[str, Any]


def configure_logging(*, debug: bool, json: bool = False) -> None:
    """Standard output belongs to the command's result."""
    time = (
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
        if json
        else structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            time,
            *((_traced, _object) if json else (_line,)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.WARNING
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    level = logging.DEBUG if debug else logging.CRITICAL
    logging.basicConfig(level=level)
    for handler in logging.getLogger().handlers:
        handler.setLevel(level)  # some libraries set the level of their own logger


def _line(_logger: object, _method: str, event: Event) -> str:
    """``12:00:01 warning  source.waiting source=shop: expected ...``, the sentence last."""
    time, level, name = event.pop("timestamp"), event.pop("level"), event.pop("event")
    reason, trace = event.pop("reason", None), event.pop("exc_info", None)
    facts = "".join(f" {key}={value}" for key, value in event.items())
    ending = f": {reason}" if reason else ""
    if isinstance(trace, BaseException):
        ending += f": {type(trace).__name__}: {trace}"
    style, plain = _STYLES.get(level, ("", "")) if sys.stderr.isatty() else ("", "")
    return f"{time} {style}{level:<7}{plain} {name}{facts}{ending}"


def _traced(_logger: object, _method: str, event: Event) -> Event:
    """Which trace, and which span of it, this happened in; without spans, which request."""
    found = tracing.here()
    if found is not None:
        event["trace_id"] = found.trace
        if found.span is not None:
            event["span_id"] = found.span
    return event


def _object(_logger: object, _method: str, event: Event) -> str:
    """``{"time": ..., "level": ..., "event": ..., ...}``, on one line whatever is in it."""
    error = event.pop("exc_info", None)
    if isinstance(error, BaseException):
        event["error"] = f"{type(error).__name__}: {error}"
    first = {name: event.pop(name) for name in ("time", "level", "event")}
    return orjson.dumps({**first, **event}, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
