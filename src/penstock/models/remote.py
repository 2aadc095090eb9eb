"""An embedder behind an endpoint, whatever the endpoint does.

Every answer is checked: as many vectors as texts, each of the expected length, finite and not zero,
of one model (see `penstock.models.guard`). What has come is kept until the whole call has it, so a
failing request costs no other request its vectors. A request that fails where others succeed is
divided until the text that is at fault stands alone: that one is a `BadRecordError`, the rest go
on. Whether it is the text or the endpoint is asked of the endpoint, with a text that is known to be
good.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

import numpy as np
import stamina
from numpy.typing import NDArray

from penstock.clock import Clock, SystemClock
from penstock.errors import BadRecordError, FatalError, PenstockError, RetryableError
from penstock.models.base import Priority, Role, Vectors
from penstock.models.guard import PROBE, ModelGuard
from penstock.models.limits import Ledger, Limits, References, Use
from penstock.models.matrices import unit_vectors

_BYTES_PER_TOKEN: Final = 3
_KEPT_BYTES: Final = 64 * 1024 * 1024
_TRIES: Final = 3
_PAUSE_S: Final = 0.2
_REFUSED_FOR_S: Final = 600.0
_SHORT_WAIT_S: Final = 2.0
_LOST: Final = frozenset({401, 403, 404})
"""What a wrong setting is answered with, and also a gateway that is being exchanged."""
_LOST_WAIT_S: Final = 60.0
_SUSPECT: Final = frozenset({408, 424, 500, 502, 504})
"""Answers that a single text may be the reason of."""


class Answered(NamedTuple):
    """What an endpoint gave: an embedding for each text in order, the model that it says it used,
    and the tokens that it counted."""

    embeddings: Sequence[object]
    model: str | None = None
    tokens: int | None = None


class Service(Protocol):
    """How one kind of endpoint is asked."""

    @property
    def url(self) -> str: ...

    async def ask(self, texts: Sequence[str], role: Role) -> Answered:
        """Send one request. Errors by consequence; a malformed answer is a `RetryableError` with
        the fact ``malformed``, a time limit one with ``timeout``."""

    async def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the vectors and the requests of a model are like. ``gives`` is the length of what the
    endpoint gives where that is more than ``dimensions``: the rest is cut off (Matryoshka)."""

    name: str
    dimensions: int
    max_tokens: int
    batch: int
    concurrency: int = 4
    gives: int | None = None
    batch_tokens: int = 100_000
    prefixes: Mapping[Role, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Care:
    """What an endpoint is used with: limits and who counts, and where it is kept what its model
    gave at first (None: nothing is compared)."""

    limits: Limits = field(default_factory=Limits)
    ledger: Ledger | None = None
    references: References | None = None
    clock: Clock = field(default_factory=SystemClock)


NO_CARE: Final = Care()


@dataclass(slots=True)
class _Call:
    """What one call has found. ``stopped``: the endpoint is down, what has not begun need not."""

    found: dict[str, NDArray[np.float32]]
    priority: Priority
    stopped: bool = False


class RemoteEmbedder:
    """Vectors from a `Service`, within limits. ``concurrency`` requests may be under way for loads
    and as many for live changes; a question never waits for them and is tried again at once."""

    def __init__(
        self,
        service: Service,
        shape: Shape,
        *,
        care: Care = NO_CARE,
    ) -> None:
        self.name = shape.name
        self.dimensions = shape.dimensions
        self.max_tokens = shape.max_tokens
        self._service = service
        self._shape = shape
        self._ledger = care.ledger
        self._clock = care.clock
        self._guard: ModelGuard | None = None
        if care.references is not None:
            self._guard = ModelGuard(shape.name, care.references, care.clock)
        self._turns = {p: asyncio.Semaphore(shape.concurrency) for p in ("live", "bulk")}
        self._batch_tokens = min(shape.batch_tokens, care.limits.batch_tokens or 1 << 30)
        self._kept: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._most_kept = max(1024, _KEPT_BYTES // (4 * shape.dimensions))
        self._refused: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._not_before = 0.0
        self._probe_text = self._sendable(PROBE, "document")
        self._worked = False

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate on the high side: the tokenizer is the endpoint's."""
        return [estimate(text) for text in texts]

    async def embed(self, texts: Sequence[str], *, priority: Priority = "live") -> Vectors:
        if not len(texts):
            return np.empty((0, self.dimensions), np.float32)
        wanted = [self._sendable(text, "document") for text in texts]
        if priority == "query":
            return await self._at_once(wanted, "document")
        self._raise_refused(wanted)
        distinct = list(dict.fromkeys(wanted))
        found = {text: self._kept.pop(text) for text in distinct if text in self._kept}
        try:
            missing = [text for text in distinct if text not in found]
            await self._fetch(_Call(found, priority), missing)
        except BaseException:
            self._keep(found)
            raise
        return np.stack([found[text] for text in wanted])

    async def embed_questions(
        self, texts: Sequence[str], *, priority: Priority = "query"
    ) -> Vectors:
        if not len(texts):
            return np.empty((0, self.dimensions), np.float32)
        wanted = [self._sendable(text, "question") for text in texts]
        if priority == "query":
            return await self._at_once(wanted, "question")
        parts = [await self._send(batch, "question", priority) for batch in self._batches(wanted)]
        return np.concatenate(parts)

    async def close(self) -> None:
        await self._service.close()

    # ------------------------------------------------------------------ documents

    async def _fetch(self, call: _Call, texts: Sequence[str]) -> None:
        """Find the vectors of all of these, or raise what keeps us from it."""
        tasks = [
            asyncio.ensure_future(self._in_turn(call, batch)) for batch in self._batches(texts)
        ]
        try:
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        errors = [outcome for outcome in outcomes if outcome is not None]
        if errors:
            raise min(errors, key=_rank)

    async def _in_turn(self, call: _Call, texts: list[str]) -> None:
        """One batch; when the endpoint is down no other begins."""
        async with self._turns[call.priority]:
            if call.stopped:
                return
            try:
                await self._divide(call, texts, tries=_TRIES)
            except BadRecordError:
                raise
            except PenstockError:
                call.stopped = True
                raise

    async def _divide(self, call: _Call, texts: list[str], *, tries: int) -> None:
        """The vectors of a batch, divided as long as it fails for a reason that a text may be."""
        try:
            vectors = await self._patiently(texts, call.priority, tries)
        except PenstockError as error:
            if not _is_suspect(error):
                raise
            if len(texts) == 1 or tries > 1:
                await self._expect_alive(error, call.priority)
            if len(texts) == 1:
                reason = f"the endpoint takes other texts and not this one: {error}"
                self._refuse(texts[0], reason)
                raise BadRecordError(reason) from error
        else:
            call.found.update(zip(texts, vectors, strict=True))
            return
        middle = len(texts) // 2
        refused: BadRecordError | None = None
        for half in (texts[:middle], texts[middle:]):
            try:
                await self._divide(call, half, tries=2 if len(half) == 1 else 1)
            except BadRecordError as bad:
                refused = bad
        if refused is not None:
            raise refused

    async def _patiently(self, texts: list[str], priority: Priority, tries: int) -> Vectors:
        for number in range(1, tries + 1):
            try:
                return await self._send(texts, "document", priority)
            except RetryableError as error:
                if number == tries or not _is_suspect(error):
                    raise
                await self._clock.sleep(_PAUSE_S * 2**number)
        raise AssertionError("unreachable")  # the last try returns or raises

    async def _expect_alive(self, error: PenstockError, priority: Priority) -> None:
        """Return when the endpoint embeds a text that is surely good; else it is the endpoint."""
        try:
            await self._probe(priority)
        except BadRecordError as same:
            raise FatalError(
                f"{self._service.url} refuses every text: {same}: look at the embedder's settings"
            ) from error

    # ------------------------------------------------------------------ questions

    async def _at_once(self, texts: list[str], role: Role) -> Vectors:
        """A person waits: a few tries within seconds, and no probe before it."""
        checking: asyncio.Task[object] | None = None
        if self._guard is not None and self._guard.due:
            checking = asyncio.ensure_future(self._probe("query"))
        try:
            found = await self._tried(texts, role)
            if checking is not None:
                await checking
            return found
        finally:
            if checking is not None:
                checking.cancel()
                await asyncio.gather(checking, return_exceptions=True)

    async def _tried(self, texts: list[str], role: Role) -> Vectors:
        async for attempt in attempts():
            with attempt:
                batches = self._batches(texts)
                return np.concatenate([await self._send(b, role, "query") for b in batches])
        raise AssertionError("unreachable")  # the attempts end with a value or an error

    # ------------------------------------------------------------------ one request

    async def _send(self, texts: Sequence[str], role: Role, priority: Priority) -> Vectors:
        """The vectors of one request's texts, vouched for."""
        guard = self._guard
        if guard is None or role == "question":
            return await self._request(texts, role, priority)
        if self._shape.batch == 1:
            if guard.due:
                await self._probe(priority)
            return await self._request(texts, role, priority)
        vectors = await self._request([*texts, self._probe_text], role, priority)
        await guard.probe(vectors[-1])
        return vectors[:-1]

    async def _probe(self, priority: Priority) -> None:
        """Ask for a text that is surely good, and compare."""
        vectors = await self._request([self._probe_text], "document", priority)
        if self._guard is not None:
            await self._guard.probe(vectors[0])

    async def _request(self, texts: Sequence[str], role: Role, priority: Priority) -> Vectors:
        """One request within the limits; its answer is well formed, or an error says what it is."""
        pause = self._not_before - self._clock.monotonic()
        if pause > 0 and priority != "query":
            raise RetryableError(f"{self._service.url} asked for a pause", retry_after_s=pause)
        use = Use(1, sum(map(len, texts)), sum(map(estimate, texts)))
        if self._ledger is not None:
            wait = await self._ledger.reserve(use, priority=priority == "query")
            if wait > 0:
                await self._clock.sleep(wait)
        try:
            answered = await self._service.ask(texts, role)
            vectors = await self._checked(answered, len(texts))
        except PenstockError as error:
            await self._settle(use, None if _is_billed(error) else Use())
            raise await self._meant(error) from error
        if answered.tokens is not None:
            await self._settle(use, use._replace(tokens=answered.tokens))
        self._worked = True
        return vectors

    async def _checked(self, answered: Answered, wanted: int) -> Vectors:
        if len(answered.embeddings) != wanted:
            raise RetryableError(
                f"expected {wanted} embeddings from {self._service.url}, got "
                f"{len(answered.embeddings)}",
                malformed=True,
            )
        if self._guard is not None:
            self._guard.model(answered.model)
        gives = self._shape.gives or self.dimensions
        vectors = unit_vectors(answered.embeddings, self.dimensions, at_least=gives)
        if vectors.shape[1] != self.dimensions:
            raise await self._wrong_length(gives, vectors.shape[1])
        return vectors

    async def _wrong_length(self, expected: int, found: int) -> PenstockError:
        try:
            if self._guard is not None:
                await self._guard.dimensions(expected, found)
        except PenstockError as error:
            return error
        return FatalError(
            f"expected vectors of {expected} dimensions, got {found}: "
            "set knowledge.embedder.dimensions to what the model gives"
        )

    async def _meant(self, error: PenstockError) -> PenstockError:
        """What an error means here: one that worked before waits for whoever is mending it."""
        if isinstance(error, RetryableError) and error.retry_after_s:
            self._not_before = self._clock.monotonic() + error.retry_after_s
        if not isinstance(error, FatalError) or error.facts.get("status") not in _LOST:
            return error
        if self._worked or (self._guard is not None and await self._guard.known()):
            return RetryableError(str(error), retry_after_s=_LOST_WAIT_S)
        return error

    async def _settle(self, reserved: Use, used: Use | None) -> None:
        if self._ledger is not None and used is not None:
            await self._ledger.settle(reserved, used)

    # ------------------------------------------------------------------ texts

    def _batches(self, texts: Sequence[str]) -> list[list[str]]:
        batches: list[list[str]] = []
        room = self._shape.batch - (self._guard is not None and self._shape.batch > 1)
        tokens = 0
        for text in texts:
            tokens += estimate(text)
            if not batches or len(batches[-1]) >= max(1, room) or tokens > self._batch_tokens:
                batches.append([])
                tokens = estimate(text)
            batches[-1].append(text)
        return batches

    def _sendable(self, text: str, role: Role) -> str:
        """The endpoint refuses what is empty or too long, and JSON what is no text."""
        whole = text.encode("utf-8", "replace")[: self.max_tokens * _BYTES_PER_TOKEN]
        return self._prefixed(whole.decode("utf-8", "ignore").replace("\0", "") or " ", role)

    def _prefixed(self, text: str, role: Role) -> str:
        return self._shape.prefixes.get(role, "") + text

    def _keep(self, found: Mapping[str, NDArray[np.float32]]) -> None:
        """What a call that fails has found is there when it is made again."""
        self._kept.update(found)
        while len(self._kept) > self._most_kept:
            self._kept.popitem(last=False)

    def _refuse(self, text: str, reason: str) -> None:
        self._refused[text] = (self._clock.monotonic() + _REFUSED_FOR_S, reason)
        while len(self._refused) > 1000:
            self._refused.popitem(last=False)

    def _raise_refused(self, texts: Sequence[str]) -> None:
        """A text that was refused a moment ago is not sent again while it is being set aside."""
        now = self._clock.monotonic()
        for text in texts if self._refused else ():
            until, reason = self._refused.get(text, (0.0, ""))
            if until > now:
                raise BadRecordError(reason)


def attempts() -> AsyncIterable[stamina.Attempt]:
    """A person waits: a few tries within seconds."""
    return stamina.retry_context(
        on=_soon, attempts=3, timeout=15.0, wait_initial=0.1, wait_max=1.0, wait_jitter=0.1
    )


def marked(prefixes: Mapping[Role, str]) -> str:
    """What a prefix of documents adds to a model's name: other vectors need another name."""
    prefix = prefixes.get("document", "")
    return f"+{blake2b(prefix.encode(), digest_size=3).hexdigest()}" if prefix else ""


def _soon(error: Exception) -> bool | float:
    """Whether to try again at once: yes, unless we were asked to wait for long."""
    if not isinstance(error, RetryableError):
        return False
    if error.retry_after_s is None:
        return True
    return error.retry_after_s if error.retry_after_s <= _SHORT_WAIT_S else False


def estimate(text: str) -> int:
    """Tokens of a text, on the high side."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return -(-size // _BYTES_PER_TOKEN)


def _rank(error: BaseException) -> int:
    """Which of several errors tells what to do: nothing else matters while the endpoint is down."""
    if not isinstance(error, PenstockError):
        return 0
    return 3 if isinstance(error, BadRecordError) else 2 if isinstance(error, RetryableError) else 1


def _is_suspect(error: PenstockError) -> bool:
    """Whether one of the texts may be the reason."""
    if isinstance(error, BadRecordError):
        return True
    if not isinstance(error, RetryableError) or error.retry_after_s is not None:
        return False
    facts = error.facts
    return bool(facts.get("status") in _SUSPECT or facts.get("malformed") or facts.get("timeout"))


def _is_billed(error: PenstockError) -> bool:
    """Whether the endpoint may have done the work all the same."""
    return bool(error.facts.get("timeout") or error.facts.get("malformed"))
