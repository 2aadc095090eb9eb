"""Whether a second store has what it should: by counts and sums of digests per range of chunks, and
chunk by chunk only where these differ."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.database.connect import translated
from penstock.stores.chunk_index import SPAN, Range
from penstock.stores.second.following import SQL, Connection, Follower, Pool

NAMED = 20
"""How many differences are named."""


@dataclass
class SecondStoreReport:
    """What differs. ``waiting``: changes that are still to be followed, which is no fault."""

    store: str
    chunks: int = 0
    missing: int = 0
    stale: int = 0
    superfluous: int = 0
    waiting: bool = False
    repaired: bool = False
    named: list[str] = field(default_factory=list)

    @property
    def differences(self) -> int:
        """In all."""
        return self.missing + self.stale + self.superfluous


async def compare(pool: Pool, follower: Follower, *, repair: bool = False) -> SecondStoreReport:
    """Compare with PostgreSQL; with ``repair``, write what is missing or stale and remove what is
    too many, by the same way as changes go, and look again."""
    await follower.attach()
    if repair:
        await follower.remake()
    await follower.follow()
    report, wrong, extra = await _compare(pool, follower)
    if repair and report.differences:
        await follower.again(wrong, extra)
        await follower.follow()
        left, _, _ = await _compare(pool, follower)
        report.repaired = not left.differences
        if left.differences:
            report.named.append(f"{left.differences} differ still after the repair")
    return report


async def _compare(
    pool: Pool, follower: Follower
) -> tuple[SecondStoreReport, list[int], list[int]]:
    report = SecondStoreReport(follower.name)
    wrong: list[int] = []
    extra: list[int] = []
    with translated():
        async with pool.connection() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            found = await follower.model(connection)
            report.waiting = not (await follower.state(connection)).everything
            if found is None:
                return report, wrong, extra
            ours = await _ranges(connection, follower, found[0])
            theirs = await follower.index.ranges(follower.tenant)
            report.chunks = sum(part.chunks for part in ours.values())
            for span in sorted(ours.keys() | theirs.keys()):
                if ours.get(span) == theirs.get(span):
                    continue
                here = await _digests(connection, follower, found[0], span)
                there = await follower.index.digests(follower.tenant, span)
                missing = sorted(here.keys() - there.keys())
                stale = sorted(c for c in here.keys() & there.keys() if here[c] != there[c])
                too_many = sorted(there.keys() - here.keys())
                report.missing += len(missing)
                report.stale += len(stale)
                report.superfluous += len(too_many)
                for word, chunks in (
                    ("is missing", missing),
                    ("is stale", stale),
                    ("is gone from the knowledge base", too_many),
                ):
                    report.named += [f"chunk {chunk} {word}" for chunk in chunks]
                del report.named[NAMED:]
                wrong += [*missing, *stale]
                extra += too_many
    return report, wrong, extra


async def _ranges(connection: Connection, follower: Follower, model: int) -> dict[int, Range]:
    cursor = await connection.execute(
        SQL["ranges"], {"tenant": follower.tenant, "model": model, "span": SPAN}
    )
    return {span: Range(count, digests) for span, count, digests in await cursor.fetchall()}


async def _digests(
    connection: Connection, follower: Follower, model: int, span: int
) -> dict[int, int]:
    cursor = await connection.execute(
        SQL["digests"],
        {
            "tenant": follower.tenant,
            "model": model,
            "from": span * SPAN,
            "to": (span + 1) * SPAN,
        },
    )
    return dict(await cursor.fetchall())
