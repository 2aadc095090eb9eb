"""A sender of webhooks, for tests: it keeps what was not answered with 2xx, and sends it again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Protocol

from penstock.clock import Clock, SystemClock
from penstock.sources.webhook.signatures import secret_bytes, sign

SECRET = "whsec_" + "c2VjcmV0LW9mLXRoZS10ZXN0cy0wMDAx"


def signed_headers(
    message_id: str, body: bytes, *, now_s: float, secrets: Sequence[str] = (SECRET,)
) -> dict[str, str]:
    """The headers of an honest delivery, with one signature for each secret."""
    timestamp = str(int(now_s))
    signatures = [sign(secret_bytes(secret), message_id, timestamp, body) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(signatures),
    }


class Receiver(Protocol):
    """What deliveries go to."""

    async def deliver(self, stream: str, headers: Mapping[str, str], body: bytes) -> Any:
        """The answer has a ``status``."""


class Outbox:
    """Deliveries in order. A sender that does not wait for one answer before the next delivery, as
    senders with many workers do, but begins them in order."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._kept: dict[str, tuple[str, bytes]] = {}
        self._number = 0
        self._changed = asyncio.Event()

    def add(self, stream: str, payload: Any) -> str:
        """One more to send; returns its id."""
        self._number += 1
        message_id = f"msg_{self._number:06d}"
        self._kept[message_id] = (stream, json.dumps(payload).encode())
        self._changed.set()
        return message_id

    async def send_to(self, receiver: Receiver) -> None:
        """Deliver, for ever, until cancelled."""
        sending: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                self._changed.clear()
                for message_id in list(self._kept):
                    if message_id not in sending:
                        deliver = self._deliver(receiver, message_id, sending)
                        sending[message_id] = asyncio.create_task(deliver)
                await self._changed.wait()
        finally:
            tasks = list(sending.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _deliver(
        self, receiver: Receiver, message_id: str, sending: dict[str, asyncio.Task[None]]
    ) -> None:
        stream, body = self._kept[message_id]
        headers = signed_headers(message_id, body, now_s=self._clock.now() / 1e6)
        answer = await receiver.deliver(stream, headers, body)
        if 200 <= answer.status < 300:
            del self._kept[message_id]
        else:
            assert answer.status in {429, 503}, answer
            await asyncio.sleep(0.01)
            sending.clear()  # all that is left is sent again, in order
            self._changed.set()


def mutated(headers: Mapping[str, str], body: bytes, seed: int) -> tuple[dict[str, str], bytes]:
    """The same delivery with something changed that its signature speaks for (or the signature
    itself). Of use where none may be taken."""
    draw = Random(seed)
    other, changed = dict(headers), body
    while (other, changed) == (headers, body):
        name = draw.choice(("webhook-id", "webhook-timestamp", "webhook-signature", "body"))
        if name == "body":
            changed = _changed(body, draw)
        elif draw.random() < 0.05:
            other.pop(name, None)
        else:
            other[name] = _changed(other.get(name, "").encode(), draw).decode("latin-1")
        if headers["webhook-signature"] in other.get("webhook-signature", "").split(" "):
            # Another signature beside the right one is what a sender does who rotates secrets.
            other["webhook-signature"] = headers["webhook-signature"]
    return other, changed


def _changed(text: bytes, draw: Random) -> bytes:
    place = draw.randrange(len(text) + 1)
    kind = draw.randrange(5)
    if kind == 0:
        return text[:place] + bytes([draw.randrange(32, 127)]) + text[place:]
    if kind == 1:
        return text[:place] + text[place + 1 :]
    if kind == 2 and place < len(text):
        return text[:place] + bytes([text[place] ^ (1 << draw.randrange(7))]) + text[place + 1 :]
    if kind == 3:
        return text[place:] + text[:place]
    return text + text[place:] if draw.random() < 0.5 else text[:place]
