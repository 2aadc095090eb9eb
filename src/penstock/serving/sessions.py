"""Conversations: each question with what was asked before, each answer from what is true now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Unpack

from penstock.clock import Clock
from penstock.errors import ConfigError
from penstock.principals import Principal
from penstock.serving.answer import Answer, Answerer, Spoken
from penstock.serving.context import Asking, checked
from penstock.serving.followups import FollowUps
from penstock.serving.forms import Filling, Slot, filled
from penstock.stores.sessions import SessionStore, Turn, new_session

REMEMBERED: Final = 20
"""Questions that are looked at again."""


class NoSessionError(ConfigError):
    """There is no such conversation of the one who asks."""


class NoFormError(ConfigError):
    """There is no such form."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """Conversations of a project. Profile, permissions and freshness are those of each question's
    own moment: of what went before, only the questions are used."""

    store: SessionStore
    follow_ups: FollowUps
    clock: Clock
    forms: Mapping[str, Sequence[Slot]] = field(default_factory=dict)

    async def close(self) -> None:
        """Release the generator that rewrites."""
        if self.follow_ups.writer is not None:
            await self.follow_ups.writer.close()

    async def begin(self, who: Principal) -> str:
        """A new conversation; returns its id."""
        name = new_session()
        await self.store.begin(name, who, self.clock.now())
        return name

    async def turns(self, session: str, who: Principal, limit: int = REMEMBERED) -> Sequence[Turn]:
        """What was asked, oldest first. `NoSessionError` where ``who`` has no such conversation."""
        found = await self.store.turns(session, who, limit)
        if found is None:
            raise _none(session)
        return found

    async def fill(self, session: str, form: str, who: Principal, said: str | None) -> Filling:
        """Fill in a form of a conversation with what was said to the question that it asked; None
        asks the first. `NoFormError`, `NoSessionError` where there is none."""
        slots = self.forms.get(form)
        if slots is None:
            raise NoFormError(f"expected a form of the project, got {form[:100]!r}")
        taken: list[Filling] = []

        def step(values: Mapping[str, Any]) -> Mapping[str, Any]:
            taken.append(filled(slots, values, said))
            return taken[-1].values

        if not await self.store.fill(session, who, form, self.clock.now(), step):
            raise _none(session)
        return taken[-1]

    async def end(self, session: str, who: Principal) -> None:
        """Forget a conversation; what was answered stays in the ledger."""
        if not await self.store.end(session, who):
            raise _none(session)

    async def stream(
        self,
        answerer: Answerer,
        session: str,
        question: str,
        who: Principal,
        **asking: Unpack[Asking],
    ) -> AsyncIterator[str | Answer]:
        """As `Answerer.stream`, within a conversation. It is kept before the `Answer` comes."""
        question = checked(question)
        before = [turn.said for turn in await self.turns(session, who)]
        standing = await self.follow_ups.standing(question, before)
        spoken = Spoken(question, session, standing.usage, standing.note)
        async for piece in answerer.stream(standing.question, who, spoken=spoken, **asking):
            if isinstance(piece, Answer):
                turn = Turn(question, standing.question, piece.id, self.clock.now())
                if not await self.store.add(session, who, turn):
                    raise _none(session)  # it was ended meanwhile
            yield piece

    async def alone(
        self,
        answerer: Answerer,
        before: Sequence[str],
        question: str,
        who: Principal,
        **asking: Unpack[Asking],
    ) -> AsyncIterator[str | Answer]:
        """The same for a conversation that the application keeps by itself."""
        question = checked(question)
        earlier = [text for text in map(str.strip, before) if text][-REMEMBERED:]
        standing = await self.follow_ups.standing(question, earlier)
        spoken = Spoken(question, None, standing.usage, standing.note)
        async for piece in answerer.stream(standing.question, who, spoken=spoken, **asking):
            yield piece


def _none(session: str) -> NoSessionError:
    return NoSessionError(
        f"expected the id of a session of yours, found none: {session[:100]!r}; begin one with "
        "POST /v1/sessions"
    )
