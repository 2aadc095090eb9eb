"""Sources that documents are pushed to, as the API knows them: in this process, or in another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from penstock.clock import Clock
from penstock.errors import BadRecordError, UnavailableError
from penstock.records import Microseconds
from penstock.settings import PushSettings, Settings
from penstock.sources.base import Source
from penstock.stores.pushes import PushStore

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from penstock.serving.writing import Inlet, Written
    from penstock.sources.push import Parcel, Pushed, PushSource
    from penstock.stores.postgres.pushes import PostgresPushes

_WAIT_S: Final = 15.0
_LOOK_S: Final = 0.003
_LONGEST_LOOK_S: Final = 0.05
_ALONE_S: Final = 2.0
"""How long one waits to be taken before it is looked whether there is anybody who would."""


@dataclass(frozen=True, slots=True)
class SourceInlet:
    """See `penstock.serving.writing.Inlet`. ``source`` is read in this process."""

    source: PushSource

    async def push(
        self, documents: Sequence[Written], *, once: str | None = None
    ) -> tuple[Microseconds, bool]:
        """See `Inlet.push`."""
        from penstock.serving.writing import ReusedIdError
        from penstock.sources import push

        try:
            return await self.source.push(_pushed(documents), once=once)
        except push.ReusedIdError as error:
            raise ReusedIdError(error.reason) from error

    async def put(self, parcel: Parcel, *, once: str | None) -> dict[str, Any]:
        """What another process has packed; returns the answer that it waits for."""
        from penstock.sources import push

        try:
            at, repeated = await self.source.put(parcel, once=once)
        except push.ReusedIdError as error:
            return {"refused": "reused", "reason": error.reason}
        except UnavailableError as error:
            return {"refused": "unavailable", "reason": str(error), "wait": error.retry_after_s}
        except BadRecordError as error:
            return {"refused": "bad", "reason": error.reason}
        return {"at": at, "repeated": repeated}


@dataclass(frozen=True, slots=True)
class MailedInlet:
    """See `penstock.serving.writing.Inlet`. ``source`` is read by another process: documents are
    read (parsed) here and sent there through the database. ``carried`` says whether there is one.
    """

    source: PushSource
    pushes: PushStore
    clock: Clock
    carried: Callable[[], Awaitable[bool]]

    async def push(
        self, documents: Sequence[Written], *, once: str | None = None
    ) -> tuple[Microseconds, bool]:
        """See `Inlet.push`."""
        parcel = await self.source.pack(_pushed(documents))
        number = await self.pushes.send(self.source.name, once, parcel.to_bytes(), _WAIT_S)
        answer: dict[str, Any] | None = None
        try:
            answer = await self._answer(number)
        finally:
            # Whoever gives up (the client has gone, say) takes back what was not taken.
            if answer is None:
                await self.pushes.withdraw(number)
            else:
                await self.pushes.forget(number)
        return _told(answer)

    async def _answer(self, number: int) -> dict[str, Any]:
        began = self.clock.monotonic()
        pause, looked = _LOOK_S, False
        while (waited := self.clock.monotonic() - began) < _WAIT_S:
            sent = await self.pushes.look(number)
            if sent is None:  # the database has crashed meanwhile
                break
            if sent.answer is not None:
                return sent.answer
            if not sent.taken and not looked and waited > _ALONE_S:
                looked = True
                if not await self.carried():
                    raise UnavailableError(
                        f"expected `penstock run` to carry {self.source.name!r}, it does not run: "
                        "start it; this process only serves the API",
                        retry_after_s=5,
                    )
            await self.clock.sleep(pause)
            pause = min(pause * 1.3, _LONGEST_LOOK_S)
        raise UnavailableError(
            "expected `penstock run` to take these documents by now: send them again, under the "
            "same idempotency key",
            retry_after_s=2,
        )


def _pushed(documents: Sequence[Written]) -> list[Pushed]:
    from penstock.sources.push import Pushed

    return [
        Pushed(d.key, d.content, d.media_type, d.title, d.metadata, d.allow, d.deny)
        for d in documents
    ]


def _told(answer: Mapping[str, Any]) -> tuple[Microseconds, bool]:
    from penstock.serving.writing import ReusedIdError

    refused = answer.get("refused")
    if refused == "reused":
        raise ReusedIdError(answer["reason"])
    if refused == "bad":
        raise BadRecordError(answer["reason"])
    if refused is not None:
        raise UnavailableError(answer["reason"], retry_after_s=answer["wait"])
    return Microseconds(answer["at"]), bool(answer["repeated"])


def inlets(sources: Mapping[str, Source]) -> dict[str, Inlet]:
    """Those of these sources that documents are pushed to."""
    from penstock.sources.push import PushSource

    return {
        name: SourceInlet(source)
        for name, source in sources.items()
        if isinstance(source, PushSource)
    }


@asynccontextmanager
async def mailed_inlets(
    settings: Settings,
    pool: AsyncConnectionPool[Any],
    clock: Clock,
    carried: Callable[[], Awaitable[bool]],
) -> AsyncIterator[dict[str, Inlet]]:
    """Those of a project that another process carries."""
    from penstock.sources.push import PushSource
    from penstock.wiring.sources import source

    kept = pushes(settings, pool)
    found: dict[str, Inlet] = {}
    async with AsyncExitStack() as stack:
        for name, chosen in settings.sources.items():
            if isinstance(chosen, PushSettings):
                made = source(settings, name, clock)
                assert isinstance(made, PushSource)
                stack.push_async_callback(made.close)
                found[name] = MailedInlet(made, kept, clock, carried)
        yield found


def pushes(settings: Settings, pool: AsyncConnectionPool[Any]) -> PostgresPushes:
    """What holds documents on their way."""
    from penstock.stores.postgres.pushes import PostgresPushes

    return PostgresPushes(pool, tenant=settings.tenant)
