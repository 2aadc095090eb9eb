"""NATS JetStream as a transport: a topic is the name of a stream.

A durable consumer shows in NATS how far was read, and is told once the log is durable; but where
reading goes on is in our state: opening makes the consumer anew, from there. Messages have no key,
so tables without Debezium's ``before`` in deletes need ``format: json`` with a ``key``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

import structlog

from penstock.clock import Clock
from penstock.errors import MissingExtraError, PenstockError, SourceError, UnavailableError
from penstock.records import Microseconds
from penstock.sources.base import Finding
from penstock.sources.topics.base import NO_HEADERS, Fetched, Places, Slice, gap

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

logger = structlog.get_logger("penstock.sources.topics.nats")

_AT_ONCE: Final = 500
_PENDING: Final = 20_000
_ANSWER_S: Final = 10.0
_WAIT_S: Final = 600.0
_HOUR_S: Final = 3600.0
_REFRESH_S: Final = 5.0


@dataclass(slots=True)
class _Reading:
    """One stream that is read: how far, what was given and is not acknowledged, what waits."""

    stream: str
    reached: int
    subscription: JetStreamContext.PullSubscription
    given: deque[tuple[int, Msg]] = field(default_factory=deque)
    fetching: asyncio.Task[list[Msg]] | None = None


class NatsTransport:
    """Reads JetStream streams of one NATS account. ``topics`` are names of streams or globs."""

    def __init__(
        self,
        url: str,
        topics: Sequence[str],
        *,
        group: str,
        clock: Clock,
        subjects: str | None = None,
        skip_lost: bool = False,
    ) -> None:
        self._url = url
        self._topics = tuple(topics)
        self._group = group.replace(".", "_")
        self._clock = clock
        self._subjects = subjects
        self._skip_lost = skip_lost
        self._client: Client | None = None
        self._readings: dict[str, _Reading] = {}
        self._refreshed = 0.0

    async def open(self, after: Places) -> None:
        await self.close()
        known = {name.topic: int(offset, 16) for name, offset in after.items()}
        async with _answering():
            self._client = await self._connect()
            found = await self._find()
            for topic, place in known.items():
                if topic not in found and self._chosen(topic) and not self._skip_lost:
                    raise gap(topic, f"no such stream, after message {place}")
            for topic in found:
                self._readings[topic] = await self._begin(topic, known.get(topic, 0))
            self._refreshed = self._clock.monotonic()

    async def fetch(self, timeout_s: float) -> Fetched:
        async with _answering():
            await self._refresh()
            deadline = self._clock.monotonic() + timeout_s
            while True:
                slices = [s for r in self._readings.values() for s in await self._taken(r)]
                if slices:
                    return Fetched(slices)
                complete = await self._complete()
                left = deadline - self._clock.monotonic()
                if left <= 0 or not self._readings:
                    if not self._readings:
                        await self._clock.sleep(min(timeout_s, 1.0))
                    return Fetched((), complete)
                await self._wait(left)

    async def acknowledge(self, after: Places) -> None:
        async with _answering():
            for name, offset in after.items():
                reading, last = self._readings.get(name.topic), int(offset, 16)
                done: Msg | None = None
                while reading is not None and reading.given and reading.given[0][0] <= last:
                    _, done = reading.given.popleft()
                if done is not None:
                    await done.ack_sync()  # and with it all before it

    async def close(self) -> None:
        client, self._client = self._client, None
        readings, self._readings = self._readings, {}
        tasks = [r.fetching for r in readings.values() if r.fetching is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if client is not None:
            await client.close()

    async def check(self) -> Sequence[Finding]:
        try:
            async with _answering():
                self._client = await self._connect()
                found = await self._find()
                version = self._client.connected_server_version
        except PenstockError as error:
            return [Finding("connection", "error", str(error), "start NATS, or mend `url`")]
        finally:
            await self.close()
        missing = [w for w in self._topics if not any(fnmatchcase(topic, w) for topic in found)]
        return [
            Finding("connection", "ok", f"NATS {version} with JetStream"),
            *(
                Finding(
                    "topics", "warning", f"there is no stream {w!r} yet", "mend `topics`, or wait"
                )
                for w in missing
            ),
        ]

    # ------------------------------------------------------------------ beginning

    async def _connect(self) -> Client:
        try:
            from nats.aio.client import Client
        except ImportError as error:
            raise MissingExtraError("reading NATS JetStream", "nats") from error

        async def heard(error: Exception) -> None:
            logger.info("nats.error", reason=str(error))

        client = Client()
        connecting = client.connect(
            self._url,
            allow_reconnect=False,  # the loop opens again, from what is durable
            connect_timeout=_ANSWER_S,  # type: ignore[arg-type] # seconds, fractions are fine
            error_cb=heard,
            max_reconnect_attempts=1,
            reconnect_time_wait=0.2,  # type: ignore[arg-type] # as above
        )
        async with AsyncExitStack() as stack:
            stack.push_async_callback(client.close)
            await asyncio.wait_for(connecting, _ANSWER_S)
            stack.pop_all()
        return client

    async def _find(self) -> list[str]:
        infos = await self._jetstream().streams_info()
        names = [info.config.name for info in infos if info.config.name]
        return sorted(name for name in names if self._chosen(name))

    async def _refresh(self) -> None:
        """Begin with streams that were made meanwhile."""
        now = self._clock.monotonic()
        if self._readings and now - self._refreshed < _REFRESH_S:
            return
        self._refreshed = now
        for topic in await self._find():
            if topic not in self._readings:
                self._readings[topic] = await self._begin(topic, 0)

    def _chosen(self, topic: str) -> bool:
        return any(topic == wanted or fnmatchcase(topic, wanted) for wanted in self._topics)

    async def _begin(self, stream: str, place: int) -> _Reading:
        from nats.js import api
        from nats.js.errors import NotFoundError

        jetstream = self._jetstream()
        place = await self._checked(stream, place)
        with suppress(NotFoundError):
            await jetstream.delete_consumer(stream, self._group)
        config = api.ConsumerConfig(
            durable_name=self._group,
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=place + 1,
            ack_policy=api.AckPolicy.ALL,
            ack_wait=_HOUR_S,
            max_ack_pending=_PENDING,
            filter_subject=self._subjects,
        )
        await jetstream.add_consumer(stream, config)
        subscription = await jetstream.pull_subscribe_bind(consumer=self._group, stream=stream)
        return _Reading(stream, place, subscription)

    async def _checked(self, stream: str, place: int) -> int:
        """The place to go on from, when what comes after it is still there."""
        state = (await self._jetstream().stream_info(stream)).state
        if not place:
            return 0
        if state.last_seq < place:
            what = f"a stream that ends at {state.last_seq}, after message {place}"
        elif state.first_seq > place + 1:
            what = f"messages up to {state.first_seq - 1} removed, after message {place}"
        else:
            return place
        if not self._skip_lost:
            raise gap(stream, what)
        logger.warning("nats.gap", stream=stream, reason=what)
        return 0

    # ------------------------------------------------------------------ reading

    def _fetching(self, reading: _Reading) -> asyncio.Task[list[Msg]]:
        if reading.fetching is None:
            reading.fetching = asyncio.create_task(_next(reading.subscription))
        return reading.fetching

    async def _wait(self, timeout_s: float) -> None:
        """Until any stream has something, the time is over, or the connection is."""
        tasks = [self._fetching(reading) for reading in self._readings.values()]
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self._client is None or not self._client.is_connected:
            raise UnavailableError("expected NATS to answer, but the connection is closed")

    async def _taken(self, reading: _Reading) -> list[Slice]:
        task = self._fetching(reading)
        await asyncio.sleep(0)
        if not task.done():
            return []
        reading.fetching = None
        fresh = [
            (message.metadata.sequence.stream, message)
            for message in task.result()
            if message.metadata.sequence.stream > reading.reached  # or it was sent again
        ]
        if not fresh:
            return []
        if self._subjects is None and fresh[0][0] > reading.reached + 1 and reading.reached:
            await self._checked(reading.stream, reading.reached)
        reading.reached = fresh[-1][0]
        reading.given.extend(fresh)
        return list(_slices(reading.stream, fresh))

    async def _complete(self) -> Microseconds | None:
        """Now, if everything that the streams hold by now was taken."""
        now = self._clock.now()
        for reading in self._readings.values():
            info = await self._jetstream().consumer_info(reading.stream, self._group)
            delivered = info.delivered.stream_seq if info.delivered else 0
            if info.num_pending or delivered > reading.reached:
                return None
        return now

    def _jetstream(self) -> JetStreamContext:
        if self._client is None:
            raise UnavailableError("expected a connection to NATS, got one that is closed")
        return self._client.jetstream(timeout=_ANSWER_S)


async def _next(subscription: JetStreamContext.PullSubscription) -> list[Msg]:
    """The next messages; none after a long time without."""
    try:
        return await subscription.fetch(_AT_ONCE, timeout=_WAIT_S)
    except TimeoutError:
        return []


def _slices(stream: str, messages: Sequence[tuple[int, Msg]]) -> Sequence[Slice]:
    """One slice for each run of messages with one subject."""
    runs: list[list[tuple[int, Msg]]] = []
    for one in messages:
        if runs and runs[-1][-1][1].subject == one[1].subject:
            runs[-1].append(one)
        else:
            runs.append([one])
    return [
        Slice(
            stream,
            0,
            [f"{sequence:016x}" for sequence, _ in run],
            [int(message.metadata.timestamp.timestamp() * 1000) for _, message in run],
            [None] * len(run),
            [message.data or None for _, message in run],
            [_headers(message) for _, message in run],
            subject=run[0][1].subject,
        )
        for run in runs
    ]


def _headers(message: Msg) -> Sequence[tuple[str, bytes | None]]:
    if not message.headers:
        return NO_HEADERS
    return [(name, value.encode()) for name, value in message.headers.items()]


@asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    """Translates the client's errors."""
    from nats import errors
    from nats.js import errors as jetstream

    try:
        yield
    except (errors.AuthorizationError, jetstream.ServiceUnavailableError) as error:
        raise SourceError(
            f"expected to be let in by NATS with JetStream, got {error}: mend the rights"
        ) from error
    except (errors.Error, TimeoutError, OSError) as error:
        raise UnavailableError(f"expected NATS to answer, got {error!r}") from error
