"""The demo as a story: load, ask, change the world, ask again, and look at the milliseconds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.rows import TupleRow

from penstock.database.embedded import EmbeddedPostgres
from penstock.demo import company
from penstock.demo.memory import PeakMemory
from penstock.demo.narrator import Narrator
from penstock.errors import FatalError
from penstock.operate.profiles import desk
from penstock.project import Project, open_project
from penstock.serving.answer import Answer

PROJECT_FILE = """\
# The project of the demo. `penstock init` writes one like it for you.
project: travel_demo

sources:
  travel:                       # a PostgreSQL database, captured by logical replication
    type: postgres
    dsn: ${TRAVEL_DSN:-%s}
    tables:
      flights:
        title: "Flight {number}"
        searched: [number, origin, destination]      # embedded: a question finds the row by these
        shown: [departs_at, price_eur, seats_left]   # never embedded: always as they are now
      hotels:
        title: "{name}, {city}"
        searched: [name, city, description]
        shown: [stars, night_eur, rooms_left]
      customers:
      card_holders:
      tickets:
      reservations:
  policies:                     # a folder of documents
    type: files
    path: ./policies

profiles:                       # one traveller, whichever table knows them
  traveller:
    tables:
      travel.customers: {identifiers: {email: email}, traits: {name: name, tier: tier}}
      travel.card_holders:
        identifiers: {email: email, phone: phone}
        traits: {favourite_seat: favourite_seat}
      travel.tickets:
        identifiers: {email: email, phone: phone}
        traits: {last_request: request}
    identifiers:
      phone: {form: digits}
"""

CHANGE_PRICE = "change_price.py"
SCRIPT = '''\
"""Change a price at the source: python change_price.py PS204 99"""

import sys
from pathlib import Path

import psycopg

from penstock.config import read_settings

settings = read_settings(Path(__file__).with_name("penstock.yaml"))
with psycopg.connect(settings.sources["travel"].dsn.get_secret_value()) as connection:
    connection.execute("UPDATE flights SET price_eur = %s WHERE number = %s", sys.argv[:0:-1])
'''

_TICKET = "INSERT INTO tickets VALUES (%s, %s, %s, %s, %s)"
Connection = psycopg.AsyncConnection[TupleRow]


@dataclass
class Result:
    """What the demo found, as its ``--json`` prints it."""

    first_answer_s: float = 0.0
    answers: list[dict[str, Any]] = field(default_factory=list)
    seen_after_ms: dict[str, float] = field(default_factory=dict)
    profiles: dict[str, Any] = field(default_factory=dict)
    freshness_ms: dict[str, Any] = field(default_factory=dict)
    embedded_chunks: int = 0
    reused_chunks: int = 0
    peak_rss_mb: float = 0.0
    verify: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All of it."""
        return dict(vars(self))


@contextlib.asynccontextmanager
async def travel_company(folder: Path) -> AsyncIterator[str]:
    """The company's own database, running in ``folder``: what Penstock reads from."""
    server = EmbeddedPostgres(folder)
    dsn = await server.start()
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await _fill(connection)
        yield dsn
    finally:
        await server.stop()


async def _fill(connection: Connection) -> None:
    found = await connection.execute("SELECT to_regclass('public.flights')")
    row = await found.fetchone()
    if row is not None and row[0] is not None:
        return
    async with connection.transaction():
        await connection.execute(company.SCHEMA)
        for statement, rows in (
            ("INSERT INTO flights VALUES (%s, %s, %s, %s, %s, %s, %s)", company.flights()),
            ("INSERT INTO hotels VALUES (%s, %s, %s, %s, %s, %s, %s)", company.hotels()),
            (
                "INSERT INTO customers VALUES (%s, %s, %s, %s, %s)",
                [*company.customers(), *company.TRAVELLERS],
            ),
            ("INSERT INTO card_holders VALUES (%s, %s, %s, %s, %s)", company.CARD_HOLDERS),
            (_TICKET, company.TICKETS),
            ("INSERT INTO reservations VALUES (%s, %s, %s, %s)", company.reservations()),
        ):
            async with connection.cursor() as cursor:
                await cursor.executemany(statement, rows)


async def tell(
    folder: Path, narrator: Narrator, *, changes: int = 300, serve: bool = False
) -> Result:
    """Run the whole story in ``folder``; with ``serve``, stay until interrupted."""
    result = Result()
    folder.mkdir(parents=True, exist_ok=True)
    narrator.opening()
    with PeakMemory() as memory:
        async with travel_company(folder / "source") as dsn:
            company.write_policies(folder / "policies")
            file = folder / "penstock.yaml"
            file.touch(mode=0o600)
            file.write_text(PROJECT_FILE % dsn, encoding="utf-8")
            (folder / CHANGE_PRICE).write_text(SCRIPT, encoding="utf-8")
            narrator.world(len(company.flights()), len(company.hotels()), file)
            async with (
                open_project(file, environment={"TRAVEL_DSN": dsn}) as project,
                project.running(),
            ):
                await _play(project, dsn, folder, narrator, result, changes)
                result.peak_rss_mb = memory.peak_mb
                narrator.ending(result.to_dict())
                if serve:
                    narrator.serving(folder, folder / CHANGE_PRICE)
                    await asyncio.Event().wait()
    return result


async def _play(
    project: Project, dsn: str, folder: Path, narrator: Narrator, result: Result, changes: int
) -> None:
    began = psutil.Process().create_time()
    with narrator.progress("reading the database and the folder"):
        await project.caught_up()
    before: list[Answer] = []
    for question in company.QUESTIONS:
        before.append(await project.answer(question))
        if len(before) == 1:
            result.first_answer_s = round(time.time() - began, 2)
    narrator.first_answers(before, result.first_answer_s)

    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as source:
        embedded = project.embedding_counts()[0]
        result.seen_after_ms = await _change_the_world(project, source, folder)
        narrator.changed(result.seen_after_ms, project.embedding_counts()[0] - embedded)
        after = [await project.answer(question) for question in company.QUESTIONS]
        result.answers = [
            {"question": old.question, "before": old.to_dict(), "after": new.to_dict()}
            for old, new in zip(before, after, strict=True)
        ]
        narrator.side_by_side(before, after)
        result.profiles = await _who_is_who(project, source, narrator)

        project.meters.clear_freshness()
        with narrator.progress(f"{changes} changes of rows and documents"):
            await _many_changes(source, folder, changes)
            await project.caught_up()
    result.freshness_ms = project.freshness()
    result.embedded_chunks, result.reused_chunks = project.embedding_counts()
    narrator.freshness(result.freshness_ms, changes, result.embedded_chunks, result.reused_chunks)
    with narrator.progress("comparing sources with stores"):
        report = await project.verify()
    result.verify = {"differences": report.differences}
    narrator.verified(report.differences)


async def _change_the_world(project: Project, source: Connection, folder: Path) -> dict[str, float]:
    """One price in SQL and one sentence on disk; how long until a query sees each."""
    policy = folder / "policies" / company.POLICY_CHANGED
    text = policy.read_text(encoding="utf-8")
    async with await psycopg.AsyncConnection.connect(project.dsn, autocommit=True) as reader:

        async def price_is_new() -> bool:
            found = await reader.execute(
                "SELECT price_eur FROM travel.flights WHERE number = %s", [company.FLIGHT_ASKED]
            )
            row = await found.fetchone()
            return row is not None and str(row[0]) == company.PRICE_AFTER

        async def policy_is_new() -> bool:
            found = await reader.execute(
                "SELECT 1 FROM penstock.chunks WHERE strpos(text, %s) > 0", [company.SENTENCE_AFTER]
            )
            return await found.fetchone() is not None

        await source.execute(
            "UPDATE flights SET price_eur = %s, seats_left = %s WHERE number = %s",
            [company.PRICE_AFTER, company.SEATS_AFTER, company.FLIGHT_ASKED],
        )
        row_ms = await _until(price_is_new, "the new price")
        policy.write_text(
            text.replace(company.SENTENCE_BEFORE, company.SENTENCE_AFTER), encoding="utf-8"
        )
        document_ms = await _until(policy_is_new, "the new policy")
    return {"row": row_ms, "document": document_ms}


async def _until(seen: Callable[[], Awaitable[bool]], what: str, limit_s: float = 20.0) -> float:
    """Ask until it is seen; the milliseconds that took."""
    began = time.perf_counter()
    while not await seen():
        if time.perf_counter() - began > limit_s:
            raise FatalError(
                f"expected {what} to be visible within {limit_s:.0f} s, but it is not: look at "
                "`penstock status` and the messages above"
            )
        await asyncio.sleep(0.001)
    return round((time.perf_counter() - began) * 1000, 2)


async def _who_is_who(project: Project, source: Connection, narrator: Narrator) -> dict[str, Any]:
    """One traveller out of three tables; a wrong merge, why it came about, and the way back."""
    at = desk(project)

    async def asked() -> Answer:
        await project.caught_up()
        about = f"{at.kind}:{company.TRAVELLER}"
        return await project.answer(company.PROFILE_QUESTION, profile=about)

    first = await asked()
    ada = await at.one(company.TRAVELLER)
    jonas = await at.one(company.TRAVELLERS[1][2])
    narrator.one_traveller(ada, first)
    await source.execute(_TICKET, company.WRONG_TICKET)
    wrong = await asked()
    why = await at.explain(*(f"travel/customers/{row[0]}" for row in company.TRAVELLERS))
    narrator.wrongly_merged(wrong, why)
    # The older id has survived, whose that may be: the other one names the records that joined it.
    survivor = (await at.one(company.TRAVELLER)).id
    ticket = f"travel/tickets/{company.WRONG_TICKET[0]}"
    apart = [jonas.id, ticket] if survivor == ada.id else [ada.id]
    decision = await at.unmerge(apart, by="the demo", reason="two people, one telephone")
    right = await asked()
    narrator.parted(apart, decision, right)
    return {
        "records": [str(record.table) for record in ada.records],
        "answers": [answer.text for answer in (first, wrong, right)],
        "because": [by for *_, by in why.ties],
        "decision": decision,
    }


async def _many_changes(source: Connection, folder: Path, changes: int) -> None:
    """About a hundred a second: mostly prices and seats, one in ten a policy."""
    numbers = [row[0] for row in company.flights()]
    paths = sorted((folder / "policies").glob("*.md"))
    began = time.perf_counter()
    for i in range(changes):
        if i % 10 == 9:
            path = paths[i // 10 % len(paths)]
            text = path.read_text(encoding="utf-8").split("\n\nRevised: ")[0].rstrip()
            path.write_text(f"{text}\n\nRevised: edition {i + 1}.\n", encoding="utf-8")
        else:
            await source.execute(
                "UPDATE flights SET price_eur = price_eur + 1, "
                "seats_left = greatest(seats_left - 1, 0) "
                "WHERE number = %s AND number <> %s",
                [numbers[i % len(numbers)], company.FLIGHT_ASKED],
            )
        await asyncio.sleep(max(0.0, began + (i + 1) * 0.01 - time.perf_counter()))
