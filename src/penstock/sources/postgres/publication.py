"""What we leave in the source's database: a publication and a replication slot."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from typing import Final, LiteralString, NamedTuple

import psycopg
from psycopg import sql

from penstock.clock import Clock
from penstock.errors import RetryableError, SourceError
from penstock.sources.postgres.catalogue import (
    Server,
    Slot,
    Table,
    fetch,
    fetch_published,
    fetch_slot,
)
from penstock.sources.postgres.connections import one_line, translate
from penstock.sources.postgres.positions import format_lsn, parse_lsn

_MARK: Final = "made by Penstock"
RESYNC: Final = "`penstock resync`"
"""What mends where the stream has a gap; said in sentences."""

_PUBLICATION: Final[LiteralString] = """
SELECT obj_description(oid, 'pg_publication'), pubinsert AND pubupdate AND pubdelete AND pubtruncate
FROM pg_publication WHERE pubname = %s
"""

DOUBT: Final = "doubt"
"""The name in the state of why changes may be missing: only a repair takes it away."""


class DoubtError(SourceError):
    """Changes may be missing: the state must say so until a repair has compared all rows."""


_WRITERS: Final[LiteralString] = """
SELECT string_agg(format('pid %s (%s, for %s s)', pid,
                         coalesce(nullif(application_name, ''), usename, 'unknown'),
                         extract(epoch FROM now() - xact_start)::integer), ', ')
FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
"""


def default_slot_name(name: str) -> str:
    """``penstock_NAME`` as PostgreSQL allows it for slots; two names never become one."""
    clean = re.sub(r"[^a-z0-9_]", "_", name.lower())
    if clean == name and len(clean) <= 54:
        return f"penstock_{clean}"
    return f"penstock_{clean[:40]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


async def _execute(
    connection: psycopg.AsyncConnection, what: str, statement: sql.Composed | sql.SQL
) -> None:
    try:
        await connection.execute(statement)
    except psycopg.Error as error:
        raise translate(error, what) from error


def in_doubt(what: str, publication: str) -> DoubtError:
    """The error for a publication that left kinds of changes out."""
    return DoubtError(
        f"expected publication {publication!r} of {what} to publish INSERT, UPDATE, DELETE and "
        "TRUNCATE, but somebody has taken some away, and with them changes: "
        f"ALTER PUBLICATION ... SET (publish = 'insert, update, delete, truncate'), then {RESYNC}"
    )


async def check_publication(connection: psycopg.AsyncConnection, what: str, name: str) -> None:
    """Raise `DoubtError` when the publication, while it is read, leaves kinds of changes out."""
    rows = await fetch(connection, what, _PUBLICATION, (name,))
    if rows and not rows[0][1]:
        raise in_doubt(what, name)


class Published(NamedTuple):
    """What `ensure_publication` found: which tables came into the publication only now."""

    added: frozenset[int]
    filters: dict[int, str | None]


async def ensure_publication(
    connection: psycopg.AsyncConnection,
    what: str,
    publication: str,
    tables: Sequence[Table],
    server: Server,
    *,
    mend: bool = False,
) -> Published:
    """Make the publication hold exactly these tables.

    A publication that somebody else made is used as it is, and must hold them. One of ours that
    leaves kinds of changes out is a `DoubtError`, unless ``mend``.
    """
    rows = await fetch(connection, what, _PUBLICATION, (publication,))
    wanted = {table.oid: table for table in tables}
    if not rows:
        await _create_publication(connection, what, publication, tables, server)
        filters = await fetch_published(connection, what, publication)
        return Published(frozenset(wanted), filters)
    (comment, whole) = rows[0]
    have = await fetch_published(connection, what, publication)
    missing = [table for oid, table in wanted.items() if oid not in have]
    if comment == _MARK:
        if not whole and not mend:
            raise in_doubt(what, publication)
        if not whole:
            await _execute(connection, what, _publish_all(publication))
        await _alter_publication(connection, what, publication, wanted, have)
    elif missing or not whole:
        names = ", ".join(table.stream for table in missing) or "all of INSERT, UPDATE, DELETE"
        raise SourceError(
            f"expected publication {publication!r} of {what} to publish {names}, but it does not, "
            "and it was not made by us: ALTER PUBLICATION it, or leave its name out of the project "
            "file"
        )
    filters = await fetch_published(connection, what, publication)
    return Published(frozenset(table.oid for table in missing), filters)


async def _create_publication(
    connection: psycopg.AsyncConnection,
    what: str,
    publication: str,
    tables: Sequence[Table],
    server: Server,
) -> None:
    # Generated columns that are stored travel from PostgreSQL 18 on; before that, and when they
    # are virtual, they are not part of the stream nor of the live table.
    options = "publish_via_partition_root = true"
    if server.version >= 180000:
        options += ", publish_generated_columns = stored"
    name = sql.Identifier(publication)
    async with connection.transaction():
        await _execute(
            connection,
            what,
            sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH ({})").format(
                name, sql.SQL(", ").join(map(_published_table, tables)), sql.SQL(options)
            ),
        )
        await _execute(
            connection, what, sql.SQL("COMMENT ON PUBLICATION {} IS {}").format(name, _MARK)
        )


def _publish_all(publication: str) -> sql.Composed:
    return sql.SQL(
        "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate')"
    ).format(sql.Identifier(publication))


async def _alter_publication(
    connection: psycopg.AsyncConnection,
    what: str,
    publication: str,
    wanted: dict[int, Table],
    have: dict[int, str | None],
) -> None:
    if wanted.keys() == have.keys():
        return
    await _execute(
        connection,
        what,
        sql.SQL("ALTER PUBLICATION {} SET TABLE {}").format(
            sql.Identifier(publication), sql.SQL(", ").join(map(_published_table, wanted.values()))
        ),
    )


def _published_table(table: Table) -> sql.Composed:
    only = sql.SQL("ONLY ") if table.kind == "r" else sql.SQL("")
    return only + sql.Identifier(table.namespace, table.name)


class Identity(NamedTuple):
    """Which server this is, and which of its histories it follows."""

    system: str
    timeline: int


async def identify(replication: psycopg.AsyncConnection, what: str) -> Identity:
    """Ask the server who it is."""
    rows = await fetch(replication, what, "IDENTIFY_SYSTEM")
    return Identity(str(rows[0][0]), int(rows[0][1]))


async def check_identity(
    replication: psycopg.AsyncConnection,
    what: str,
    identity: Identity,
    known: tuple[str | None, str | None],
    seen_lsn: int,
) -> None:
    """Refuse another server, and a history that left ours before what we have seen of it."""
    system, timeline = known
    if system is not None and system != identity.system:
        raise SourceError(
            f"expected the database system {system} behind {what}, got {identity.system}: the DSN "
            f"leads to another server; mend it, or, if this one is right, {RESYNC}"
        )
    if timeline is None or int(timeline) == identity.timeline:
        return
    if int(timeline) < identity.timeline:
        command = f"TIMELINE_HISTORY {identity.timeline}"
        content = (await fetch(replication, what, command))[0][1]
        # Bytes or text, as the version has it.
        text = content if isinstance(content, str) else bytes(content).decode(errors="replace")
        if _left_after(text, timeline, seen_lsn):
            return
    raise SourceError(
        f"expected {what} to continue from {format_lsn(seen_lsn)} on timeline {timeline}, but the "
        f"server is on timeline {identity.timeline}, which left that history earlier: changes that "
        f"are in our tables do not exist there; {RESYNC} takes them back"
    )


def _left_after(history: str, timeline: str, lsn: int) -> bool:
    """Whether a timeline's history passed through another one until that LSN or later."""
    for line in history.splitlines():
        parts = line.split("\t")
        if parts[0].strip() == timeline:
            return parse_lsn(parts[1]) >= lsn
    return False


class NoMomentError(RetryableError):
    """Transactions that write were open all the time: there was no consistent point."""


class Export(NamedTuple):
    """A moment of the source: its LSN and the snapshot to read it with."""

    consistent_point: int
    snapshot: str


async def export_snapshot(
    replication: psycopg.AsyncConnection,
    what: str,
    slot: str,
    *,
    temporary: bool,
    patience_s: float,
    watch: psycopg.AsyncConnection,
    failover: bool = False,
) -> Export:
    """Create a slot and export what the database holds at its consistent point.

    The snapshot can be taken over while the connection is open and not used for anything else. The
    server first waits for the end of all transactions that are writing; after ``patience_s`` that
    is a `NoMomentError`. With ``failover`` (PostgreSQL 17) standbys keep a copy of the slot.
    """
    kind = "TEMPORARY LOGICAL" if temporary else "LOGICAL"
    options = "SNAPSHOT 'export'" + (", FAILOVER true" if failover and not temporary else "")
    command = f'CREATE_REPLICATION_SLOT "{slot}" {kind} pgoutput ({options})'
    try:
        async with asyncio.timeout(patience_s):
            rows = await fetch(replication, what, command)
    except TimeoutError as error:
        writers = (await fetch(watch, what, _WRITERS))[0][0] or "none that we may see"
        raise NoMomentError(
            f"expected a consistent moment of {what} within {patience_s:g} s, but transactions "
            f"that write are still open ({writers}): end them; it is tried again"
        ) from error
    return Export(parse_lsn(rows[0][1]), rows[0][2])


async def claim_slot(
    connection: psycopg.AsyncConnection,
    what: str,
    name: str,
    *,
    clock: Clock,
    patience_s: float = 6.0,
) -> Slot | None:
    """The slot once nobody reads from it; None if there is none.

    A process that was killed holds its slot a moment longer. Raises `RetryableError` when somebody
    still has it after ``patience_s``, `SourceError` when the slot is of another kind.
    """
    until = clock.monotonic() + patience_s
    while True:
        slot = await fetch_slot(connection, what, name)
        if slot is None:
            return None
        if slot.plugin != "pgoutput" or slot.database != connection.info.dbname:
            raise SourceError(
                f"expected replication slot {name!r} of {what} to be a logical one of pgoutput in "
                f"this database, got plugin {slot.plugin!r} in database {slot.database!r}: give "
                "another slot name in the project file"
            )
        if slot.active_pid is None:
            return slot
        if clock.monotonic() >= until:
            raise RetryableError(
                f"expected replication slot {name!r} of {what} to be free, but server process "
                f"{slot.active_pid} sends from it to another client: stop that client"
            )
        await clock.sleep(0.1)


def check_slot(slot: Slot | None, what: str, name: str, resume_lsn: int) -> None:
    """Refuse to go on where changes would be missing."""
    again = f"{RESYNC} finds by comparison what is missing"
    if slot is None:
        raise SourceError(
            f"expected replication slot {name!r} of {what}, from which we have read until "
            f"{format_lsn(resume_lsn)}, but it is gone and with it the changes since: {again}"
        )
    if slot.invalid is not None:
        raise SourceError(
            f"expected replication slot {name!r} of {what} to be valid, got {slot.invalid!r}: "
            f"{again}, and raise max_slot_wal_keep_size"
        )
    if slot.confirmed_lsn is not None and slot.confirmed_lsn > resume_lsn:
        raise SourceError(
            f"expected replication slot {name!r} of {what} to stand at or before "
            f"{format_lsn(resume_lsn)}, where our log ends, got {format_lsn(slot.confirmed_lsn)}: "
            f"somebody else read from it and what lies between is lost to us; {again}"
        )


async def drop_slot(connection: psycopg.AsyncConnection, what: str, name: str) -> bool:
    """Drop the slot; False when there was none."""
    try:
        cursor = await connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
            "WHERE slot_name = %s",
            (name,),
        )
    except psycopg.errors.ObjectInUse as error:
        raise RetryableError(
            f"expected replication slot {name!r} of {what} to be free, but it is in use "
            f"({one_line(error)}): stop `penstock run` first"
        ) from error
    except psycopg.Error as error:
        raise translate(error, what) from error
    return cursor.rowcount > 0


async def drop_publication(connection: psycopg.AsyncConnection, what: str, name: str) -> bool:
    """Drop the publication if we made it; False when there was none of ours."""
    rows = await fetch(connection, what, _PUBLICATION, (name,))
    if not rows or rows[0][0] != _MARK:
        return False
    await _execute(connection, what, sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(name)))
    return True
