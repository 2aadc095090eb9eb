"""Changes that others push: signed deliveries over HTTP, answered when they are durable."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from penstock.clock import Clock, SystemClock
from penstock.errors import BadRecordError
from penstock.records import Microseconds
from penstock.sources.base import Application, Finding
from penstock.sources.inbox import Bounds, InboxSource
from penstock.sources.webhook.payloads import Payloads
from penstock.sources.webhook.signatures import Forged, secret_bytes, verify

MAX_BYTES: Final = 5_000_000
_DURABLE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A status of HTTP, and a sentence for all that are not 2xx."""

    status: int
    sentence: str = ""
    retry_after_s: int | None = None


class WebhookSource(InboxSource):
    """What is delivered to it, in the order of arrival.

    A delivery is taken if one of its signatures was made with one of the ``secrets`` within five
    minutes, wholly or not at all, and once: its id is kept in the state that is stored with its
    changes. It is answered with 2xx when the log holds it, never before (G2): for the sender, that
    is the acknowledgement. Whatever else is answered, the delivery may be sent again.
    """

    def __init__(
        self,
        name: str,
        payloads: Payloads,
        secrets: Sequence[str],
        *,
        bounds: Bounds | None = None,
        max_bytes: int = MAX_BYTES,
        clock: Clock | None = None,
        heartbeat_s: float = 5.0,
    ) -> None:
        super().__init__(name, bounds or Bounds(), clock or SystemClock(), heartbeat_s)
        self.max_bytes = max_bytes
        self._payloads = payloads
        self._secrets = [secret_bytes(secret) for secret in secrets]

    # ------------------------------------------------------------ the sender's side

    async def deliver(self, stream: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Take a delivery (names of headers in lower case) and say what to answer."""
        signed = verify(self._secrets, headers, body, self._clock.now() / 1e6)
        if isinstance(signed, Forged):
            return Answer(401, signed.reason)
        inbox = self._inbox
        if inbox is None:
            return Answer(503, "expected a source that runs, it is starting or stopped", 2)
        if inbox.knows(signed.id):
            return Answer(200)
        durable = inbox.taken(signed.id)
        if durable is None:
            try:
                news = self._payloads.read(stream, body, self._clock.now())
            except KeyError:
                return Answer(404, f"expected the name of a declared stream, got {stream!r}")
            except BadRecordError as error:
                return Answer(422, error.reason)
            if inbox.full(len(body)):
                return Answer(429, "expected room for this delivery, too many wait for the log", 1)
            durable = inbox.put(signed.id, news, len(body))
        return await self._settled(durable)

    async def _settled(self, durable: asyncio.Future[Microseconds | None]) -> Answer:
        done, _ = await asyncio.wait([durable], timeout=_DURABLE_S)
        if done and durable.result() is not None:
            return Answer(204)
        sentence = "expected the log to take this delivery by now: send it again, under the same id"
        return Answer(503, sentence, 2)

    def application(self) -> Application:
        """See `ReceivingSource.application`."""
        from penstock.sources.webhook.application import WebhookApplication

        return WebhookApplication(self)

    async def check(self) -> Sequence[Finding]:
        """Say what a sender needs to know."""
        count = len(self._secrets)
        found = (
            f"takes deliveries signed with one of {count} secrets"
            if count > 1
            else ("takes deliveries signed with its secret")
        )
        return [Finding(self.name, "ok", f"{found}, of at most {self.max_bytes:,} bytes")]
