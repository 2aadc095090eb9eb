"""Connections to a PostgreSQL source: how values are printed, how long is waited, errors."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import conninfo

from penstock.errors import (
    ConfigError,
    PenstockError,
    RetryableError,
    SourceError,
    UnavailableError,
)

SESSION_OPTIONS: Final = (
    "-c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3 -c timezone=UTC "
    "-c bytea_output=hex -c lc_monetary=C -c standard_conforming_strings=on"
)
"""How the server prints values: one form, whatever the database's or the role's defaults are."""

# Long enough for a server far away, short enough that a fault is named within 10 s.
_PATIENCE: Final[dict[str, Any]] = {
    "connect_timeout": 8,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}

# libpq gives no SQLSTATE for a refused connection, only the sentence.
_PERSON_MUST_ACT: Final = (
    ("password authentication failed", "give the right user and password in the DSN"),
    ("no password supplied", "give the password in the DSN"),
    ("authentication failed", "give the right user and password in the DSN"),
    ("no pg_hba.conf entry", "allow this host, user and database in the server's pg_hba.conf"),
    ("permission denied to start WAL sender", "ALTER ROLE ... REPLICATION"),
    ("must be superuser or replication role", "ALTER ROLE ... REPLICATION"),
    ("is not permitted to log in", "ALTER ROLE ... LOGIN"),
    ("permission denied for database", "GRANT CONNECT ON DATABASE ... TO the role"),
    ("does not exist", "give the right database and user in the DSN"),
    ("invalid connection option", "mend the DSN"),
)
_RETRY_CLASSES: Final = ("40", "53", "55", "57", "58")


async def connect(
    dsn: str, what: str, *, replication: bool = False, statement_timeout_s: float = 0
) -> psycopg.AsyncConnection:
    """A connection in autocommit mode that prints values in our one form.

    Raises `UnavailableError` when the server cannot be reached, `SourceError` when it refuses us.
    """
    try:
        given = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise ConfigError(
            f"expected a DSN like postgresql://user@host:5432/database for {what}, got one that "
            f"libpq cannot read ({one_line(error)}): mend it"
        ) from error
    options = f"{given.get('options') or ''} {SESSION_OPTIONS}".strip()
    if statement_timeout_s:
        options += f" -c statement_timeout={int(statement_timeout_s * 1000)}"
    arguments: dict[str, Any] = {
        **{name: value for name, value in _PATIENCE.items() if name not in given},
        "application_name": given.get("application_name") or "penstock",
        "client_encoding": "utf8",
        "options": options,
    }
    if replication:
        arguments["replication"] = "database"
    try:
        return await psycopg.AsyncConnection.connect(dsn, autocommit=True, **arguments)
    except psycopg.Error as error:
        raise _refused(error, what) from error


def _refused(error: psycopg.Error, what: str) -> PenstockError:
    sentence = one_line(error)
    for phrase, mend in _PERSON_MUST_ACT:
        if phrase in sentence and "could not translate host name" not in sentence:
            return SourceError(
                f"expected to be let in by the server of {what}, got {sentence!r}: {mend}"
            )
    return UnavailableError(
        f"expected to reach the server of {what}, got {sentence!r}: start it, or mend the DSN"
    )


def translate(error: psycopg.Error, what: str) -> PenstockError:
    """What a failed command means for the engine."""
    state = error.sqlstate
    sentence = one_line(error)
    if state is None:
        return UnavailableError(f"lost the connection to {what} ({sentence}): it is opened again")
    if state[:2] == "08" or state[:3] == "57P":
        return UnavailableError(f"lost the connection to {what} ({sentence}): it is opened again")
    if state == "57014":
        return RetryableError(f"{what} did not answer in time ({sentence}): it is asked again")
    if state == "55006":
        return RetryableError(f"a replication slot of {what} is in use ({sentence})")
    if state == "53400":
        return SourceError(
            f"{what} has no room ({sentence}): raise max_replication_slots and max_wal_senders, "
            "or drop slots that nobody uses"
        )
    if state[:2] in _RETRY_CLASSES and state != "55000":
        return RetryableError(f"{what} cannot do it now ({sentence}): it is tried again")
    if state == "42501":
        return SourceError(f"{what} refuses it ({sentence}): grant the right to the role")
    return SourceError(f"{what} refuses it ({sentence}): run `penstock check` for what to mend")


def one_line(error: Exception) -> str:
    """What the driver says, on one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line and not line.startswith(("LINE ", "^")))
