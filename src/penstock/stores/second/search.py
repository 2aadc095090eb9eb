"""Snapshots whose nearest neighbours come from a second store.

The second store only proposes chunks. The snapshot in PostgreSQL decides which of them exist, match
and may be seen, and how near they are; where too few pass, or the second store is away, it looks
itself. What was written a moment ago may not be proposed yet: `ages` then says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog

from penstock.errors import FatalError, RetryableError
from penstock.identity.details import Details
from penstock.principals import Principal
from penstock.records import Microseconds
from penstock.stores.base import (
    ChunkVectors,
    Filter,
    Hit,
    LiveRow,
    Passage,
    Rarities,
    SourceAge,
    StoredProfile,
    TableRows,
    TableWanted,
    Vectors,
)
from penstock.stores.details import ProfileDetails, SegmentMember
from penstock.stores.documents import StoredDocument
from penstock.stores.postgres.search import PostgresSnapshot, PostgresSnapshotStore
from penstock.stores.second.following import Follower

logger = structlog.get_logger("penstock.second_store")

SPARE = 1.5
"""So much more is asked for than is wanted: some are stale, some not permitted."""


class FollowedSnapshots:
    """``snapshots`` of the database, with the second store of ``follower`` for neighbours."""

    def __init__(self, snapshots: PostgresSnapshotStore, follower: Follower) -> None:
        self._snapshots = snapshots
        self._follower = follower

    @asynccontextmanager
    async def snapshot(self, principal: Principal) -> AsyncIterator[FollowedSnapshot]:
        """See `penstock.stores.base.SnapshotStore`."""
        async with self._snapshots.snapshot(principal) as inner:
            yield FollowedSnapshot(inner, self._follower, principal.tenant)

    async def close(self) -> None:
        """Disconnect from the second store."""
        await self._snapshots.close()
        await self._follower.close()


class FollowedSnapshot:
    """An open snapshot; see `penstock.stores.base.Snapshot`."""

    def __init__(self, inner: PostgresSnapshot, follower: Follower, tenant: str) -> None:
        self._inner = inner
        self._follower = follower
        self._tenant = tenant
        self._own = tenant != follower.tenant

    async def candidates(
        self,
        vector: Vectors | None,
        text: str | None,
        *,
        limit: int,
        where: Filter,
        model: str | None = None,
    ) -> list[Hit]:
        near = None
        if vector is not None and limit > 0 and not self._own:
            near = await self._nearest(vector, limit, where, model)
        return await self._inner.candidates(
            vector, text, limit=limit, where=where, model=model, near=near
        )

    async def _nearest(
        self, vector: Vectors, limit: int, where: Filter, model: str | None
    ) -> list[int] | None:
        found = await self._inner.model(model, vector.size)
        if found is None:
            return None
        try:
            return await self._follower.index.nearest(
                vector, tenant=self._tenant, model=found.id, limit=int(SPARE * limit), where=where
            )
        except (RetryableError, FatalError) as error:
            logger.warning("second_store.away", store=self._follower.name, reason=str(error))
            self._own = True  # for the rest of this snapshot
            return None

    async def serving_model(self) -> str | None:
        return await self._inner.serving_model()

    async def rarities(self, text: str) -> Rarities:
        return await self._inner.rarities(text)

    async def vectors(
        self, chunks: Sequence[int], *, model: str, head: str
    ) -> Mapping[int, ChunkVectors]:
        return await self._inner.vectors(chunks, model=model, head=head)

    async def fields(self) -> Sequence[str]:
        return await self._inner.fields()

    async def around(
        self, chunks: Sequence[int], neighbours: int
    ) -> Mapping[int, Sequence[tuple[str, int, int]]]:
        return await self._inner.around(chunks, neighbours)

    async def passages(self, chunks: Sequence[int]) -> list[Passage]:
        return await self._inner.passages(chunks)

    async def document(self, source: str, key: str) -> StoredDocument | None:
        return await self._inner.document(source, key)

    async def rows(self, wanted: Sequence[Passage]) -> list[LiveRow]:
        return await self._inner.rows(wanted)

    async def profile(self, kind: str, id_: str) -> StoredProfile | None:
        return await self._inner.profile(kind, id_)

    async def profiles_bearing(self, kind: str, identifiers: Sequence[str]) -> Sequence[str]:
        return await self._inner.profiles_bearing(kind, identifiers)

    async def profile_details(
        self, kind: str, id_: str, wanted: Details, now: Microseconds
    ) -> ProfileDetails:
        return await self._inner.profile_details(kind, id_, wanted, now)

    async def segment(
        self, kind: str, segment: str, *, after: str = "", limit: int = 100
    ) -> Sequence[SegmentMember] | None:
        return await self._inner.segment(kind, segment, after=after, limit=limit)

    async def tables(self, source: str) -> Mapping[str, Sequence[str]]:
        return await self._inner.tables(source)

    async def table_rows(self, wanted: TableWanted) -> TableRows | None:
        return await self._inner.table_rows(wanted)

    async def ages(self) -> list[SourceAge]:
        """How current each source is, as far as the second store can find it."""
        ages = await self._inner.ages()
        if self._own:
            return ages
        searchable = await self._follower.state(self._inner.connection)
        if searchable.everything:
            return ages
        found = []
        for age in ages:
            then = searchable.ages.get(age.source)
            as_of = None
            if then is not None and age.as_of is not None:
                as_of = Microseconds(min(then, age.as_of))
            loading = age.loading or then is None
            found.append(replace(age, as_of=as_of, loading=loading))
        return found
