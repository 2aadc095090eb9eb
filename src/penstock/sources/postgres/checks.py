"""What ``penstock check`` says about a PostgreSQL source. Changes nothing there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString

import psycopg

from penstock.errors import PenstockError, SourceError
from penstock.sources.base import Finding
from penstock.sources.postgres.catalogue import (
    Server,
    Table,
    choose_tables,
    fetch,
    fetch_published,
    fetch_server,
    fetch_slot,
    fetch_tables,
)
from penstock.sources.postgres.connections import connect
from penstock.sources.postgres.health import assess
from penstock.sources.postgres.options import PostgresOptions

OLDEST_VERSION: Final = 150000
FAILOVER_VERSION: Final = 170000


async def check_source(
    dsn: str,
    name: str,
    patterns: Sequence[str],
    *,
    slot: str,
    publication: str,
    options: PostgresOptions,
) -> list[Finding]:
    """Reachability, settings, rights, tables, publication and slot."""
    what = f"source {name!r}"
    try:
        connection = await connect(dsn, what, statement_timeout_s=10)
    except PenstockError as error:
        return [Finding(f"{name}: connection", "error", *_message_and_mend(error))]
    try:
        server = await fetch_server(connection, what)
        findings = [
            Finding(f"{name}: connection", "ok", f"connected to {server.database!r}"),
            *_check_server(name, server),
            *await _check_replication(dsn, name, what, server),
            *await _check_tables(connection, name, what, patterns, publication, server),
            *await _check_slot(connection, name, what, slot, server, options),
            *await _check_failover(connection, name, what, slot, server, options),
        ]
    except PenstockError as error:
        findings = [Finding(f"{name}: catalogue", "error", *_message_and_mend(error))]
    finally:
        await connection.close()
    return findings


def _message_and_mend(error: PenstockError) -> tuple[str, str]:
    message, _, mend = str(error).rpartition(": ")
    return (message, mend) if message else (mend, "")


def _check_server(name: str, server: Server) -> list[Finding]:
    findings = []
    version = server.version // 10000
    if server.version < OLDEST_VERSION:
        findings.append(
            Finding(
                f"{name}: version",
                "error",
                f"expected PostgreSQL 15 or later, got {version}",
                "upgrade the server",
            )
        )
    else:
        findings.append(Finding(f"{name}: version", "ok", f"PostgreSQL {version}"))
    if server.in_recovery:
        findings.append(
            Finding(
                f"{name}: primary",
                "error",
                "expected a primary server, got a standby",
                "give the primary's host in the DSN",
            )
        )
    if server.wal_level == "logical":
        findings.append(Finding(f"{name}: wal_level", "ok", "wal_level is logical"))
    else:
        findings.append(
            Finding(
                f"{name}: wal_level",
                "error",
                f"expected wal_level 'logical', got {server.wal_level!r}",
                "ALTER SYSTEM SET wal_level = logical; then restart the server",
            )
        )
    if server.encoding == "SQL_ASCII":
        findings.append(
            Finding(
                f"{name}: encoding",
                "warning",
                "the database does not know its encoding (SQL_ASCII): a value that is not UTF-8 "
                "stops the source",
                "move the data to a database with encoding UTF8",
            )
        )
    if server.max_slot_wal_keep_mb == -1:
        findings.append(
            Finding(
                f"{name}: retained WAL",
                "warning",
                "max_slot_wal_keep_size is unlimited: while Penstock is stopped for long, WAL can "
                "fill the source's disk",
                "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB' (then the slot is lost instead "
                "and `penstock resync` repairs), or drop the source when it is not used",
            )
        )
    return findings


async def _check_replication(dsn: str, name: str, what: str, server: Server) -> list[Finding]:
    findings = []
    try:
        connection = await connect(dsn, what, replication=True)
        await connection.close()
        findings.append(Finding(f"{name}: replication", "ok", f"{server.role!r} may replicate"))
    except PenstockError as error:
        findings.append(Finding(f"{name}: replication", "error", *_message_and_mend(error)))
    for setting, used, most in (
        ("max_replication_slots", server.used_slots, server.max_slots),
        ("max_wal_senders", server.used_senders, server.max_senders),
    ):
        subject, message = f"{name}: {setting}", f"{used} of {most} in use"
        if most - used >= 2:
            findings.append(Finding(subject, "ok", message))
        else:
            # One to read from, one more while tables are added.
            findings.append(
                Finding(
                    subject,
                    "warning" if most > used else "error",
                    f"expected room for 2 more, got {message}",
                    f"ALTER SYSTEM SET {setting} = {most + 5}; then restart the server",
                )
            )
    return findings


async def _check_tables(
    connection: psycopg.AsyncConnection,
    name: str,
    what: str,
    patterns: Sequence[str],
    publication: str,
    server: Server,
) -> list[Finding]:
    available = await fetch_tables(connection, what)
    published = await fetch_published(connection, what, publication)
    findings: list[Finding] = []
    chosen: dict[int, Table] = {}
    for pattern in patterns:
        try:
            found = choose_tables([pattern], available, name)
        except PenstockError as error:
            findings.append(Finding(f"{name}: {pattern}", "error", *_message_and_mend(error)))
            continue
        chosen.update((table.oid, table) for table in found)
    findings.extend(_check_table(name, table) for table in chosen.values())
    missing = [table for oid, table in chosen.items() if oid not in published]
    foreign = [table.stream for table in missing if not table.owned]
    if missing and (foreign or not server.may_create):
        findings.append(
            Finding(
                f"{name}: publication",
                "error",
                f"expected to be able to publish {', '.join(foreign) or 'tables'}, but "
                f"{server.role!r} does not own them or may not create a publication",
                f"let the owner run CREATE PUBLICATION {publication} FOR TABLE "
                f"{', '.join(table.stream for table in chosen.values())} "
                "WITH (publish_via_partition_root = true)",
            )
        )
    else:
        state = "will be made" if missing else "is there"
        findings.append(
            Finding(f"{name}: publication", "ok", f"publication {publication!r} {state}")
        )
    return findings


def _check_table(name: str, table: Table) -> Finding:
    subject = f"{name}: {table.stream}"
    key = ", ".join(table.key or ())
    if table.identity == "f" and not table.primary_key:
        return Finding(
            subject,
            "warning",
            "no primary key: the whole row is the key, so equal rows count as one",
            f"ALTER TABLE {table.stream} ADD PRIMARY KEY (...)",
        )
    return Finding(subject, "ok", f"key ({key}), about {max(0, int(table.rows))} rows")


async def _check_slot(
    connection: psycopg.AsyncConnection,
    name: str,
    what: str,
    slot_name: str,
    server: Server,
    options: PostgresOptions,
) -> list[Finding]:
    subject = f"{name}: slot"
    slot = await fetch_slot(connection, what, slot_name)
    if slot is None:
        return [Finding(subject, "ok", f"replication slot {slot_name!r} will be made")]
    found = assess(slot, server, options.wal_budget_bytes)
    stands = found.facts["confirmed_lsn"]
    return [Finding(subject, found.level, f"{found.message}; it stands at {stands}", found.mend)]


_FAILOVER: Final[LiteralString] = """
SELECT (SELECT count(*)::integer FROM pg_replication_slots
        WHERE slot_type = 'physical' AND slot_name = ANY (string_to_array(
            replace(current_setting('synchronized_standby_slots', true), ' ', ''), ','))),
       (SELECT count(*)::integer FROM pg_replication_slots WHERE slot_type = 'physical')
"""


async def _check_failover(
    connection: psycopg.AsyncConnection,
    name: str,
    what: str,
    slot_name: str,
    server: Server,
    options: PostgresOptions,
) -> list[Finding]:
    """Whether a standby that takes over would have the slot, and nothing less than we read."""
    if not options.failover:
        return []
    subject = f"{name}: failover"
    if server.version < FAILOVER_VERSION:
        message = (
            f"expected PostgreSQL 17 or later for failover: true, got {server.version // 10000}"
        )
        mend = "upgrade the server, or set failover: false and `penstock resync` after a failover"
        return [Finding(subject, "error", message, mend)]
    slot = await fetch_slot(connection, what, slot_name)
    if slot is not None and not slot.failover:
        message = f"replication slot {slot_name!r} was made without failover"
        mend = "start `penstock run`, which sets it"
        return [Finding(subject, "warning", message, mend)]
    waited, standbys = (await fetch(connection, what, _FAILOVER))[0]
    if not waited:
        return [
            Finding(
                subject,
                "warning",
                f"the primary does not wait for a standby ({standbys} physical slots): a standby "
                "that takes over may be behind what Penstock has read",
                "set synchronized_standby_slots to the standby's slot, and on the standby "
                "sync_replication_slots = on, hot_standby_feedback = on and a dbname in "
                "primary_conninfo",
            )
        ]
    return [Finding(subject, "ok", f"the slot is copied to standbys; {waited} of them waited for")]


def require_logical(server: Server, what: str) -> None:
    """Refuse a server that cannot be captured at all."""
    if server.version < OLDEST_VERSION:
        raise SourceError(
            f"expected PostgreSQL 15 or later behind {what}, got {server.version // 10000}: "
            "upgrade it"
        )
    if server.in_recovery:
        raise SourceError(f"expected a primary server behind {what}, got a standby: mend the DSN")
    if server.wal_level != "logical":
        raise SourceError(
            f"expected wal_level 'logical' on the server of {what}, got {server.wal_level!r}: "
            "ALTER SYSTEM SET wal_level = logical, then restart the server"
        )
