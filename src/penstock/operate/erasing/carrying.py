"""An erasure from its request to its receipt.

The request is durable, with its suppression, in one commit: from then on nothing of the subject
comes in. Each holder then erases in a commit of its own that also notes that it is done, so that
whoever starts next, after a kill at any point, goes on where this one stopped; cleaning and
searching are repeated as a whole. Nobody else works on the project meanwhile.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson
import psycopg
import structlog
from psycopg import sql

from penstock import wiring
from penstock.boundaries import Boundary, reach
from penstock.database.connect import translated
from penstock.database.project_lock import hold_project_alone
from penstock.errors import ConfigError
from penstock.log import erasing as log_erasing
from penstock.log.embedded import EmbeddedLog
from penstock.operate.erasing import cleaning, outside, planning, receipts, searching
from penstock.stores.postgres.erasing.base import Holder, Work
from penstock.stores.postgres.erasing.registry import HOLDERS
from penstock.subjects import Subject, Suppression

if TYPE_CHECKING:
    from penstock.project import Project

Connection = psycopg.AsyncConnection[Any]
Progress = Callable[[str], None]
Eraser = Callable[[Connection, Subject], Awaitable[int]]
logger = structlog.get_logger("penstock.erasing")

LOG: Final = "log"
LIMITS: Final = (
    "whoever read what was published keeps what they made of it, unless they follow deletions",
    "source systems keep what they have: erase there too, or it stays suppressed here only",
)


@dataclass
class Outcome:
    """What an erasure did, or would do."""

    number: int | None
    holders: dict[str, int] = field(default_factory=dict)
    records: list[str] = field(default_factory=list)
    mentions: list[str] = field(default_factory=list)
    receipt: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it; an erasure that was done prints its receipt instead."""
        return {
            "holders": self.holders,
            "records": self.records,
            "mentioned_in": self.mentions,
        }


async def preview(project: Project, references: Sequence[str], kind: str | None) -> Outcome:
    """What would go and where: all of it is done, and undone."""
    with translated():
        async with (
            project.pool.connection() as connection,
            connection.transaction(force_rollback=True),
        ):
            tenant = project.settings.tenant
            subject = await planning.find_subject(project, connection, references, kind)
            outcome = Outcome(None, records=sorted(map(str, subject.records)))
            outcome.mentions = [
                f"{source}/{key}"
                for source, key in await planning.mentioning(connection, tenant, subject)
            ]
            for name, erase_in in _erasers(project):
                outcome.holders[name] = await erase_in(connection, subject)
    return outcome


async def erase(
    project: Project,
    references: Sequence[str],
    *,
    reason: str,
    kind: str | None = None,
    trim_log: bool = False,
    progress: Progress = lambda _: None,
) -> Outcome:
    """Erase those who are meant; only while nothing else works on the project. ``trim_log``: all
    that was processed is removed from a log in Kafka, so that nobody can read them there."""
    if trim_log and isinstance(project.log, EmbeddedLog):
        raise ConfigError(outside.NOT_IN_KAFKA)
    async with hold_project_alone(project.dsn, project.settings.project):
        await _finish(project, progress)
        with translated():
            async with project.pool.connection() as connection:
                secret = await _secret(connection, project.settings.tenant)
                async with connection.transaction():
                    subject = await planning.find_subject(project, connection, references, kind)
                    number, mentions = await _request(
                        project, connection, secret, references, subject, reason, trim_log=trim_log
                    )
                    reach(Boundary.ERASE, "before")
                reach(Boundary.ERASE, "after")
        [outcome] = await _finish(project, progress)
    assert outcome.number == number
    outcome.mentions = mentions
    return outcome


async def finish_pending(project: Project, progress: Progress = lambda _: None) -> list[Outcome]:
    """Go on with erasures that a process left behind. Cheap when there are none."""
    if not await _pending(project):
        return []
    async with hold_project_alone(project.dsn, project.settings.project):
        return await _finish(project, progress)


async def suppression(project: Project) -> Suppression:
    """What may not come in again."""
    with translated():
        async with project.pool.connection() as connection:
            tenant = project.settings.tenant
            cursor = await connection.execute(
                "SELECT s.secret, array_agg(d.digest) FILTER (WHERE d.digest IS NOT NULL) "
                "FROM penstock.erasure_secrets s LEFT JOIN penstock.suppressions d USING (tenant) "
                "WHERE s.tenant = %s GROUP BY s.secret",
                [tenant],
            )
            row = await cursor.fetchone()
    return Suppression(b"") if row is None else Suppression(row[0], row[1] or ())


async def listed(project: Project) -> list[dict[str, Any]]:
    """Erasures, the newest first: what was done, and how much is suppressed."""
    with translated():
        async with project.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT e.number, e.state, e.reason, e.requested_at, e.finished_at, e.lifted_at, "
                "e.done, (SELECT count(*) FROM penstock.suppressions s "
                "WHERE s.erasure = e.number AND s.tenant = e.tenant), e.receipt "
                "FROM penstock.erasures e WHERE e.tenant = %s ORDER BY e.number DESC",
                [project.settings.tenant],
            )
            names = (
                "number", "state", "reason", "requested_at", "finished_at", "lifted_at", "erased",
                "suppressed", "receipt",
            )  # fmt: skip
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]


async def lift(project: Project, number: int) -> int:
    """Let new data of an erasure's subjects in again; what was erased does not come back by itself.
    Returns how many digests are suppressed no more."""
    async with hold_project_alone(project.dsn, project.settings.project):
        with translated():
            async with project.pool.connection() as connection, connection.transaction():
                cursor = await connection.execute(
                    "UPDATE penstock.erasures SET lifted_at = clock_timestamp() "
                    "WHERE tenant = %s AND number = %s AND state = 'done'",
                    [project.settings.tenant, number],
                )
                if not cursor.rowcount:
                    raise ConfigError(
                        f"expected the number of an erasure that is done, got {number}: "
                        "see `penstock erase --list`"
                    )
                cursor = await connection.execute(
                    "DELETE FROM penstock.suppressions WHERE tenant = %s AND erasure = %s",
                    [project.settings.tenant, number],
                )
                lifted: int = cursor.rowcount
    return lifted


async def verify(project: Project, text: bytes) -> dict[str, Any]:
    """A receipt, if it is one of this project and as it was signed."""
    async with project.pool.connection() as connection:
        return receipts.verify(text, await _secret(connection, project.settings.tenant))


# --------------------------------------------------------------------------- the request


async def _secret(connection: Connection, tenant: str) -> bytes:
    await connection.execute(
        "INSERT INTO penstock.erasure_secrets (tenant, secret) VALUES (%s, %s) "
        "ON CONFLICT DO NOTHING",
        [tenant, secrets.token_bytes(32)],
    )
    cursor = await connection.execute(
        "SELECT secret FROM penstock.erasure_secrets WHERE tenant = %s", [tenant]
    )
    row = await cursor.fetchone()
    assert row is not None
    return bytes(row[0])


async def _request(
    project: Project,
    connection: Connection,
    secret: bytes,
    references: Sequence[str],
    subject: Subject,
    reason: str,
    *,
    trim_log: bool,
) -> tuple[int, list[str]]:
    tenant = project.settings.tenant
    if subject.says(reason):
        raise ConfigError(
            "expected a reason that can be kept, got one that names whom it is about: say it "
            "without (a ticket's number, an article of law)"
        )
    found = await planning.mentioning(connection, tenant, subject)
    suppressed = Suppression(secret)
    cursor = await connection.execute(
        "INSERT INTO penstock.erasures (tenant, state, subjects, reason) "
        "VALUES (%s, 'erasing', %s, %s) RETURNING number",
        [tenant, [suppressed.of_value(one).hex() for one in references], reason],
    )
    row = await cursor.fetchone()
    assert row is not None
    number: int = row[0]
    key = secrets.token_bytes(32)
    plan = {**subject.to_dict(), "trim_log": trim_log}
    await connection.execute(
        "INSERT INTO penstock.erasure_plans (number, tenant, seal, plan) VALUES (%s, %s, %s, %s)",
        [number, tenant, key, receipts.seal(orjson.dumps(plan), key)],
    )
    await connection.execute(
        "INSERT INTO penstock.suppressions (tenant, digest, erasure) "
        "SELECT %s, unnest(%s::bytea[]), %s ON CONFLICT DO NOTHING",
        [tenant, suppressed.digests_of(subject), number],
    )
    return number, [f"{source}/{name}" for source, name in found]


async def _pending(project: Project) -> bool:
    with translated():
        async with project.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT EXISTS (SELECT FROM penstock.erasures WHERE tenant = %s "
                "AND state <> 'done'), pg_relation_size('penstock.erasure_plans') > 0",
                [project.settings.tenant],
            )
            row = await cursor.fetchone()
    return row is not None and any(row)


# --------------------------------------------------------------------------- carrying it out


def _erasers(project: Project) -> list[tuple[str, Eraser]]:
    """The log first, then every holder, each as a function of a connection and the subject."""
    tenant = project.settings.tenant
    rules = wiring.profile_rules(project.settings) if project.settings.profiles else {}

    async def in_log(connection: Connection, subject: Subject) -> int:
        return await log_erasing.redact(connection, tenant, subject)

    def at(holder: Holder) -> Eraser:
        async def within(connection: Connection, subject: Subject) -> int:
            return await holder.erase(Work(connection, tenant, subject, rules))

        return within

    return [(LOG, in_log), *((holder.name, at(holder)) for holder in HOLDERS)]


async def _finish(project: Project, progress: Progress) -> list[Outcome]:
    """Carry out every erasure that is not done."""
    outcomes = []
    with translated():
        async with project.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT number, plan, seal FROM penstock.erasure_plans WHERE tenant = %s "
                "ORDER BY number",
                [project.settings.tenant],
            )
            plans = await cursor.fetchall()
        for number, plan, key in plans:
            kept = orjson.loads(receipts.seal(bytes(plan), bytes(key)))
            subject, trims = Subject.from_dict(kept), kept.get("trim_log", False)
            outcomes.append(await _carry_out(project, number, subject, progress, trims=trims))
        await _forget_plans(project)
    return outcomes


async def _carry_out(
    project: Project, number: int, subject: Subject, progress: Progress, *, trims: bool
) -> Outcome:
    async with project.pool.connection() as connection:
        await _erase_in_holders(project, connection, number, subject, progress)
    if isinstance(project.log, EmbeddedLog):
        project.log.forget_content()
    progress("topics outside")
    notes, untold = await outside.tell_published(project, subject)
    if project.settings.knowledge.stores:
        progress("second stores")
        await project.follow()
        if any(store.type == "lancedb" for store in project.settings.knowledge.stores.values()):
            notes.append("LanceDB writes a file anew once a tenth of its rows is gone")
        notes += [
            f"the second store {name} has deleted, and gives up the bytes when it merges by itself"
            for name in await project.forget_removed()
        ]
    cleaned = await cleaning.clean(project, progress)
    if project.server is not None:
        searching.mend_server_log(project.server.data_dir, subject.canaries)
    cleaned.left += [*untold, *await outside.in_kafka(project, trims=trims)]
    searched = await searching.search(project, subject.canaries, progress)
    reach(Boundary.ERASE, "before")
    receipt = await _write_receipt(project, number, subject, cleaned, searched, notes)
    reach(Boundary.ERASE, "after")
    logger.info("erasure.done", number=number, found=searched.found)
    return Outcome(
        number,
        {one["holder"]: one["count"] for one in receipt["holders"]},
        receipt=receipt,
    )


async def _erase_in_holders(
    project: Project, connection: Connection, number: int, subject: Subject, progress: Progress
) -> None:
    cursor = await connection.execute(
        "SELECT done FROM penstock.erasures WHERE number = %s", [number]
    )
    row = await cursor.fetchone()
    done = {} if row is None else row[0]
    for name, erase_in in _erasers(project):
        if name in done:
            continue
        progress(name)
        async with connection.transaction():
            count = await erase_in(connection, subject)
            await connection.execute(
                "UPDATE penstock.erasures SET done = done || "
                "jsonb_build_object(%s::text, %s::bigint) WHERE number = %s",
                [name, count, number],
            )
            reach(Boundary.ERASE, "before")
        reach(Boundary.ERASE, "after")
    await connection.execute(
        "UPDATE penstock.erasures SET state = 'cleaning' WHERE number = %s", [number]
    )


async def _write_receipt(
    project: Project,
    number: int,
    subject: Subject,
    cleaned: cleaning.Cleaned,
    searched: searching.Searched,
    notes: Sequence[str],
) -> dict[str, Any]:
    tenant = project.settings.tenant
    async with project.pool.connection() as connection, connection.transaction():
        secret = await _secret(connection, tenant)
        cursor = await connection.execute(
            "SELECT subjects, reason, done, requested_at, (SELECT count(*) FROM "
            "penstock.suppressions s WHERE s.erasure = e.number) "
            "FROM penstock.erasures e WHERE number = %s",
            [number],
        )
        row = await cursor.fetchone()
        assert row is not None
        subjects, reason, done, requested_at, suppressed = row
        receipt = receipts.signed(
            {
                "receipt": 1,
                "project": project.settings.project,
                "erasure": number,
                "subjects": subjects,
                "reason": reason,
                "requested_at": requested_at.isoformat(),
                "finished_at": datetime.now(UTC).isoformat(),
                "records": len(subject.records),
                "holders": [{"holder": name, "count": done[name]} for name, _ in _erasers(project)],
                "suppressed": suppressed,
                "cleaned": {"tables": cleaned.tables, "steps": cleaned.steps},
                "search": searched.to_dict(),
                "left_to_the_operator": cleaned.left,
                "limits": [*LIMITS, *notes],
            },
            secret,
        )
        await connection.execute(
            "UPDATE penstock.erasures SET state = 'done', finished_at = clock_timestamp(), "
            "receipt = %s WHERE number = %s",
            [orjson.dumps(receipt).decode(), number],
        )
        await connection.execute("DELETE FROM penstock.erasure_plans WHERE number = %s", [number])
    return receipt


async def _forget_plans(project: Project) -> None:
    """What sealed plans leave behind goes too."""
    with suppress(psycopg.errors.InsufficientPrivilege):
        async with project.pool.connection() as connection:
            await connection.execute(
                sql.SQL("VACUUM FULL {}").format(sql.Identifier("penstock", "erasure_plans"))
            )
            if project.server is not None:
                await cleaning.let_go_of_wal(connection)
