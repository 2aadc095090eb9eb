"""Server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

from penstock.serving.api.guard import Send


class EventStream(StreamingResponse):
    """Events as they come, made of ``pieces``. When nobody listens any more, what makes the pieces
    ends too. Proxies shall neither keep the events nor hold them back."""

    def __init__(self, events: AsyncIterator[bytes], pieces: AsyncIterator[Any]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._pieces = pieces

    async def stream_response(self, send: Send) -> None:
        """Send them. A generator that waits between two events is ended here, not by and by."""
        try:
            await super().stream_response(send)
        finally:
            for part in (self.body_iterator, self._pieces):
                close = getattr(part, "aclose", None)
                if close is not None:
                    await close()
