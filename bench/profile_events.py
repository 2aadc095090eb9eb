"""Events of people: taking them up under their identifiers or as a record each, and reading values
over windows of somebody with some and with many of them.

    python bench/profile_events.py [EVENTS]     default 100,000 events of 20 devices

Works on the store alone, as the loop does. Stores its figures in
``bench/results/profile_events.json``.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from profiles import server

from penstock.bench.report import Report
from penstock.database.connect import open_pool
from penstock.database.migrate import migrate
from penstock.identity.details import Computed, Details
from penstock.identity.rules import KindRule, Rules, TableRule
from penstock.principals import Principal
from penstock.records import Change, Column, Microseconds, Op, Position, Schema
from penstock.stores.base import ApplyEvidence
from penstock.stores.postgres.profiles.kinds import declare
from penstock.stores.postgres.search import PostgresSnapshotStore
from penstock.stores.postgres.store import PostgresStore

RESULTS = Path(__file__).parent / "results"
COLUMNS = (Column("id", "bigint", key=True), *(Column(n, "text") for n in ("device", "page", "at")))
SCHEMA = Schema("web", "public.events", COLUMNS)
PLACE = (SCHEMA.source, SCHEMA.stream)
TABLE = TableRule(identifiers=(("cookie", "device"),), at="at", kept=("page",), events=True)
RULES = Rules(
    kinds={"cookie": KindRule("exact", shared_by_at_most=10**6)}, tables={PLACE: TABLE}, noted=True
)
EACH = Rules(kinds=RULES.kinds, tables={PLACE: replace(TABLE, events=False)}, largest=10**6)
DAY = 86_400_000_000
NOW = 1_790_000_000_000_000
WINDOWS = Details(
    {
        "views_7d": Computed(*PLACE, "count", within=7 * DAY),
        "sessions_7d": Computed(*PLACE, "sessions", within=7 * DAY),
        "last_session": Computed(*PLACE, "last_session", "page", within=7 * DAY),
    }
)
WHOLE = Details(
    {
        "views": Computed(*PLACE, "count"),
        "favourite": Computed(*PLACE, "most_frequent", "page"),
        "last": Computed(*PLACE, "last"),
    }
)


def event(number: int, device: str, days: float) -> Change:
    """One page view, some time ago."""
    at = datetime.fromtimestamp((NOW - days * DAY) / 1e6, UTC).isoformat()
    after = (str(number), device, f"/page/{number % 37}", at)
    position = Position(f"{number:012}")
    return Change(SCHEMA, Op.CREATE, (str(number),), position, Microseconds(NOW), after)


async def taken(store: PostgresStore, kind: str, rules: Rules, changes: Sequence[Change]) -> float:
    """Changes a second, in batches of 1,000."""
    began = time.perf_counter()
    left = iter(changes)
    while lot := list(islice(left, 1000)):
        async with store.transaction() as transaction:
            await transaction.apply(ApplyEvidence(kind, rules, lot))
    return len(changes) / (time.perf_counter() - began)


async def reads(snapshots: Any, kind: str, device: str, wanted: Details | None) -> float:
    """Milliseconds at the median, for a profile by its id, with or without values."""
    async with snapshots.snapshot(Principal()) as snapshot:
        [id_] = await snapshot.profiles_bearing(kind, [f"cookie:{device}"])
    spent = []
    for _ in range(200):
        async with snapshots.snapshot(Principal()) as snapshot:
            began = time.perf_counter()
            await snapshot.profile(kind, id_)
            if wanted is not None:
                await snapshot.profile_details(kind, id_, wanted, NOW)
            spent.append(1000 * (time.perf_counter() - began))
    return float(np.median(spent))


async def measure(events: int) -> Report:
    report = Report("profile_events")
    async with server() as postgres:
        dsn = postgres.dsn("postgres")
        await migrate(dsn)
        pool = await open_pool(dsn, max_size=4)
        store, snapshots = PostgresStore(pool), PostgresSnapshotStore(pool)
        async with pool.connection() as connection:
            await declare(connection, "default", "visitor", RULES)
            await declare(connection, "default", "each", EACH)
        few = [event(n, f"c{n % 5}", n % 90) for n in range(2000)]
        slow = await taken(store, "each", EACH, few)
        # Half of them of one device, the others of 19.
        many = [
            event(n, "busy" if n % 2 else f"c{n % 38}", 365 * n / events) for n in range(events)
        ]
        rate = await taken(store, "visitor", RULES, many)
        report.add("events under their identifiers", rate, "events/s")
        report.add("events as a record each (2,000 of 5 devices)", slow, "events/s")
        some = [event(10**9 + n, "some", 365 * n / 1000) for n in range(1000)]
        await taken(store, "visitor", RULES, some)
        async with pool.connection() as connection:
            await connection.execute("VACUUM ANALYZE")
        for device, count in (("some", 1000), ("busy", events // 2)):
            plain = await reads(snapshots, "visitor", device, None)
            for words, wanted in (("windows of 7 days", WINDOWS), ("values over all", WHOLE)):
                spent = await reads(snapshots, "visitor", device, wanted)
                name = f"profile with {words}, somebody with {count:,} events, p50"
                report.add(name, spent, "ms", plain)
        await pool.close()
    return report


def main() -> None:
    gc.freeze()  # as the program does
    gc.set_threshold(50_000, 20, 100)
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    report = asyncio.run(measure(events)).to_dict()
    path = RESULTS / "profile_events.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
