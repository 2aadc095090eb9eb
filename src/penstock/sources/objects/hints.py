"""Events of an object store as hints: where to look, never what is there.

They may come late, twice, out of order or not at all: listing again makes the source complete.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol
from urllib.parse import unquote_plus

import structlog

from penstock.errors import RetryableError
from penstock.sources.amazon import AmazonClient
from penstock.sources.objects.bucket import Place

logger = structlog.get_logger("penstock.objects")

_WAIT_S: Final = 10
_PAUSE_S: Final = 5.0
_MOST_WAITING: Final = 200
_DEPTH: Final = 4
_ONE_CALL: Final = 10


def keys_of(body: str, place: Place) -> list[str]:
    """The keys below the place's prefix that a message speaks of; `ValueError` when it is none of
    an object store. S3's own form, also inside SNS, and EventBridge's are understood."""
    return [
        key.removeprefix(place.folder)
        for bucket, key in _objects(_parsed(body), _DEPTH)
        if bucket == place.bucket and key.startswith(place.folder) and not key.endswith("/")
    ]


def _parsed(body: str) -> Any:
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _objects(message: Any, depth: int) -> list[tuple[str, str]]:
    if isinstance(message, dict) and depth:
        if isinstance(message.get("Records"), list):
            found = [_record(record) for record in message["Records"]]
            return [pair for pair in found if pair is not None]
        if isinstance(message.get("Message"), str):
            return _objects(_parsed(message["Message"]), depth - 1)
        detail = message.get("detail")
        if isinstance(detail, dict) and (pair := _pair(detail, quoted=False)) is not None:
            return [pair]
        if message.get("Event") == "s3:TestEvent":
            return []
    raise ValueError("it has neither Records nor an object in it")


def _record(record: Any) -> tuple[str, str] | None:
    part = record.get("s3") if isinstance(record, dict) else None
    return _pair(part, quoted=True) if isinstance(part, dict) else None


def _pair(part: dict[str, Any], *, quoted: bool) -> tuple[str, str] | None:
    bucket, found = part.get("bucket"), part.get("object")
    if not isinstance(bucket, dict) or not isinstance(found, dict):
        return None
    name, key = bucket.get("name"), found.get("key")
    if not isinstance(name, str) or not isinstance(key, str):
        return None
    return name, unquote_plus(key) if quoted else key


class Hints(Protocol):
    """Tells that something happened in a bucket."""

    def start(self, notify: Callable[[], None]) -> None:
        """Begin; call ``notify`` in the running loop whenever `take` may have something."""

    def take(self) -> Sequence[str]:
        """Keys to look at. They count as dealt with when ``done`` is called with a number that
        `number` had after this call."""

    @property
    def number(self) -> int:
        """How many messages were taken, in this life and those before."""

    async def done(self, number: int) -> None:
        """What was taken up to this number is durable: the queue may forget it."""

    async def close(self) -> None:
        """Stop; more than once does no harm."""


class QueueHints:
    """Messages of an SQS queue. One is removed when what it led to is durable; until then, and
    after a crash, the queue gives it again."""

    def __init__(self, url: str, place: Place, *, number: int, client: AmazonClient) -> None:
        self._url = url
        self._place = place
        self._client = client
        self._number = number
        self._waiting: deque[tuple[str, list[str]]] = deque()
        self._open: deque[tuple[int, str]] = deque()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._notify: Callable[[], None] = lambda: None

    @property
    def number(self) -> int:
        """See `Hints.number`."""
        return self._number

    def start(self, notify: Callable[[], None]) -> None:
        """See `Hints.start`."""
        self._notify = notify
        self._task = asyncio.get_running_loop().create_task(self._follow())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._notify()

    async def _follow(self) -> None:
        while True:
            while len(self._waiting) >= _MOST_WAITING:
                self._room.clear()
                await self._room.wait()
            try:
                answer = await self._client.wait(
                    "receive_message",
                    QueueUrl=self._url,
                    MaxNumberOfMessages=_ONE_CALL,
                    WaitTimeSeconds=_WAIT_S,
                )
            except RetryableError as error:  # listing goes on meanwhile, and misses nothing
                logger.warning("objects.queue_unreachable", reason=str(error))
                await asyncio.sleep(_PAUSE_S)
                continue
            for message in answer.get("Messages", ()):
                self._waiting.append((message["ReceiptHandle"], self._keys(message)))
            if self._waiting:
                self._notify()

    def _keys(self, message: dict[str, Any]) -> list[str]:
        try:
            return keys_of(message["Body"], self._place)
        except ValueError as error:
            logger.warning(
                "objects.message_ignored",
                message_id=message.get("MessageId"),
                reason=f"expected an event of an object store: {error}",
            )
            return []

    def take(self) -> Sequence[str]:
        """See `Hints.take`."""
        if self._failure is not None:
            raise self._failure
        keys: dict[str, None] = {}
        while self._waiting and len(keys) < _ONE_CALL * 10:
            receipt, found = self._waiting.popleft()
            self._number += 1
            self._open.append((self._number, receipt))
            keys.update(dict.fromkeys(found))
        self._room.set()
        return list(keys)

    async def done(self, number: int) -> None:
        """See `Hints.done`."""
        receipts: list[str] = []
        while self._open and self._open[0][0] <= number:
            receipts.append(self._open.popleft()[1])
        for start in range(0, len(receipts), _ONE_CALL):
            entries = [
                {"Id": str(place), "ReceiptHandle": receipt}
                for place, receipt in enumerate(receipts[start : start + _ONE_CALL])
            ]
            try:
                await self._client.call("delete_message_batch", QueueUrl=self._url, Entries=entries)
            except RetryableError as error:  # they come again and lead to nothing new
                logger.warning("objects.queue_unreachable", reason=str(error))

    async def close(self) -> None:
        """See `Hints.close`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._client.close()
