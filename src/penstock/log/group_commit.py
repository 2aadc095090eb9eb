"""Appends of one process that wait at the same moment share one transaction.

A commit costs a write to disk, whatever is in it. So a small append goes at once when none is under
way; otherwise it waits for that one, together with all others that come meanwhile, and the whole
group is the next transaction. Nobody waits for company: an append that is alone is as quick as it
would be without this.

A group is one step in the database: all of it or nothing. What one member did wrong (its epoch is
over, its topic is gone, its state cannot be stored) is found before anything is written; then that
member is told and the others go again. A group that is held up, say by a lock of another process,
lets others pass after `HELD_UP_S`.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from penstock.errors import BadRecordError, FatalError
from penstock.records import Change, Microseconds

JOIN_CHANGES: Final = 1000
"""Appends of at most this many changes join others; larger ones have a transaction of their own."""

HELD_UP_S: Final = 0.005
_MOST_GROUPS: Final = 3
_ANOTHER_GROUP: Final = 16


@dataclass(slots=True, eq=False)
class Append:
    """One step of a producer, not yet stored; ``size`` is how many changes it has."""

    producer: str
    epoch: int
    topic: str
    size: int
    parts: Mapping[int, Sequence[Change]]
    state: Mapping[str, str | None]
    as_of: Microseconds | None


@dataclass(frozen=True, slots=True)
class Refused:
    """Which appends of a group cannot be stored, and why; nothing of the group was written."""

    reasons: Mapping[Append, FatalError]


Store = Callable[[Sequence[Append]], Awaitable[Refused | None]]


@dataclass(slots=True, eq=False)
class _Waiting:
    append: Append
    done: asyncio.Future[FatalError | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


@dataclass(slots=True, eq=False)
class _Turn:
    """A transaction under way for some topics; ``late`` is the timer that says that it takes long,
    until it says so."""

    topics: frozenset[str] = frozenset()
    late: asyncio.TimerHandle | None = None


class GroupCommit:
    """Hands appends to ``store``, alone or in groups."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[_Waiting] = deque()
        self._turns: list[_Turn] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, append: Append) -> FatalError | None:
        """Return None when the append is on disk, or why it was refused: then nothing of it was
        written. After an exception that is not known."""
        if append.size > JOIN_CHANGES:
            return await self._alone(append)
        if self._waiting or not self._free():
            waiting = _Waiting(append)
            self._waiting.append(waiting)
            if len(self._waiting) == _ANOTHER_GROUP:
                self._next()
            return await waiting.done
        turn = self._begin()
        turn.topics = frozenset((append.topic,))
        try:
            return await self._alone(append)
        finally:
            self._end(turn)
            self._next()

    async def _alone(self, append: Append) -> FatalError | None:
        refused = await self._store([append])
        return None if refused is None else refused.reasons[append]

    # ------------------------------------------------------------------ turns

    def _free(self) -> bool:
        """Is nothing under way but what is held up, or is there enough for another group? Then one
        is made ready here while the database stores the other."""
        room = 2 if len(self._waiting) >= _ANOTHER_GROUP else 1
        return len(self._turns) < min(len(self._held_up()) + room, _MOST_GROUPS)

    def _held_up(self) -> list[_Turn]:
        return [turn for turn in self._turns if turn.late is None]

    def _begin(self) -> _Turn:
        turn = _Turn()
        self._turns.append(turn)
        loop = asyncio.get_running_loop()
        turn.late = loop.call_later(HELD_UP_S, self._let_pass, turn)
        return turn

    def _let_pass(self, turn: _Turn) -> None:
        """This one takes long: those that wait need not wait for it as well."""
        turn.late = None
        self._next()

    def _end(self, turn: _Turn) -> None:
        self._turns.remove(turn)
        if turn.late is not None:
            turn.late.cancel()

    def _next(self, *, expected: bool = False) -> None:
        """Begin with those that wait, or are expected to come in a moment."""
        if (self._waiting or expected) and self._free():
            task = asyncio.create_task(self._commit(self._begin()), name="append together")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _commit(self, turn: _Turn) -> None:
        group: Sequence[_Waiting] = ()
        try:
            # Those that the last group woke come with their next append in this turn of the loop.
            await asyncio.sleep(0)
            group = self._take()
            turn.topics = frozenset(waiting.append.topic for waiting in group)
            await self._settle(group)
        finally:
            self._end(turn)
            self._next(expected=len(group) > 1)

    def _take(self) -> list[_Waiting]:
        """The next that wait, as many as are a small append together; not those that were
        cancelled. Those to a topic of a transaction that is held up would be held up as well, with
        all that shared their transaction: they come when no others wait."""
        slow = {topic for turn in self._held_up() for topic in turn.topics}
        ready = [waiting for waiting in self._waiting if not waiting.done.done()]
        group: list[_Waiting] = []
        size = 0
        for waiting in [one for one in ready if one.append.topic not in slow] or ready:
            if size > JOIN_CHANGES:
                break
            group.append(waiting)
            size += waiting.append.size
        taken = set(group)
        self._waiting = deque(waiting for waiting in ready if waiting not in taken)
        return group

    async def _settle(self, group: Sequence[_Waiting]) -> None:
        """Store a group and tell its members, each of them in any case."""
        try:
            while group:
                group = await self._store_or_tell(group)
        except (FatalError, BadRecordError, UnicodeEncodeError) as error:
            if len(group) == 1:
                _tell(group[0], error)
            # It is the fault of one, and nothing was written: each finds out for itself.
            for waiting in group[1:] and group:
                await self._settle([waiting])
        except Exception as error:  # noqa: BLE001 - handed on to everybody who waits for this
            for waiting in group:
                _tell(waiting, error)
        finally:
            for waiting in group:  # unless they were told: this task was cancelled
                waiting.done.cancel()

    async def _store_or_tell(self, group: Sequence[_Waiting]) -> Sequence[_Waiting]:
        """Store a group; returns those who have to try again without the ones that are refused."""
        refused = await self._store([waiting.append for waiting in group])
        reasons = {} if refused is None else refused.reasons
        again = []
        for waiting in group:
            reason = reasons.get(waiting.append)
            if refused is None or reason is not None:
                if not waiting.done.done():
                    waiting.done.set_result(reason)
            else:
                again.append(waiting)
        return again


def _tell(waiting: _Waiting, error: Exception) -> None:
    if not waiting.done.done():
        waiting.done.set_exception(copy.copy(error))
