"""Profiles: changes of evidence a second, point reads, an identifier that a crowd bears.

    python bench/profiles.py [PROFILES] [FOLDER]     default 100,000 profiles of two records each

Works on the store alone, as the loop does: batches of changes, each with its own transaction.
Stores its figures in ``bench/results/profiles.json``; of a million or more in
``bench/results/profiles_million.json``. A FOLDER is kept with the profiles in it: the next run
finds them loaded (a million takes minutes) and repeats what loading took.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from penstock.bench.report import Report
from penstock.database.connect import open_pool
from penstock.database.embedded import EmbeddedPostgres
from penstock.database.migrate import migrate
from penstock.identity.rules import KindRule, Rules, TableRule, TraitRule
from penstock.principals import Principal
from penstock.records import Change, Column, Microseconds, Op, Position, Row, Schema
from penstock.stores.base import ApplyEvidence
from penstock.stores.postgres.profiles.kinds import declare
from penstock.stores.postgres.search import PostgresSnapshotStore
from penstock.stores.postgres.store import PostgresStore

RESULTS = Path(__file__).parent / "results"
KIND = "customer"
COLUMNS = (
    Column("id", "bigint", key=True),
    Column("email", "text"),
    Column("phone", "text"),
    Column("name", "text"),
)
SCHEMAS = {source: Schema(source, "public.people", COLUMNS) for source in ("crm", "shop")}
TABLE = TableRule(
    identifiers=(("email", "email"), ("phone", "phone")), traits={"name": "name", "mail": "email"}
)
RULES = Rules(
    kinds={"email": KindRule("email", priority=5), "phone": KindRule("phone", region="DE")},
    traits={"name": TraitRule("most_recent"), "mail": TraitRule("union")},
    tables={("crm", "public.people"): TABLE, ("shop", "public.people"): TABLE},
)
BEGAN = int(time.time())  # a kept folder has seen the changes of other runs
clock = count(BEGAN * 10**6)
SIZES = ((5000, 40_000), (500, 10_000))
MANY = 1_000_000


@asynccontextmanager
async def server(kept: Path | None = None) -> AsyncIterator[EmbeddedPostgres]:
    folder = kept or Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    postgres = EmbeddedPostgres(folder / "server")
    try:
        await postgres.start()
        yield postgres
    finally:
        await postgres.stop()
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)


def change(source: str, key: int, row: Sequence[str | None] | None, op: Op = Op.UPDATE) -> Change:
    at = next(clock)
    after: Row | None = None if row is None else (str(key), *row)
    op = Op.DELETE if row is None else op
    return Change(
        SCHEMAS[source],
        op,
        (str(key),),
        Position(f"{at:018}"),
        Microseconds(at),
        after,
        transaction=f"t{at}",
    )


def person(number: int) -> tuple[str, str, str]:
    return f"p{number}@mail{number % 97}.org", f"+4930{10_000_000 + number}", f"Person {number}"


def loaded(people: int) -> Iterable[Change]:
    """Everybody twice: in one system with both identifiers, in the other with one of them."""
    for number in range(people):
        email, phone, name = person(number)
        yield change("crm", number, (email, phone, name), Op.CREATE)
        shown = (email, None, name) if number % 2 else (None, phone, name)
        yield change("shop", number, shown, Op.CREATE)


def stream(people: int, length: int) -> Iterable[Change]:
    """More records of people that are known, other addresses, records that go, and new people; the
    same ones for each call in one run."""
    first = people + BEGAN % 10**8 * 10**5
    chance = random.Random(first + length)
    fresh = first
    for number in range(length):
        kind, who = chance.random(), chance.randrange(people)
        email, phone, name = person(who)
        if kind < 0.4:
            yield change("shop", first + number, (email, None, name), Op.CREATE)
        elif kind < 0.7:
            yield change("crm", who, (f"new{first + number}.{email}", phone, name))
        elif kind < 0.85:
            yield change("shop", who, None)
        else:
            fresh += 1
            yield change("crm", fresh, person(fresh), Op.CREATE)


async def taken(store: PostgresStore, changes: Iterable[Change], size: int) -> list[float]:
    """How long each batch took."""
    spent, left = [], iter(changes)
    while batch := list(islice(left, size)):
        began = time.perf_counter()
        async with store.transaction() as transaction:
            await transaction.apply(ApplyEvidence(KIND, RULES, batch))
        spent.append(time.perf_counter() - began)
    return spent


async def reads(snapshots: PostgresSnapshotStore, people: int, number: int) -> list[float]:
    chance, spent = random.Random(3), []
    for _ in range(number):
        id_ = f"{KIND}-{chance.randrange(1, people)}"
        async with snapshots.snapshot(Principal()) as snapshot:
            began = time.perf_counter()
            await snapshot.profile(KIND, id_)
            spent.append(1000 * (time.perf_counter() - began))
    return spent


async def plain(pool: Any, changes: Iterable[Change], size: int) -> float:
    """The same rows as they are, into one table with an index for each column: what storing costs
    without knowing who is who. Rows a second."""
    left, spent, rows = iter(changes), 0.0, 0
    async with pool.connection() as connection:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS plain (source text, id text, email text, phone text, "
            "name text, PRIMARY KEY (source, id)); CREATE INDEX IF NOT EXISTS e ON plain (email);"
            "CREATE INDEX IF NOT EXISTS p ON plain (phone)"
        )
        while batch := [c for c in islice(left, size) if c.after is not None]:
            rows_now = {(c.schema.source, c.key): c.after for c in batch if c.after is not None}
            values = [(source, *after) for (source, _), after in rows_now.items()]
            began = time.perf_counter()
            await connection.execute(
                "INSERT INTO plain SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], "
                "%s::text[], %s::text[]) ON CONFLICT (source, id) DO UPDATE "
                "SET email = excluded.email, phone = excluded.phone, name = excluded.name",
                [list(column) for column in zip(*values, strict=True)],
            )
            spent += time.perf_counter() - began
            rows += len(values)
    return rows / spent


async def readable(store: PostgresStore, snapshots: Any, people: int) -> list[float]:
    """From a change of somebody until a reader has found them by what it says, each alone."""
    chance, spent = random.Random(BEGAN), []
    for number in range(500):
        who = chance.randrange(people)
        email, phone, name = person(who)
        said = f"read{BEGAN}-{number}.{email}"
        began = time.perf_counter()
        await taken(store, [change("crm", who, (said, phone, name))], 1)
        async with snapshots.snapshot(Principal()) as snapshot:
            [id_] = await snapshot.profiles_bearing(KIND, [f"email:{said}"])
            assert (await snapshot.profile(KIND, id_)) is not None
        spent.append(1000 * (time.perf_counter() - began))
    return spent


async def load(store: PostgresStore, pool: Any, people: int, kept: Path | None) -> dict[str, float]:
    """Records a second of loading, and of storing the same rows as they are."""
    told = None if kept is None else kept / "loaded.json"
    if told is not None and told.exists():
        found: dict[str, float] = json.loads(told.read_text(encoding="utf-8"))
        return found
    began = time.perf_counter()
    await taken(store, loaded(people), 5000)
    rate = 2 * people / (time.perf_counter() - began)
    found = {"rate": rate, "floor": await plain(pool, loaded(people), 5000)}
    if told is not None:
        told.write_text(json.dumps(found), encoding="utf-8")
    return found


async def measure(people: int, kept: Path | None) -> Report:
    report = Report("profiles" if people < MANY else "profiles_million")
    async with server(kept) as postgres:
        dsn = postgres.dsn("postgres")
        await migrate(dsn)
        pool = await open_pool(dsn, max_size=4)
        store, snapshots = PostgresStore(pool), PostgresSnapshotStore(pool)
        async with pool.connection() as connection:
            await declare(connection, "default", KIND, RULES)
        report.add("profiles", people, "")
        loading = await load(store, pool, people, kept)
        report.add("loading", loading["rate"], "records/s", loading["floor"])
        async with pool.connection() as connection:
            await connection.execute("VACUUM ANALYZE" if kept is None else "ANALYZE")
        for size, length in SIZES:
            cpu = time.process_time()
            spent = await taken(store, stream(people, length), size)
            cpu = 1e6 * (time.process_time() - cpu) / length
            floor = await plain(pool, stream(people, length), size)
            report.add(f"changes in batches of {size}", length / sum(spent), "changes/s", floor)
            report.add(f"one of these, our processor's part (batches of {size})", cpu, "us")
        single = [1000 * one for one in await taken(store, stream(people, 501), 1)]
        told = await readable(store, snapshots, people)
        point = await reads(snapshots, people, 3000)
        for name, times, last in (
            ("one change", single, 95),
            ("change to readable by what it says", told, 95),
            ("point read by id", point, 99),
        ):
            report.add(f"{name} p50", float(np.percentile(times, 50)), "ms")
            report.add(f"{name} p{last}", float(np.percentile(times, last)), "ms")
        await hub(report, store)
        await pool.close()
    return report


async def hub(report: Report, store: PostgresStore) -> None:
    """100,000 rows with one address: nobody is merged by it, and it stops nothing."""
    crowd = [
        change("shop", 10**14 + n, ("info@hub.org", None, f"Hub {BEGAN} {n}"), Op.CREATE)
        for n in range(100_000)
    ]
    began = time.perf_counter()
    await taken(store, crowd, 5000)
    spent_s = time.perf_counter() - began
    report.add("a crowd of 100,000 with one address", 100_000 / spent_s, "records/s")
    after = [
        change("shop", 2 * 10**14 + BEGAN * 1000 + n, ("info@hub.org", None, "x"), Op.CREATE)
        for n in range(200)
    ]
    spent = [1000 * one for one in await taken(store, after, 1)]
    report.add("one more with the crowd's address p95", float(np.percentile(spent, 95)), "ms")


def main() -> None:
    gc.freeze()  # as the program does
    gc.set_threshold(50_000, 20, 100)
    people = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    kept = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    report = asyncio.run(measure(people, kept)).to_dict()
    path = RESULTS / f"{report['name']}.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
