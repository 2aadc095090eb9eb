"""Erasure: everybody has canary values in every place that can hold one; some are erased, killed at
many points on the way; then the files of the data directory are searched.

    python bench/erasure.py [SUBJECTS] [ERASED] [KILLS] [SEED]      1000 100 50 1

Stores its figures in ``bench/results/erasure.json`` (of 1,000 subjects or more). The search here is
its own: every file is read whole after the server has stopped, and each value is looked for with
``in``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from penstock.bench.report import Report
from penstock.boundaries import Boundary, Point
from penstock.database.embedded import EmbeddedPostgres
from penstock.identity.fuzzy.columns import Column as MatchColumn
from penstock.identity.fuzzy.model import FieldWeights, Model
from penstock.operate.segments import look_at_segments, segments_of
from penstock.principals import Principal
from penstock.project import open_project
from penstock.records import Change, Column, LogPosition, Microseconds, Op, Position, Schema
from penstock.serving.ledger.feedback import Feedback, Interaction
from penstock.stores.base import DeadLetter, Filter
from penstock.torture.trap import Order

RESULTS = Path(__file__).parent / "results" / "erasure.json"
LOT = 20
KEPT_FROM = 1000
RESUMING = (["erase"], ["run", "--once"])
PROJECT = """
project: erasure
database: embedded
server: {{port: 0}}
knowledge: {{embedder: constant}}
sources:
  crm: {{type: postgres, dsn: "{dsn}", heartbeat: 0.1,
        tables: {{contacts: {{searched: [name, notes]}}, tickets: {{searched: [said]}},
                  orders: {{}}}}}}
  documents: {{type: files, path: ./documents, heartbeat: 0.1}}
  voice: {{type: interactions, heartbeat: 0.1}}
  people: {{type: profile_events, kind: customer, heartbeat: 0.1}}
forms: {{claim: {{slots: {{reason: {{question: "Why?"}}, place: {{question: "Where?"}}}}}}}}
profiles:
  customer:
    tables:
      crm.contacts: {{identifiers: {{email: email}}, traits: {{name: name}}}}
      crm.orders: {{identifiers: {{email: email}}, traits: {{order: what}}}}
    identifiers: {{email: {{}}}}
    segments: {{known: "name is known"}}
"""


def canaries(n: int) -> dict[str, str]:
    """What only this subject has, one value for each place."""
    of = f"q{n:05}z"
    places = (
        "name", "notes", "oldnotes", "ticket", "oldticket", "order", "goneorder", "document",
        "olddocument", "letter", "letterreason", "report", "decision",
        "asked", "told", "comment", "said", "form",
    )  # fmt: skip
    return {place: f"canary{place}{of}" for place in places} | {
        "email": f"canaryemail{of}@example.org",
        "oldemail": f"canaryoldemail{of}@example.org",
        "path": f"canarypath{of}.md",
    }


class World:
    """A source with its subjects, and a project beside it."""

    def __init__(self, folder: Path, dsn: str, subjects: int) -> None:
        self.folder = folder
        self.dsn = dsn
        self.subjects = subjects
        self.orders = folder / "orders"
        (folder / "documents").mkdir()
        (folder / "penstock.yaml").write_text(PROJECT.format(dsn=dsn))

    def fill(self, *, old: bool) -> None:
        """Everybody's rows and documents; the versions of before first."""
        when = "old" if old else ""
        with psycopg.connect(self.dsn, autocommit=True) as source:
            if old:
                source.execute(
                    "CREATE TABLE contacts (id int PRIMARY KEY, name text, email text, notes text);"
                    "CREATE TABLE tickets (id int PRIMARY KEY, email text, said text);"
                    "CREATE TABLE orders (id int PRIMARY KEY, email text, what text);"
                )
            for n in range(self.subjects):
                c = canaries(n)
                (self.folder / "documents" / c["path"]).write_text(
                    f"# The file of {c[when + 'document']}\n\nSomething about them.\n"
                )
                notes, said = f"{c[when + 'notes']} likes it", f"{c[when + 'ticket']} is lost"
                if old:
                    source.execute(
                        "INSERT INTO contacts VALUES (%s, %s, %s, %s)",
                        [n, c["name"], c["email"], notes],
                    )
                    source.execute("INSERT INTO tickets VALUES (%s, %s, %s)", [n, c["email"], said])
                    for number, what, email in (
                        (n, "order", "oldemail"),
                        (n + 100_000, "goneorder", "email"),
                    ):
                        source.execute(
                            "INSERT INTO orders VALUES (%s, %s, %s)", [number, c[email], c[what]]
                        )
                else:
                    source.execute("UPDATE contacts SET notes = %s WHERE id = %s", [notes, n])
                    source.execute("UPDATE tickets SET said = %s WHERE id = %s", [said, n])
                    # Who ordered is somebody else until now: a merge, and an event with its reason.
                    source.execute("UPDATE orders SET email = %s WHERE id = %s", [c["email"], n])
            if not old:
                source.execute("DELETE FROM orders WHERE id >= 100000")

    def run(self, *arguments: str, kill: tuple[str, int] | None = None) -> tuple[int, str]:
        """One command; with ``kill``, it ends itself at that side of the n-th step."""
        environment = {**os.environ}
        if kill is not None:
            side: Any = kill[0]
            Order(Point(Boundary.ERASE, side), kill[1], "kill").write(self.orders)
            environment["PENSTOCK_BOUNDARIES"] = str(self.orders)
        done = subprocess.run(
            [sys.executable, "-m", "penstock.cli", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.orders.unlink(missing_ok=True)
        if done.returncode not in (0, -signal.SIGKILL):
            raise RuntimeError((arguments, done.stdout, done.stderr))
        return done.returncode, done.stdout

    async def name_them_elsewhere(self) -> None:
        """Dead letters, reports, keys, decisions and permissions that name everybody."""
        schema = Schema("crm", "public.contacts", (Column("id", "integer", key=True),
                        Column("email", "text"), Column("letter", "text")))  # fmt: skip
        async with open_project(self.folder / "penstock.yaml") as project:
            letters = []
            for n in range(self.subjects):
                c = canaries(n)
                row = (str(n), c["email"], c["letter"])
                change = Change(schema, Op.UPDATE, (str(n),), Position("1"), Microseconds(1), row)
                letters.append(
                    DeadLetter("tables", "crm", 0, LogPosition(n), change, c["letterreason"])
                )
            async with project.store.transaction() as transaction:
                await transaction.bury(letters)
            async with project.pool.connection() as connection, connection.transaction():
                for n in range(self.subjects):
                    c = canaries(n)
                    await connection.execute(
                        "INSERT INTO penstock.run_reports (instance, report) VALUES (%s, %s)",
                        [str(n), json.dumps({"error": f"{c['report']} {c['email']}"})],
                    )
                    await connection.execute(
                        "INSERT INTO penstock.api_keys (id, digest, label, user_name, user_groups, "
                        "tenant, scopes, created_at) "
                        "VALUES (%s, '', '', %s, '{}', 'default', '{}', 1)",
                        [str(n), c["email"]],
                    )
                    await connection.execute(
                        "SELECT penstock.list_of('default', ARRAY['user:bo', %s], '{}')",
                        [f"user:{c['email']}"],
                    )
                    await connection.execute(
                        "INSERT INTO penstock.profile_decisions (tenant, kind, number, verb, "
                        "identifier, decided_by, reason, decided_at) "
                        "VALUES ('default', 'customer', %s, 'pin', %s, 'x', %s, 1)",
                        [n + 1, f"email:{c['email']}", c["decision"]],
                    )
                    await connection.execute(
                        "INSERT INTO penstock.profile_decision_records VALUES ('default', "
                        "'customer', %s, 'left', 'crm', 'public.contacts', %s)",
                        [n + 1, str(n)],
                    )

    async def talk_with_them(self) -> None:
        """Answers, ratings, conversations, forms, what an application answered by itself; and
        weights of matching that learned their names."""
        nowhere = Filter(sources=("nowhere",))
        async with open_project(self.folder / "penstock.yaml") as project:
            voices, sessions, answerer = project.voices(), project.sessions(), project.answerer()
            for n in range(self.subjects):
                c = canaries(n)
                who = Principal(c["email"])
                answer = await project.answer(
                    f"Where is {c['asked']}?",
                    where=nowhere,
                    principal=who,
                    profile=f"customer:{c['email']}",
                )
                assert answer.id is not None
                await voices.rate(Feedback(answer.id, 1, comment=f"{c['comment']} it was"), who)
                await voices.tell(Interaction(f"And {c['told']}?", "Nobody knows."), who)
                session = await sessions.begin(who)
                question = f"When does {c['said']} open?"
                async for _ in sessions.stream(answerer, session, question, who, where=nowhere):
                    pass
                await sessions.fill(session, "claim", who, None)
                await sessions.fill(session, "claim", who, f"{c['form']} is broken")
            segments = segments_of(project)
            for one in segments:
                await one.declare()
            await look_at_segments(segments)
            shares = {canaries(n)["name"]: 1e-4 for n in range(self.subjects)}
            weights = FieldWeights((0.9, 0.1), (0.1, 0.9), shares, 0.5)
            model = Model(
                (MatchColumn("name", "text", ("name",)),), (weights,), {}, (), -9.0, 5.0, 2.0, 9
            )
            async with project.pool.connection() as connection:
                await connection.execute(
                    "INSERT INTO penstock.profile_models (tenant, kind, number, state, version, "
                    "weights, learned, trained_by) "
                    "VALUES ('default', 'customer', 1, 'former', %s, %s, '{}', 'bench')",
                    [model.version, model.to_json()],
                )

    @staticmethod
    def _named(column: str, where: str) -> str:
        """Whom something names."""
        number = rf"substring({column}, 'q(\d{{5}})z')"
        return f"SELECT {number}::int FROM {where} AND {number} IS NOT NULL"

    async def intact(self, left: set[int]) -> dict[str, bool]:
        """Whether everybody who was not erased is there in every place."""
        wanted = {
            "rows": "SELECT id FROM crm.contacts",
            "tickets": "SELECT id FROM crm.tickets",
            "orders": "SELECT id FROM crm.orders",
            "keys": "SELECT id::int FROM penstock.api_keys",
            "letters": "SELECT (key ->> 0)::int FROM penstock.dead_letters",
            "decisions": "SELECT number - 1 FROM penstock.profile_decisions "
            "WHERE reason <> 'erased'",
            "texts": "SELECT (row_key ->> 0)::int FROM penstock.documents WHERE stream = "
            "'public.tickets' AND deleted_at IS NULL",
            "documents": "SELECT substr(key, 12, 5)::int FROM penstock.documents WHERE stream IS "
            "NULL AND deleted_at IS NULL",
            "profiles": "SELECT DISTINCT key::int FROM penstock.profile_records WHERE stream = "
            "'public.contacts' AND columns IS NOT NULL",
            "events": "SELECT r.key::int FROM people.profile_events e JOIN "
            "penstock.profile_records r ON r.profile = e.other AND r.stream = 'public.contacts' "
            "WHERE e.event = 'merged' AND e.reason IS NOT NULL",
            "memberships": "SELECT r.key::int FROM people.segment_members m JOIN "
            "penstock.profile_records r USING (profile) WHERE r.stream = 'public.contacts'",
            "answers": self._named("body", "penstock.ledger_contents c JOIN "
            "penstock.ledger_entries e USING (number) WHERE kind = 'answer' AND state = 'kept'"),
            "ratings": self._named("body", "penstock.ledger_contents c JOIN "
            "penstock.ledger_entries e USING (number) WHERE kind = 'feedback' AND state = 'kept'"),
            "interactions": self._named("user_name", "voice.interactions WHERE true"),
            "conversations": self._named("t::text", "penstock.session_turns t WHERE true"),
            "weights": "SELECT substring(name, 'q(\\d{5})z')::int FROM penstock.profile_models, "
            "jsonb_object_keys(weights::jsonb -> 'fields' -> 0 -> 'shares') name",
        }  # fmt: skip
        found = {}
        async with (
            open_project(self.folder / "penstock.yaml") as project,
            project.pool.connection() as connection,
        ):
            for name, query in wanted.items():
                cursor = await connection.execute(query)
                found[name] = {row[0] for row in await cursor.fetchall()} == left
        return found


def search(folder: Path, values: list[str]) -> tuple[int, int, dict[str, int]]:
    """Files, bytes, and how many values stand in which."""
    files = size = 0
    found: dict[str, int] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        data = path.read_bytes()
        files, size = files + 1, size + len(data)
        if b"canary" not in data:
            continue
        count = sum(value.encode() in data for value in values)
        if count:
            found[str(path.relative_to(folder))] = count
    return files, size, found


async def measure(
    folder: Path, subjects: int, erased: int, kills: int, seed: int
) -> dict[str, Any]:
    random_ = random.Random(seed)
    async with EmbeddedPostgres(folder / "source", settings={"fsync": "off"}) as source:
        project = folder / "project"
        project.mkdir()
        world = World(project, source.dsn("postgres"), subjects)
        for old in (True, False):
            world.fill(old=old)
            world.run("run", "--once")
        await world.name_them_elsewhere()
        await world.talk_with_them()
        world.run("run", "--once")  # what was said, and what happened to profiles, into the log
        chosen = random_.sample(range(subjects), erased)
        gone = [value for n in chosen for value in canaries(n).values()]
        before = search(project / ".penstock", gone)
        seconds: list[float] = []
        killed: list[str] = []
        lots = [chosen[at : at + LOT] for at in range(0, len(chosen), LOT)]
        for place, lot in enumerate(lots):
            wanted = kills // len(lots) + (place < kills % len(lots))
            begin = ["erase", "--reason", "r", "--yes", "--json"]
            for n in lot:
                begin += [f"email:{canaries(n)['email']}", f"documents/{canaries(n)['path']}"]
                (project / "documents" / canaries(n)["path"]).unlink()
            arguments = begin
            while wanted:
                kill = (random_.choice(["before", "after"]), random_.randint(1, 20))
                code, _ = world.run(*arguments, kill=kill)
                if code == 0:
                    raise RuntimeError(f"expected to be killed at {kill}")
                killed.append(f"{kill[0]} {kill[1]}")
                wanted -= 1
                if arguments is begin:
                    requested = json.loads(world.run("erase", "--list", "--json")[1])
                    arguments = begin if len(requested) == place else RESUMING[0]
                if arguments is not begin:
                    arguments = random_.choice(RESUMING)
            began = time.monotonic()
            world.run(*arguments)
            seconds.append(time.monotonic() - began)
            print(
                f"lot {place + 1}: {len(killed)} kills, finished in {seconds[-1]:.1f} s", flush=True
            )
        done = json.loads(world.run("erase", "--list", "--json")[1])
        # The sources still hold them, and say so again.
        with psycopg.connect(world.dsn, autocommit=True) as connection:
            connection.execute("UPDATE tickets SET said = said || ' still'")
        world.run("run", "--once")
        files, size, found = search(project / ".penstock", gone)
        kept = set(range(subjects)) - set(chosen)
        intact = await world.intact(kept)
        return {
            "subjects": subjects, "erased": erased, "kills": len(killed), "seed": seed,
            "canaries_searched": len(gone), "files_with_canaries_before": len(before[2]),
            "all_done": all(one["state"] == "done" for one in done) and len(done) == len(lots),
            "found_by_the_receipts": sum(one["receipt"]["search"]["found"] for one in done),
            "files": files, "bytes": size, "found": found, "intact": intact,
            "seconds_to_finish": [round(one, 1) for one in seconds],
        }  # fmt: skip


def main() -> None:
    numbers = [int(one) for one in sys.argv[1:]]
    subjects, erased, kills, seed = (numbers + [1000, 100, 50, 1][len(numbers) :])[:4]
    folder = Path(tempfile.mkdtemp(prefix="penstock-erasure-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        found = asyncio.run(measure(folder, subjects, erased, kills, seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = Report("erasure")
    report.add("values of the erased found in files", float(sum(found["found"].values())), "")
    report.add("subjects erased", float(erased), "", float(subjects))
    report.add("kills", float(found["kills"]), "")
    if subjects >= KEPT_FROM:
        RESULTS.write_text(json.dumps({**report.to_dict(), "run": found}, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    if found["found"] or not found["all_done"] or not all(found["intact"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
