"""Streams of bytes as events: server-sent events, and Amazon's event streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import orjson

from penstock.errors import MissingExtraError, RetryableError
from penstock.models.endpoint import malformed

DONE: Final = b"[DONE]"
_MAX_FRAME: Final = 4 * 1024 * 1024
_MAX_LINE_BYTES: Final = 1024 * 1024
_WAIT: Final = {
    "throttlingException": 1.0,
    "serviceUnavailableException": 1.0,
    "modelNotReadyException": 1.0,
}


async def sse(parts: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any] | None]:
    """The JSON objects of a stream of server-sent events; None is OpenAI's mark of the end."""
    async for line in lines(parts):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == DONE:
            yield None
            return
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise malformed(f"expected JSON in the stream, got {data[:200]!r}") from error
        if isinstance(event, dict):
            yield event


async def amazon(parts: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any] | None]:
    """Events of Amazon's binary form, each as ``{type: payload}``."""
    try:
        from botocore.eventstream import EventStreamBuffer, ParserError
    except ImportError as error:
        raise MissingExtraError("Amazon Bedrock", "aws") from error

    buffer, waiting = EventStreamBuffer(), 0
    async for part in parts:
        buffer.add_data(part)
        waiting += len(part)
        try:
            for message in buffer:
                waiting = 0
                yield _event(message.headers, message.payload)
        except ParserError as error:
            raise malformed(f"expected frames of an event stream, got others: {error}") from error
        if waiting > _MAX_FRAME:
            raise malformed(f"expected frames of at most {_MAX_FRAME} bytes in the stream")


def _event(headers: dict[str, Any], payload: bytes) -> dict[str, Any]:
    try:
        said = orjson.loads(payload or b"{}")
    except orjson.JSONDecodeError as error:
        raise malformed(f"expected JSON in a frame, got {payload[:200]!r}") from error
    if headers.get(":message-type") == "event":
        return {str(headers.get(":event-type", "")): said}
    kind = str(headers.get(":exception-type") or headers.get(":error-code") or "error")
    message = said.get("message") if isinstance(said, dict) else None
    raise RetryableError(
        f"Bedrock said in the stream: {kind}: {str(message)[:300]}",
        retry_after_s=_WAIT.get(kind),
        malformed=kind not in _WAIT,
    )


async def lines(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines of a stream, however it is cut into pieces."""
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            yield line
        if len(rest) > _MAX_LINE_BYTES:
            said = f"expected lines of at most {_MAX_LINE_BYTES} bytes in the stream"
            raise RetryableError(said, malformed=True)
    if rest:
        yield rest
