"""Streams of shards that split and merge: which may be read, up to where each was, what is lost.

A shard is read when its parents are read to their ends, so that the changes of one key come in
order although it moves from shard to shard. The state holds one text for each shard: the sequence
number of its last record, nothing for one that was not begun, or that it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from penstock.errors import SourceError
from penstock.records import Microseconds
from penstock.sources.base import State

_SHARD: Final = "shard:"
_DONE: Final = "done"


class Shard(NamedTuple):
    """A shard, with those that it was made of."""

    id: str
    parents: tuple[str, ...] = ()


class Page(NamedTuple):
    """Some records of a shard. ``iterator`` reads on (None: the shard has ended), ``behind`` says
    that there may be more already; then ``until`` is the time up to which all is in this page or
    before it, if that is known."""

    records: Sequence[Any]
    last: str | None
    iterator: str | None
    behind: bool
    until: Microseconds | None = None


class ShardService(Protocol):
    """The calls that reading shards needs."""

    async def shards(self) -> Sequence[Shard]:
        """All shards that there are now, ended ones too."""

    async def iterator(self, shard: str, after: str) -> str:
        """What reads a shard after this sequence number; '' begins with its oldest record."""

    async def page(self, shard: str, iterator: str) -> Page | None:
        """The next records; None when the iterator is too old and another is to be had."""


class Lineage:
    """What is known of the shards of a stream. Pure."""

    def __init__(self, state: State) -> None:
        self.places = {
            name[len(_SHARD) :]: place for name, place in state.items() if name.startswith(_SHARD)
        }
        self._fresh = not self.places
        self._parents: dict[str, tuple[str, ...]] = {}
        self._news: dict[str, str | None] = {}

    def see(self, shards: Sequence[Shard]) -> None:
        """Take over a listing. Raises `SourceError` when a shard has gone that was not read to its
        end, or must have come and gone unread."""
        listed = {shard.id for shard in shards}
        for known, place in self.places.items():
            if place != _DONE and known not in listed:
                raise self._gap(known)
        for shard in shards:
            self._parents[shard.id] = shard.parents
            if shard.id in self.places:
                continue
            for parent in shard.parents:
                if not self._fresh and parent not in listed and parent not in self.places:
                    raise self._gap(parent)
            self._set(shard.id, "")
        self._fresh = False
        for shard_id in [shard_id for shard_id in self.places if shard_id not in listed]:
            del self.places[shard_id]  # done, and its children are known
            self._news[_SHARD + shard_id] = None

    def _gap(self, shard: str) -> SourceError:
        return SourceError(
            f"expected to read the shard {shard} to its end, it is gone: the stream keeps records "
            "for a limited time, and this source was stopped or behind for longer",
            shard=shard,
            gap=True,
        )

    def readable(self) -> list[str]:
        """The shards to be read now, in the order of their names."""
        return sorted(
            shard
            for shard, place in self.places.items()
            if place != _DONE
            and all(
                self.places.get(parent, _DONE) == _DONE for parent in self._parents.get(shard, ())
            )
        )

    def advance(self, shard: str, page: Page) -> None:
        """A page was taken over."""
        if page.last is not None:
            self._set(shard, page.last)
        if page.iterator is None:
            self._set(shard, _DONE)

    def _set(self, shard: str, place: str) -> None:
        self.places[shard] = place
        self._news[_SHARD + shard] = place

    def take_news(self) -> dict[str, str | None]:
        """What of this no state has told yet."""
        news, self._news = self._news, {}
        return news


@dataclass(slots=True)
class Round:
    """What one round over all shards brought: records in the order of each shard, whether all that
    there was when it began is in it or before it, and until when that is so at least."""

    records: list[Any] = field(default_factory=list)
    complete: bool = True
    until: Microseconds | None = None


class ShardReader:
    """Reads all shards that may be read, a page of each at a time."""

    def __init__(self, service: ShardService, lineage: Lineage) -> None:
        self._service = service
        self._lineage = lineage
        self._iterators: dict[str, str] = {}
        self._stale = True

    def relist(self) -> None:
        """Ask for the shards again with the next round: some may have been split."""
        self._stale = True

    async def round(self, now: Microseconds) -> Round:
        """The next page of every shard; ``now`` is when it begins."""
        found = Round(until=now)
        if self._stale:
            self._lineage.see(await self._service.shards())
            self._stale = False
        shards = self._lineage.readable()
        pages = await asyncio.gather(*(self._page(shard) for shard in shards))
        for shard, page in zip(shards, pages, strict=True):
            if page is None:
                self._iterators.pop(shard, None)
                found.complete, found.until = False, None
                continue
            found.records.extend(page.records)
            self._lineage.advance(shard, page)
            if page.iterator is None:
                self._iterators.pop(shard, None)
                self._stale = True  # children may be waiting
            else:
                self._iterators[shard] = page.iterator
            if page.iterator is None:
                found.complete, found.until = False, None
            elif page.behind:
                found.complete = False
                found.until = _earlier(found.until, page.until)
        return found

    async def _page(self, shard: str) -> Page | None:
        iterator = self._iterators.get(shard)
        if iterator is None:
            iterator = await self._service.iterator(shard, self._lineage.places[shard])
        return await self._service.page(shard, iterator)


def _earlier(one: Microseconds | None, other: Microseconds | None) -> Microseconds | None:
    return None if one is None or other is None else min(one, other)
