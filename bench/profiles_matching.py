"""Profiles with fuzzy matching: changes a second with and without it, in one run.

    python bench/profiles_matching.py [PEOPLE]     default 3,000 people, about half of them twice

The same changes into two kinds of profiles of one store, in turns, lot by lot; one kind matches by
a model that was trained on what was loaded. Stores its figures in
``bench/results/profiles_matching.json``.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penstock.bench.report import Report
from penstock.database.connect import open_pool
from penstock.database.embedded import EmbeddedPostgres
from penstock.database.migrate import migrate
from penstock.identity.fuzzy.training import train
from penstock.identity.rules import KindRule, Rules, TableRule, TraitRule
from penstock.records import Change, Column, Microseconds, Op, Position, Schema
from penstock.stores.base import ApplyEvidence
from penstock.stores.postgres.profiles.kinds import declare
from penstock.stores.postgres.profiles.models import Models
from penstock.stores.postgres.store import PostgresStore

RESULTS = Path(__file__).parent / "results"
NAMES = ("given", "surname", "born", "city", "street")
COLUMNS = (
    Column("id", "bigint", key=True),
    Column("email", "text"),
    *(Column(name, "text") for name in NAMES),
)
SCHEMAS = {source: Schema(source, "people", COLUMNS) for source in ("crm", "shop")}
PARTS = [
    "ber",
    "gel",
    "mann",
    "stein",
    "wald",
    "hof",
    "bach",
    "brand",
    "kel",
    "ler",
    "schmid",
    "dorf",
    "ing",
    "au",
    "hans",
    "rot",
]
GIVEN = [
    "anna",
    "maria",
    "peter",
    "hans",
    "julia",
    "thomas",
    "sofia",
    "lukas",
    "emma",
    "jonas",
    "lea",
    "felix",
    "laura",
    "max",
    "nina",
]
CITIES = [
    "wien",
    "graz",
    "linz",
    "wels",
    "salzburg",
    "villach",
    "steyr",
    "dornbirn",
    "bregenz",
    "krems",
    "baden",
    "leoben",
]
Row = tuple[str | None, ...]


def rules(*, fields: bool) -> Rules:
    table = TableRule(
        identifiers=(("email", "email"),),
        traits={"name": "{given} {surname}"},
        fields={name: name for name in NAMES} if fields else {},
    )
    return Rules(
        kinds={"email": KindRule("email")},
        traits={"name": TraitRule()},
        tables={("crm", "people"): table, ("shop", "people"): table},
    )


KINDS = {"plain": rules(fields=False), "matched": rules(fields=True)}


def person(number: int) -> Row:
    chance = random.Random(number)
    return (
        f"p{number}@mail{number % 97}.org" if number % 3 == 0 else None,
        chance.choice(GIVEN),
        "".join(chance.choice(PARTS) for _ in range(3)),
        f"{chance.randint(1940, 2004)}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}",
        chance.choice(CITIES),
        f"{''.join(chance.choice(PARTS) for _ in range(2))}gasse {chance.randint(1, 90)}",
    )


def wrong(row: Row, number: int) -> Row:
    """With a typing error, and sometimes elsewhere."""
    chance = random.Random(-number)
    surname = str(row[2])
    at = chance.randrange(len(surname))
    moved = person(number + 10**6)[4:] if chance.random() < 0.2 else row[4:]
    return (None, row[1], surname[:at] + surname[at + 1 :], row[3], *moved)


class Changes:
    def __init__(self) -> None:
        self._at = 0

    def change(self, source: str, key: int, row: Row | None) -> Change:
        self._at += 1
        return Change(
            SCHEMAS[source],
            Op.DELETE if row is None else Op.UPDATE,
            (str(key),),
            Position(f"{self._at:012}"),
            Microseconds(self._at),
            None if row is None else (str(key), *row),
            transaction=f"t{self._at}",
        )

    def loaded(self, people: int) -> list[Change]:
        found = []
        for number in range(people):
            row = person(number)
            found.append(self.change("crm", number, row))
            if number % 2:
                found.append(self.change("shop", number, wrong(row, number)))
        return found

    def stream(self, people: int, length: int) -> list[Change]:
        """New people, people who come to the other system, who move, and who go."""
        chance, found = random.Random(7), []
        for number in range(length):
            kind, who = chance.random(), chance.randrange(people)
            if kind < 0.35:
                found.append(self.change("crm", people + number, person(people + number)))
            elif kind < 0.6:
                found.append(self.change("shop", people + number, wrong(person(who), who)))
            elif kind < 0.9:
                row = (*person(who)[:4], *person(who + 10**6)[4:])
                found.append(self.change("crm", who, row))
            else:
                found.append(self.change("shop", who, None))
        return found


async def taken(store: PostgresStore, kind: str, changes: Sequence[Change]) -> float:
    began = time.perf_counter()
    async with store.transaction() as transaction:
        await transaction.apply(ApplyEvidence(kind, KINDS[kind], changes))
    return time.perf_counter() - began


async def measure(people: int) -> Report:
    report, changes = Report("profiles_matching"), Changes()
    folder = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
    folder.chmod(0o755)
    postgres = EmbeddedPostgres(folder / "server")
    try:
        await postgres.start()
        dsn = postgres.dsn("postgres")
        await migrate(dsn)
        pool = await open_pool(dsn, max_size=4)
        try:
            await run(report, changes, pool, people)
        finally:
            await pool.close()
    finally:
        await postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return report


async def run(report: Report, changes: Changes, pool: Any, people: int) -> None:
    store = PostgresStore(pool)
    loaded = changes.loaded(people)
    async with pool.connection() as connection:
        for kind, said in KINDS.items():
            await declare(connection, "default", kind, said)
    for kind in KINDS:
        for start in range(0, len(loaded), 5000):
            await taken(store, kind, loaded[start : start + 5000])
    models = Models(pool, "default", "matched", KINDS["matched"])
    report.add("records", len(loaded), "")
    began = time.perf_counter()
    records = await models.records(20_000)
    trained = train([r.fields for r in records], [r.key.source for r in records])
    report.add("training", time.perf_counter() - began, "s")
    number = await models.keep(trained.model, {}, "bench")
    began = time.perf_counter()
    await models.prepare(number)
    report.add("preparing", len(loaded) / (time.perf_counter() - began), "records/s")
    began = time.perf_counter()
    await models.use(number)
    report.add("changing over (the stream waits)", 1000 * (time.perf_counter() - began), "ms")
    async with pool.connection() as connection:
        await connection.execute("VACUUM ANALYZE")
    await streamed(report, changes, store, people)
    async with pool.connection() as connection:
        for table in ("profile_records", "profile_blocks", "profile_matches"):
            cursor = await connection.execute(
                f"SELECT pg_total_relation_size('penstock.{table}') / 1e6, count(*) "
                f"FROM penstock.{table} WHERE kind = 'matched'"
            )
            [(megabytes, rows)] = await cursor.fetchall()
            report.add(f"{table}: rows", rows, "")
            report.add(f"{table}: on disk", float(megabytes), "MB")


async def streamed(report: Report, changes: Changes, store: PostgresStore, people: int) -> None:
    for size, length in ((500, 3000), (1, 300)):
        spent: dict[str, list[float]] = {kind: [] for kind in KINDS}
        lots = changes.stream(people, length)
        for start in range(0, length, size):
            for kind in KINDS:
                spent[kind].append(await taken(store, kind, lots[start : start + size]))
        if size > 1:
            rate = {kind: length / sum(one) for kind, one in spent.items()}
            report.add(f"changes in batches of {size}", rate["matched"], "changes/s", rate["plain"])
            continue
        for percent in (50, 95):
            ms = {k: float(np.percentile(one, percent)) * 1000 for k, one in spent.items()}
            report.add(f"one change p{percent}", ms["matched"], "ms", ms["plain"])


def main() -> None:
    people = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    report = asyncio.run(measure(people)).to_dict()
    (RESULTS / "profiles_matching.json").write_text(
        json.dumps(report, indent=2) + "\n", encoding="utf-8"
    )
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
