"""What serving needs of where conversations are kept."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from penstock.principals import Principal
from penstock.records import Microseconds


@dataclass(frozen=True, slots=True)
class Turn:
    """A question of a conversation: as it came, and as it stands for itself. ``answer`` is the id
    of what came back, where answers are kept."""

    said: str
    asked: str
    answer: str | None
    at: Microseconds


Step: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class SessionStore(Protocol):
    """Conversations of one tenant at rest. One of another principal is not there."""

    async def begin(self, session: str, who: Principal, now: Microseconds) -> None:
        """A new conversation."""

    async def turns(self, session: str, who: Principal, limit: int) -> Sequence[Turn] | None:
        """The latest, oldest first; None where ``who`` has no such conversation."""

    async def add(self, session: str, who: Principal, turn: Turn) -> bool:
        """Once it returns True it is kept, behind all before; False where there is no such
        conversation (any more)."""

    async def fill(
        self, session: str, who: Principal, form: str, now: Microseconds, step: Step
    ) -> bool:
        """Take a step in filling a form in, alone: ``step`` is given what is there and returns what
        shall be. False where there is no such conversation; then no step is taken."""

    async def end(self, session: str, who: Principal) -> bool:
        """Forget it; False where there was none."""


def new_session() -> str:
    """A name that cannot be guessed (96 bits)."""
    return f"ses_{secrets.token_hex(12)}"
