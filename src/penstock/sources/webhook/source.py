"""Changes that others push: signed deliveries over HTTP, answered when they are durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from penstock.clock import Clock, SystemClock
from penstock.errors import BadRecordError
from penstock.sources.base import Application, Finding, SourceBatch, State, StateChange
from penstock.sources.webhook.inbox import Bounds, Inbox
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


class WebhookSource:
    """What is delivered to it, in the order of arrival.

    A delivery is taken if one of its signatures was made with one of the ``secrets`` within five
    minutes, wholly or not at all, and once: its id is kept in the state that is stored with its
    changes. It is answered with 2xx when the log holds it, never before (G2): for the sender, that
    is the acknowledgement. Whatever else is answered, the delivery may be sent again.

    ``as_of`` means: everything that was delivered by then. What the sender still holds back, nobody
    but the sender knows.
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
        self.name = name
        self.max_bytes = max_bytes
        self._payloads = payloads
        self._secrets = [secret_bytes(secret) for secret in secrets]
        self._bounds = bounds or Bounds()
        self._clock = clock or SystemClock()
        self._heartbeat_s = heartbeat_s
        self._inbox: Inbox | None = None

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

    async def _settled(self, durable: asyncio.Future[bool]) -> Answer:
        done, _ = await asyncio.wait([durable], timeout=_DURABLE_S)
        if done and durable.result():
            return Answer(204)
        sentence = "expected the log to take this delivery by now: send it again, under the same id"
        return Answer(503, sentence, 2)

    def application(self) -> Application:
        """See `ReceivingSource.application`."""
        from penstock.sources.webhook.application import WebhookApplication

        return WebhookApplication(self)

    # ------------------------------------------------------------ the loop's side

    async def read(self, state: State) -> AsyncIterator[SourceBatch]:
        """See `Source.read`."""
        inbox = self._inbox = Inbox(state, self._bounds)
        beat = self._clock.now()
        try:
            while True:
                inbox.wake.clear()
                now = self._clock.now()
                batch = inbox.batch(now)
                if batch is not None:
                    yield batch
                    continue
                if now >= beat:
                    beat = now + int(self._heartbeat_s * 1e6)  # type: ignore[assignment]
                    yield SourceBatch((), {}, now)
                    continue
                await self._wait(inbox, (beat - now) / 1e6)
        finally:
            inbox.abandon()
            if self._inbox is inbox:
                self._inbox = None

    async def _wait(self, inbox: Inbox, seconds: float) -> None:
        timer = asyncio.ensure_future(self._clock.sleep(seconds))
        woken = asyncio.ensure_future(inbox.wake.wait())
        try:
            await asyncio.wait([timer, woken], return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            woken.cancel()
            await asyncio.gather(timer, woken, return_exceptions=True)

    async def acknowledge(self, state: StateChange) -> None:
        """Senders whose deliveries are durable get their answer."""
        number = state.get("deliveries")
        if self._inbox is not None and number is not None:
            self._inbox.settle(int(number))

    async def close(self) -> None:
        """Senders that wait are told to send again."""
        if self._inbox is not None:
            self._inbox.abandon()
            self._inbox = None

    async def check(self) -> Sequence[Finding]:
        """Say what a sender needs to know."""
        count = len(self._secrets)
        found = (
            f"takes deliveries signed with one of {count} secrets"
            if count > 1
            else ("takes deliveries signed with its secret")
        )
        return [Finding(self.name, "ok", f"{found}, of at most {self.max_bytes:,} bytes")]
