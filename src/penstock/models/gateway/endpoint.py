"""One language model behind one endpoint: asked once, timed at every step, believed with care."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

import orjson

from penstock.clock import Clock, SystemClock
from penstock.errors import BadRecordError, PenstockError, UnavailableError
from penstock.models.base import Usage, Who
from penstock.models.endpoint import Answer, Endpoint, malformed
from penstock.models.gateway.base import CallPiece, Completion, Finish, Piece, Request
from penstock.models.gateway.draft import Draft, Tokens
from penstock.models.gateway.prices import Pricing, UnknownPrice

T = TypeVar("T")
MAX_BYTES: Final = 64 * 1024 * 1024
_LONGEST_TOKEN: Final = 16
"""Characters that a token has at most on the whole: who writes more than its tokens can hold has
not stopped where it should."""
_JSON: Final = re.compile(r"\A\s*(?:```(?:json)?\s*\n)?(.*?)(?:\n?\s*```)?\s*\Z", re.DOTALL)


class Dialect(Protocol):
    """How one kind of endpoint is asked, and how its answers read."""

    forgone: set[str]
    """What the endpoint does not know."""

    @property
    def model(self) -> str:
        """The model's name at the endpoint."""

    @property
    def path(self) -> str:
        """Where it is asked."""

    @property
    def media(self) -> str:
        """The type of its streams."""

    @property
    def optional(self) -> Mapping[str, re.Pattern[str]]:
        """What is left out from then on when the endpoint's refusal names it."""

    @property
    def takes_temperature(self) -> bool:
        """Whether a temperature may be sent when nobody asked for one."""

    def body(self, request: Request, who: Who) -> dict[str, Any]:
        """The body. `BadRecordError` for what this model does not take."""

    def draft(self, request: Request) -> Draft:
        """What the answer becomes."""

    def frames(self, parts: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any] | None]:
        """The events of a stream; None is its end."""

    def read(self, event: dict[str, Any], draft: Draft) -> Iterator[str | CallPiece]:
        """The pieces of one event."""

    def whole(self, body: object, draft: Draft) -> Iterator[str | CallPiece]:
        """The pieces of an answer that does not stream."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for a connection, for the first piece, between pieces, for the whole."""

    connect: float = 10.0
    first: float = 30.0
    between: float = 20.0
    total: float = 120.0


@dataclass(frozen=True, slots=True)
class Defaults:
    """What is asked for where a request does not say."""

    max_tokens: int = 800
    temperature: float | None = None


class EndpointModel:
    """A `Model` that asks its endpoint once: whoever wants more tries wraps it."""

    def __init__(
        self,
        name: str,
        dialect: Dialect,
        endpoint: Endpoint,
        *,
        patience: Patience = Patience(),
        defaults: Defaults = Defaults(),
        pricing: Pricing | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.pricing: Pricing = pricing or UnknownPrice()
        self._dialect = dialect
        self._endpoint = endpoint
        self._patience = patience
        self._defaults = defaults
        self._clock = clock or SystemClock()

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes two answers comparable: name, place and model."""
        return self.name, self._endpoint.url, self._dialect.model

    def filled(self, request: Request) -> Request:
        """The request with this model's defaults, which bound what may be written."""
        temperature = request.temperature
        if temperature is None and (self._dialect.takes_temperature or self._defaults.temperature):
            temperature = self._defaults.temperature
        most = min(request.max_tokens or self._defaults.max_tokens, self._defaults.max_tokens)
        return replace(request, max_tokens=most, temperature=temperature)

    async def stream(self, request: Request, who: Who) -> AsyncGenerator[Piece]:
        request = self.filled(request)
        while True:
            known = len(self._dialect.forgone)
            try:
                async with aclosing(self._asked(request, who)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except PenstockError as error:
                self._endpoint.hush(error)
                if isinstance(error, BadRecordError):
                    self._forgo(str(error))
                if len(self._dialect.forgone) == known:
                    raise

    async def close(self) -> None:
        """Release connections."""
        await self._endpoint.close()

    def _forgo(self, said: str) -> None:
        """An endpoint that does not know what we can do without is asked without it."""
        for name, mark in self._dialect.optional.items():
            if mark.search(said):
                self._dialect.forgone.add(name)

    async def _asked(self, request: Request, who: Who) -> AsyncGenerator[Piece]:
        began = self._clock.monotonic()
        draft = self._dialect.draft(request)
        body = self._dialect.body(request, who)
        most = (request.max_tokens or 0) * _LONGEST_TOKEN + 4096
        waited: float | None = None
        async with aclosing(self._pieces(body, draft)) as pieces:
            while True:
                limit = self._patience.first if waited is None else self._patience.between
                piece = await self._within(limit, anext(pieces, None), begun=waited is not None)
                if piece is None:
                    break
                if piece == "":
                    continue
                waited = self._clock.monotonic() - began if waited is None else waited
                if draft.length > most:
                    raise malformed(
                        f"expected {self.name} to stop after {request.max_tokens} tokens, got "
                        f"{draft.length:,} characters and no end"
                    )
                yield piece
        yield self._completion(request, draft, waited)

    async def _pieces(self, body: dict[str, Any], draft: Draft) -> AsyncGenerator[str | CallPiece]:
        async with self._endpoint.stream(self._dialect.path, body) as answer:
            kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == "application/json":
                for piece in self._dialect.whole(await self._whole(answer), draft):
                    yield piece
                return
            if kind != self._dialect.media:
                came = self._endpoint.excerpt(await answer.beginning())
                raise malformed(
                    f"expected a stream from {self._endpoint.url}, got {kind or 'no type'}: "
                    f"{came!r}"
                )
            ended = False
            async for event in self._dialect.frames(answer.parts()):
                if event is None:
                    ended = True
                    break
                for piece in self._dialect.read(event, draft):
                    yield piece
            if draft.finish is None and not ended:
                raise malformed("the stream of the answer broke off before its end")

    async def _whole(self, answer: Answer) -> object:
        content = await answer.whole()
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as error:
            came = self._endpoint.excerpt(content)
            raise malformed(f"expected JSON from {self._endpoint.url}, got {came!r}") from error

    async def _within(self, limit: float, step: Any, *, begun: bool) -> str | CallPiece | None:
        try:
            async with asyncio.timeout(limit):
                found: str | CallPiece | None = await step
                return found
        except TimeoutError as error:
            what = "next" if begun else "first"
            raise UnavailableError(
                f"expected the {what} piece of an answer from {self._endpoint.url} within "
                f"{limit:g} s, got none",
                timeout=True,
            ) from error

    def _completion(self, request: Request, draft: Draft, waited: float | None) -> Completion:
        tokens, guessed = draft.tokens(request, request.max_tokens or 0)
        calls = draft.tool_calls()
        if not draft.text and not calls and draft.finish not in ("refused", "length"):
            raise malformed(f"expected text or tool calls from {self.name}, got neither")
        return Completion(
            text=draft.text,
            finish=_finish(draft, called=bool(calls)),
            usage=usage_of(tokens, self.pricing, guessed=guessed),
            name=self.name,
            model=draft.model or self._dialect.model,
            calls=calls,
            waited_ms=round((waited or 0.0) * 1e3, 3),
        )


def usage_of(tokens: Tokens, pricing: Pricing, *, guessed: bool) -> Usage:
    """What one request took."""
    cost = pricing.cost(tokens)
    return Usage(1, tokens.read, tokens.written, cost, tokens.cached, guessed)


def _finish(draft: Draft, *, called: bool) -> Finish:
    """What came counts for more than what was said of it."""
    finish = draft.finish or "stop"
    if called and finish == "stop":
        return "tool_calls"
    return "stop" if finish == "tool_calls" and not called else finish


def json_of(text: str) -> object:
    """The JSON that a model wrote, also between fences. `RetryableError` if there is none."""
    found = _JSON.match(text)
    try:
        return orjson.loads(found[1] if found else text)
    except orjson.JSONDecodeError as error:
        raise malformed(f"expected JSON from the model, got {text[:200]!r}") from error
