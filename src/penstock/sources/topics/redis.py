"""Redis Streams as a transport: a topic is the key of a stream.

A group shows in Redis how far was read, and entries are acknowledged there once the log is durable;
but where reading goes on is in our state: opening sets the group to it. Each read asks in the same
transaction how many entries were ever added, and ours counts those it has passed (the mark beside
the offset), so trimming that was quicker than reading is noticed.

An entry is read as Debezium Server writes it (one field: key and value; or fields ``key`` and
``value``), and any other as a row of its fields.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from penstock.clock import Clock
from penstock.errors import MissingExtraError, PenstockError, SourceError, UnavailableError
from penstock.sources.base import Finding
from penstock.sources.topics.base import Fetched, Places, Slice, gap

if TYPE_CHECKING:
    from redis.asyncio import Redis

logger = structlog.get_logger("penstock.sources.topics.redis")

_CONSUMER: Final = "penstock"
_NOTHING: Final = b"default"  # what Debezium Server writes where there is no key or no value
_SEQUENCE: Final = 1 << 64
_AT_ONCE: Final = 2000
_REFRESH_S: Final = 5.0
_MARKS: Final = frozenset("*?[")


@dataclass(slots=True)
class _Reading:
    """One stream: the last entry that was read, how many were added up to it (None: not known), and
    which were given and are not acknowledged."""

    place: int
    count: int | None
    given: deque[int] = field(default_factory=deque)


class RedisTransport:
    """Reads streams of one Redis database. ``topics`` are keys, or globs of keys."""

    def __init__(
        self,
        url: str,
        topics: Sequence[str],
        *,
        group: str,
        clock: Clock,
        skip_lost: bool = False,
    ) -> None:
        self._url = url
        self._topics = tuple(topics)
        self._group = group
        self._clock = clock
        self._skip_lost = skip_lost
        self._client: Redis | None = None
        self._readings: dict[str, _Reading] = {}
        self._refreshed = 0.0

    async def open(self, after: Places) -> None:
        await self.close()
        self._readings = {}
        self._client = self._connect()
        known = {name.topic: _resume(text) for name, text in after.items()}
        async with _answering():
            found = await self._find()
            for topic, reading in known.items():
                if topic not in found and self._chosen(topic) and not self._skip_lost:
                    raise gap(topic, f"no such stream, after entry {_entry(reading.place)}")
            for topic in found:
                await self._begin(topic, known.get(topic) or _Reading(0, None))

    async def fetch(self, timeout_s: float) -> Fetched:
        client = self._opened()
        async with _answering():
            now = self._clock.now()
            if not self._readings or self._clock.monotonic() - self._refreshed > _REFRESH_S:
                for topic in await self._find():
                    if topic not in self._readings:
                        await self._begin(topic, _Reading(0, None))
            if not self._readings:
                await self._clock.sleep(min(timeout_s, 1.0))
                return Fetched((), now)
            fetched = await self._read()
            if fetched.slices:
                return fetched
            # Nothing there: wait for any entry, as somebody who is in no group.
            places: dict[Any, Any] = {t: _entry(r.place) for t, r in self._readings.items()}
            woken = await client.xread(places, count=1, block=max(1, int(timeout_s * 1000)))
            return await self._read() if woken else fetched

    async def acknowledge(self, after: Places) -> None:
        client = self._client
        if client is None:
            return
        async with _answering():
            for name, offset in after.items():
                reading, last = self._readings.get(name.topic), int(offset, 16)
                done = []
                while reading is not None and reading.given and reading.given[0] <= last:
                    done.append(_entry(reading.given.popleft()))
                if done:
                    await client.xack(name.topic, self._group, *done)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def check(self) -> Sequence[Finding]:
        try:
            self._client = self._connect()
            async with _answering():
                found = await self._find()
                memory: dict[str, Any] = await self._client.info("persistence")
                server: dict[str, Any] = await self._client.info("server")
        except PenstockError as error:
            return [Finding("connection", "error", str(error), "start Redis, or mend `url`")]
        finally:
            await self.close()
        version = str(server.get("redis_version"))
        return [
            Finding("connection", "ok", f"Redis {version}"),
            *self._topics_found(found),
            *_durability(version, memory),
        ]

    def _topics_found(self, found: Sequence[str]) -> list[Finding]:
        missing = [w for w in self._topics if not any(fnmatchcase(topic, w) for topic in found)]
        return [
            Finding(
                "topics", "warning", f"there is no stream {wanted!r} yet", "mend `topics`, or wait"
            )
            for wanted in missing
        ]

    # ------------------------------------------------------------------ reading

    def _connect(self) -> Redis:
        try:
            from redis.asyncio import Redis
        except ImportError as error:
            raise MissingExtraError("reading Redis Streams", "redis") from error
        try:
            return Redis.from_url(self._url, socket_connect_timeout=10.0)
        except ValueError as error:
            raise SourceError(
                f"expected a URL such as redis://host:6379/0, got one that {error}"
            ) from error

    async def _find(self) -> list[str]:
        """The streams that the topics mean now."""
        client = self._opened()
        self._refreshed = self._clock.monotonic()
        found: list[str] = []
        for wanted in self._topics:
            if _MARKS & set(wanted):
                keys = client.scan_iter(match=wanted, count=1000, _type="stream")
                found += [_name(key) async for key in keys]
            elif await client.type(wanted) == b"stream":
                found.append(wanted)
        return sorted(set(found))

    def _chosen(self, topic: str) -> bool:
        return any(topic == wanted or fnmatchcase(topic, wanted) for wanted in self._topics)

    async def _begin(self, topic: str, reading: _Reading) -> None:
        """Set the group to our place, and forget what it still waits for from before that."""
        from redis.exceptions import ResponseError

        client = self._opened()
        self._look_for_gap(topic, reading, await client.xinfo_stream(topic))
        start = _entry(reading.place)
        try:
            await client.xgroup_create(topic, self._group, id=start)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
            await client.xgroup_setid(topic, self._group, id=start)
        while reading.place:
            waiting = await client.xpending_range(topic, self._group, "-", start, 1000)
            if not waiting:
                break
            await client.xack(topic, self._group, *(one["message_id"] for one in waiting))
        self._readings[topic] = reading

    def _look_for_gap(self, topic: str, reading: _Reading, info: Mapping[str, Any]) -> None:
        """Whether entries after our place are gone, or the stream is another one."""
        what = _missing(reading, info)
        if what is None:
            return
        if not self._skip_lost:
            raise gap(topic, f"{what}, after entry {_entry(reading.place)}")
        logger.warning("redis.gap", topic=topic, reason=what)
        reading.count = None
        if _number(info["last-generated-id"]) < reading.place:
            reading.place = 0

    async def _read(self) -> Fetched:
        now = self._clock.now()
        slices: list[Slice] = []
        full = False
        for topic, reading in self._readings.items():
            async with self._opened().pipeline(transaction=True) as both:
                both.xinfo_stream(topic)
                both.xreadgroup(self._group, _CONSUMER, {topic: ">"}, count=_AT_ONCE)
                info, answer = await both.execute()
            self._look_for_gap(topic, reading, info)
            entries = _entries(answer)
            if entries:
                slices.append(_slice(topic, reading, entries, info))
                full = full or len(entries) >= _AT_ONCE
        return Fetched(slices, None if full else now)

    def _opened(self) -> Redis:
        if self._client is None:
            raise UnavailableError("expected a connection to Redis, got one that is closed")
        return self._client


def _resume(text: str) -> _Reading:
    place, _, count = text.partition(" ")
    return _Reading(int(place, 16), int(count) if count else None)


def _missing(reading: _Reading, info: Mapping[str, Any]) -> str | None:
    """What was lost between our place and what the stream holds, in words."""
    if not reading.place:
        return None  # before anything was read, what was trimmed is the past
    newest = _number(info["last-generated-id"])
    if newest < reading.place:
        return f"a stream that ends at {_entry(newest)}"
    removed = _number(info.get("max-deleted-entry-id", b"0-0"))
    if removed > reading.place:
        return f"entry {_entry(removed)} removed"
    first, added = info.get("first-entry"), info.get("entries-added")
    if reading.count is None or added is None or (first and _number(first[0]) <= reading.place):
        return None
    lost = added - reading.count - info["length"]
    return f"{lost} entries trimmed" if lost > 0 else None


def _slice(
    topic: str,
    reading: _Reading,
    entries: Sequence[tuple[bytes, dict[bytes, bytes]]],
    info: Mapping[str, Any],
) -> Slice:
    numbers = [_number(entry) for entry, _ in entries]
    pairs = [_pair(fields) for _, fields in entries]
    added = info.get("entries-added")
    if reading.count is None and added is not None:
        first = info.get("first-entry")
        if first and _number(first[0]) == numbers[0]:  # all that was before is not there any more
            reading.count = added - info["length"]
        elif len(numbers) < _AT_ONCE:
            reading.count = added - len(numbers)
    marks = [""] * len(numbers)
    if reading.count is not None:
        marks = [str(reading.count + i) for i in range(1, len(numbers) + 1)]
        reading.count += len(numbers)
    reading.place = numbers[-1]
    reading.given.extend(numbers)
    return Slice(
        topic,
        0,
        [f"{number:028x}" for number in numbers],
        [number // _SEQUENCE for number in numbers],
        [key for key, _ in pairs],
        [value for _, value in pairs],
        marks=marks,
    )


def _entries(answer: Any) -> Sequence[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of one stream, in either form of the protocol."""
    if not answer:
        return []
    if isinstance(answer, Mapping):
        ((_, (entries,)),) = answer.items()
        return entries  # type: ignore[no-any-return] # the driver has no type for it
    return answer[0][1]  # type: ignore[no-any-return] # the driver has no type for it


def _pair(fields: Mapping[bytes, bytes]) -> tuple[bytes | None, bytes | None]:
    """Key and value in the fields of an entry."""
    if fields.keys() <= {b"key", b"value"} and b"value" in fields:
        key, value = fields.get(b"key"), fields[b"value"]
    elif len(fields) == 1:
        ((key, value),) = fields.items()
    else:
        row = {_name(name): _name(value) for name, value in fields.items()}
        return None, orjson.dumps(row)
    return None if key == _NOTHING else key, None if value == _NOTHING else value


def _name(data: bytes | str) -> str:
    return data if isinstance(data, str) else data.decode("utf-8", "replace")


def _number(entry: bytes | str) -> int:
    time, _, sequence = _name(entry).partition("-")
    return int(time) * _SEQUENCE + int(sequence or 0)


def _entry(number: int) -> str:
    return f"{number // _SEQUENCE}-{number % _SEQUENCE}"


def _durability(version: str, memory: Mapping[str, Any]) -> Iterator[Finding]:
    if not memory.get("aof_enabled"):
        yield Finding(
            "durability",
            "warning",
            "Redis keeps no append-only file: entries of the last seconds may go in a crash",
            "set `appendonly yes`",
        )
    if version.partition(".")[0] in {"5", "6"}:
        yield Finding(
            "retention",
            "warning",
            f"Redis {version} does not say what was trimmed: a gap would not be noticed",
            "use Redis 7 or later",
        )


@asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    """Translates the client's errors."""
    from redis import exceptions

    try:
        yield
    except (exceptions.AuthenticationError, exceptions.NoPermissionError) as error:
        raise SourceError(
            f"expected to be let in by Redis, got {error}: mend the rights"
        ) from error
    except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
        raise UnavailableError(f"expected Redis to answer, got {error}") from error
    except exceptions.ResponseError as error:
        if "NOGROUP" in str(error) or "no such key" in str(error):
            raise UnavailableError(
                f"expected the stream and its group, got {error}: it was made anew"
            ) from error
        raise SourceError(f"expected Redis to answer, got {error}") from error
