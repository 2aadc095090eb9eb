"""Several language models as one: who is asked by which, who steps in, what is not asked twice."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal

from penstock.errors import BadRecordError, FatalError, PenstockError, RetryableError
from penstock.models.base import Author, Matter, Message, Usage, Who, Written
from penstock.models.gateway.account import Account
from penstock.models.gateway.base import Completion, Piece, Request, completed, of_messages
from penstock.models.gateway.canary import CanaryBook, CanaryRules, MemoryCanaries, chosen
from penstock.models.gateway.draft import estimated
from penstock.models.gateway.endpoint import json_of
from penstock.models.gateway.guarded import GuardedModel, Tally
from penstock.models.gateway.reuse import (
    Flights,
    ResponseCache,
    given_again,
    key_of,
    replayed,
)
from penstock.models.gateway.similar import Place, SimilarAnswers
from penstock.telemetry import ReuseMeter

_SAID: Final = 200
_OURS: Final = ("budget", "own")
"""What an error says that comes of our limits: nothing of the model."""


@dataclass(frozen=True, slots=True)
class Route:
    """Requests that go to other models. All that is said must hold."""

    models: tuple[str, ...]
    tenant: str | None = None
    key: str | None = None
    longer_than: int | None = None
    """Tokens of the prompt, as we estimate them."""

    def fits(self, request: Request, who: Who) -> bool:
        """Whether it holds for this request."""
        return (
            (self.tenant is None or self.tenant == who.tenant)
            and (self.key is None or self.key == who.key)
            and (self.longer_than is None or estimated(request) > self.longer_than)
        )


class Gateway:
    """The first model of a chain that answers. ``chain`` is that of requests that no route and no
    canary takes. Is a generator of text (`Generator`); `asked_by` makes the one that writes JSON.
    ``alive`` says whether an answer is still there, for one that is erased is not given again.
    """

    def __init__(
        self,
        models: Mapping[str, GuardedModel],
        chain: Sequence[str],
        *,
        account: Account,
        routes: Sequence[Route] = (),
        canary: CanaryRules | None = None,
        canaries: CanaryBook | None = None,
        cache: ResponseCache | None = None,
        similar: SimilarAnswers | None = None,
        alive: Callable[[str], Awaitable[bool]] | None = None,
        structured: bool = True,
        reuse: ReuseMeter | None = None,
    ) -> None:
        self.models = models
        self.name = models[chain[0]].name
        self._chain = tuple(chain)
        self._account = account
        self._routes = tuple(routes)
        self._canary = canary
        self._canaries = canaries or MemoryCanaries()
        self._cache = cache
        self._similar = similar
        self._alive = alive
        self._structured = structured
        self._reuse = reuse or ReuseMeter()
        self._flights = Flights(self._reuse)

    def asked_by(self, who: Who) -> AskedWriter | AskedGenerator:
        """A `Writer` (or, where answers are streamed, a `Generator`) in somebody's name."""
        return AskedWriter(self, who) if self._structured else AskedGenerator(self, who)

    async def stream(self, request: Request, who: Who) -> AsyncGenerator[Piece]:
        """The pieces of the answer, and at the end the `Completion`. Errors are those of `Model`:
        of the last model that was asked."""
        names = self.names(request, who)
        asked = [self.models[name].model.identity for name in names]
        key, place = key_of(request, who, asked), None
        known = await self._cached(key) if request.reusable else None
        if known is None and self._similar is not None:
            place = await self._similar.place(request, who, asked)
            known = None if place is None else await self._alike(place)
        if known is not None:
            for piece in replayed(known):
                yield piece
            return
        source = partial(self._asked, request, who, names, key, place)
        async with aclosing(
            self._flights.shared(key + request.priority.encode(), source, who.answer)
            if self._repeatable(request)
            else source()
        ) as pieces:
            async for piece in pieces:
                yield piece

    def names(self, request: Request, who: Who) -> tuple[str, ...]:
        """The models that would be asked, in their order."""
        for route in self._routes:
            if route.fits(request, who):
                return route.models
        rules = self._canary
        if rules is not None:
            prompt = request.turns[-1].text if request.turns else ""
            if chosen(rules, self._canaries.standing(rules.model), who, prompt):
                return (rules.model, *(n for n in self._chain if n != rules.model))
        return self._chain

    def judged(self, author: Author | None, *, good: bool) -> None:
        """Say of an answer how good it is: by the look at what it rests on, or by a rating."""
        rules = self._canary
        if rules is None or author is None or not author.arm:
            return
        if self._canaries.standing(rules.model).state == "running":
            self._canaries.judge(rules, canary=author.arm == "canary", good=good)

    async def close(self) -> None:
        """Release connections, and write down what was spent."""
        for model in self.models.values():
            await model.close()
        await self._account.close()

    async def _cached(self, key: bytes) -> Completion | None:
        """The answer to the same question."""
        cache = self._cache
        known = None if cache is None else cache.get(key)
        if cache is None or known is None:
            return None
        if not await self._is_there(known):
            cache.drop(key)
            return None
        self._reuse.cache += 1
        return known

    async def _alike(self, place: Place) -> Completion | None:
        """The answer to a question that is almost the same."""
        assert self._similar is not None
        known = self._similar.get(place)
        if known is None:
            return None
        if not await self._is_there(known):
            self._similar.drop(known.of)
            return None
        self._reuse.similar += 1
        return given_again(known, "similar", known.of)

    async def _is_there(self, known: Completion) -> bool:
        return self._alive is None or not known.of or await self._alive(known.of)

    def _repeatable(self, request: Request) -> bool:
        """Whether the same request has the same answer, as far as that can be said of a model."""
        if not request.reusable:
            return False
        first = self.models[self._chain[0]].model
        return self._cache is not None or first.filled(request).temperature in (0, None)

    async def _asked(
        self, request: Request, who: Who, names: Sequence[str], key: bytes, alike: Place | None
    ) -> AsyncGenerator[Piece]:
        tally = Tally()
        for place, name in enumerate(names):
            begun, last, arm = False, place == len(names) - 1, self._arm(name)
            try:
                async with aclosing(self.models[name].stream(request, who, tally)) as pieces:
                    async for piece in pieces:
                        begun = True
                        if isinstance(piece, Completion):
                            piece = replace(piece, arm=arm)
                            self._count(name, failed=piece.finish == "length")
                            self._keep(request, who, piece, key, alike)
                        yield piece
                return
            except PenstockError as error:
                self._count(name, failed=not isinstance(error, BadRecordError), error=error)
                if begun or last or not _may_go_on(error):
                    raise
                self.models[name].meter.fallbacks += 1

    def _keep(
        self, request: Request, who: Who, whole: Completion, key: bytes, alike: Place | None
    ) -> None:
        """For those who ask the same, or almost, after this."""
        if self._cache is not None and request.reusable:
            self._cache.put(key, whole, who.answer)
        if self._similar is not None and alike is not None:
            self._similar.put(alike, whole, who.answer)

    def _arm(self, name: str) -> Literal["", "canary", "others"]:
        """On which side of a trial a model stands."""
        rules = self._canary
        if rules is None or self._canaries.standing(rules.model).state != "running":
            return ""
        return "canary" if name == rules.model else "others"

    def _count(self, name: str, *, failed: bool, error: PenstockError | None = None) -> None:
        rules = self._canary
        if rules is None or (error is not None and not error.facts.keys().isdisjoint(_OURS)):
            return
        if self._canaries.standing(rules.model).state == "running":
            self._canaries.count(rules, canary=name == rules.model, failed=failed)


def _may_go_on(error: PenstockError) -> bool:
    """Whether another model may do better: not with a request that is wrong, nor without money
    (but for that of one model alone)."""
    if isinstance(error, RetryableError):
        return not error.facts.get("budget") or bool(error.facts.get("own"))
    return isinstance(error, FatalError)


class _Asked:
    """The gateway in somebody's name, for one question."""

    def __init__(self, gateway: Gateway, who: Who) -> None:
        self.name = gateway.name
        self._gateway = gateway
        self._who = who
        self._matter: Matter | None = None
        self._reusable = True

    def about(self, matter: Matter | None) -> None:
        """Say what the prompt to come is about; None: the model is asked, whatever is known."""
        self._matter, self._reusable = matter, matter is not None

    def _request(self, messages: Sequence[Message], **more: Any) -> Request:
        turns = of_messages(messages)
        return Request(
            turns,
            matter=self._matter,
            reusable=self._reusable,
            priority=self._who.priority,
            **more,
        )

    async def close(self) -> None:
        """Whoever made the gateway closes it."""


class AskedGenerator(_Asked):
    """A `Generator` of text in somebody's name."""

    usage: Usage | None = None
    author: Author | None = None

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        """The answer piece by piece."""
        request = self._request(messages)
        async with aclosing(self._gateway.stream(request, self._who)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Completion):
                    self.usage, self.author = piece.usage, piece.author
                elif isinstance(piece, str):
                    yield piece


class AskedWriter(_Asked):
    """A `Writer` of JSON in somebody's name."""

    async def write(self, messages: Sequence[Message], shape: Mapping[str, Any]) -> Written:
        """What it wrote, as parsed JSON."""
        request = self._request(messages, shape=shape)
        found = await completed(self._gateway.stream(request, self._who))
        if found.finish == "length":
            raise BadRecordError(
                f"{found.name} was cut off at its limit: raise `max_tokens` of the model, or ask "
                "about a part of it"
            )
        if found.finish == "refused":
            raise BadRecordError(f"{found.name} declined to answer: {found.text[:_SAID]!r}")
        return Written(json_of(found.text), found.usage, found.author)
