"""Connections to a PostgreSQL source: how values are printed, how long is waited, errors."""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict

from penstock.database import connect as database
from penstock.errors import (
    ConfigError,
    PenstockError,
    RetryableError,
    SourceError,
    UnavailableError,
)

SESSION_OPTIONS: Final = (
    "-c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3 -c timezone=UTC "
    "-c bytea_output=hex -c lc_monetary=C"
)
"""How the server prints values: one form, whatever the database's or the role's defaults are."""

_CONNECT_S: Final = 8
"""Long enough for a server far away, short enough that a fault is named within 10 s."""

_SILENCE: Final = "-c wal_sender_timeout=10s"
"""A process that says nothing for so long (stopped, cut off) gives its slot up to the next one,
unless the DSN says else."""

# What a person does about a refusal; libpq gives no code for it, only the server's sentence.
_MENDS: Final = (
    ("password", "give the right user and password in the DSN"),
    ("authentication failed", "give the right user and password in the DSN"),
    ("pg_hba.conf", "allow this host, user and database in the server's pg_hba.conf"),
    ("WAL sender", "ALTER ROLE ... REPLICATION"),
    ("must be superuser or replication role", "ALTER ROLE ... REPLICATION"),
    ("not permitted to log in", "ALTER ROLE ... LOGIN"),
    ("permission denied for database", "GRANT CONNECT ON DATABASE ... TO the role"),
    ('" does not exist', "give the right database and user in the DSN"),
    ("certificate", "give sslmode and sslrootcert in the DSN as the server needs them"),
)


RV = TypeVar("RV")
_GRACE_S: Final = 2.0
"""How much longer than the server we wait for what the server itself should break off."""


class Answering(psycopg.AsyncConnection[Any]):
    """A connection that does not wait for ever for an answer: one whose network went away without a
    word looks like one to a server that thinks."""

    answer_s: float | None = None

    async def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """See `psycopg.AsyncConnection.wait`; raises `psycopg.OperationalError` when it is late."""
        try:
            async with asyncio.timeout(self.answer_s):
                return await super().wait(gen, *args, **kwargs)
        except TimeoutError as error:
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no answer within {self.answer_s:g} s") from error


async def connect(
    dsn: str,
    what: str,
    *,
    replication: bool = False,
    statement_timeout_s: float | None = None,
    answer_s: float | None = None,
) -> psycopg.AsyncConnection:
    """A connection in autocommit mode that prints values in our one form. With ``answer_s`` the
    server has so long for each answer, and a little more.

    Raises `UnavailableError` when the server cannot be reached, `SourceError` when it refuses us.
    """
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise ConfigError(
            f"expected a DSN like postgresql://user@host:5432/database for {what}, got one that "
            f"cannot be read ({one_line(error)}): mend it"
        ) from error
    parameters = conninfo_to_dict(
        database.connection_parameters(dsn, statement_timeout_s=statement_timeout_s)
    )
    arguments: dict[str, Any] = {
        **parameters,
        "connect_timeout": given.get("connect_timeout", _CONNECT_S),
        "client_encoding": "utf8",
        "options": f"{_SILENCE} {parameters.get('options') or ''} {SESSION_OPTIONS}",
    }
    if replication:
        arguments["replication"] = "database"
    try:
        connection = await Answering.connect(autocommit=True, **arguments)
    except psycopg.Error as error:
        raise _refused(error, what) from error
    if answer_s is not None:
        connection.answer_s = answer_s + _GRACE_S
    return connection


def _refused(error: psycopg.Error, what: str) -> PenstockError:
    sentence = one_line(error)
    if "could not translate host name" not in sentence:
        for phrase, mend in _MENDS:
            if phrase in sentence:
                return SourceError(
                    f"expected to be let in by the server of {what}, got {sentence!r}: {mend}"
                )
    return UnavailableError(
        f"expected to reach the server of {what}, got {sentence!r}: start it, or mend the DSN"
    )


def translate(error: psycopg.Error, what: str) -> PenstockError:
    """What a failed command means for capture: try again, or a person must act."""
    meaning = database.translate(error)
    sentence = one_line(error)
    if isinstance(meaning, UnavailableError):
        return UnavailableError(f"lost the connection to {what} ({sentence}): it is opened again")
    if isinstance(meaning, RetryableError):
        return RetryableError(f"{what} cannot do it now ({sentence}): it is tried again")
    if error.sqlstate == "XX000" and "could not open relation" in sentence:
        # A table was dropped while the catalogue was looked at.
        return RetryableError(f"{what} changed while it was looked at ({sentence}): looking again")
    if error.sqlstate == "53400":
        mend = "raise max_replication_slots and max_wal_senders, or drop slots that nobody uses"
    elif error.sqlstate == "42501":
        mend = "grant the right to the role of the DSN"
    else:
        mend = "`penstock check` says what to mend"
    return SourceError(f"{what} refuses it ({sentence}): {mend}", sqlstate=error.sqlstate)


def one_line(error: Exception) -> str:
    """What the driver says, on one line and without passwords."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = "; ".join(line for line in lines if line and not line.startswith(("LINE ", "^")))
    return database.redact(said)
