"""Several language models as one: who is asked by which, who steps in, what is not asked twice."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
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
from penstock.models.gateway.reuse import Flights, ResponseCache, key_of, replayed
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
        key = key_of(request, who, [self.models[name].model.identity for name in names])
        cache = self._cache if request.reusable else None
        if cache is not None and (known := cache.get(key)) is not None:
            self._reuse.cache += 1
            for piece in replayed(known):
                yield piece
            return
        source = partial(self._asked, request, who, names, key)
        async with aclosing(
            self._flights.shared(key, source, who.answer) if self._repeatable(request) else source()
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

    def _repeatable(self, request: Request) -> bool:
        """Whether the same request has the same answer, as far as that can be said of a model."""
        if not request.reusable:
            return False
        first = self.models[self._chain[0]].model
        return self._cache is not None or first.filled(request).temperature in (0, None)

    async def _asked(
        self, request: Request, who: Who, names: Sequence[str], key: bytes
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
                            if self._cache is not None and request.reusable:
                                self._cache.put(key, piece, who.answer)
                        yield piece
                return
            except PenstockError as error:
                self._count(name, failed=not isinstance(error, BadRecordError), error=error)
                if begun or last or not _may_go_on(error):
                    raise
                self.models[name].meter.fallbacks += 1

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
        return Request(turns, matter=self._matter, reusable=self._reusable, **more)

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
