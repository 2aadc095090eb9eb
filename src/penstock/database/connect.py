"""Connections to PostgreSQL: one way to open them, one translation of what goes wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

import psycopg
import psycopg_pool
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool

from penstock.errors import (
    BadRecordError,
    FatalError,
    PenstockError,
    RetryableError,
    UnavailableError,
)

APPLICATION_NAME: Final = "penstock"

_NAME_BYTES: Final = 63
"""PostgreSQL cuts an application's name here."""

_DEFAULTS: Final = {
    "application_name": APPLICATION_NAME,
    "connect_timeout": "10",
    # A server that vanished without a word is noticed within about 30 seconds.
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}

# What to do, by the class (two letters) or the whole of the SQLSTATE; the whole goes first.
_MEANING: Final[Mapping[str, tuple[type[PenstockError], str]]] = MappingProxyType(
    {
        "08": (UnavailableError, "the database is not available"),  # connection exception
        "25006": (UnavailableError, "the database is read-only"),  # after a failover
        "25P03": (UnavailableError, "the database closed the session"),  # idle in transaction
        "53300": (UnavailableError, "the database has too many connections"),
        "57P": (UnavailableError, "the database is not available"),  # stopping, starting, crashed
        "40": (RetryableError, "the database could not do it now"),  # serialization, deadlock
        "53": (RetryableError, "the database lacks resources"),
        "53100": (RetryableError, "the disk of the database is full, make room"),
        "55006": (RetryableError, "the database could not do it now"),  # object in use
        "55P03": (RetryableError, "the database could not do it now"),  # lock not available
        "57014": (RetryableError, "the database cancelled the statement"),  # statement timeout
        "58030": (RetryableError, "the database could not read or write"),
        "21": (BadRecordError, "the database refuses the value"),  # cardinality violation
        "22": (BadRecordError, "the database refuses the value"),  # out of range, invalid text
        "23": (BadRecordError, "the database refuses the value"),  # integrity constraint
        "54": (BadRecordError, "the value is too large for the database"),
        "53400": (FatalError, "a limit in the database's settings is reached, raise it"),
    }
)
_REFUSALS: Final = (
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    '" does not exist',
    "is not permitted to log in",
    "permission denied for database",
    "certificate verify failed",
)
_STALE_PLAN: Final = "cached plan must not change result type"


def session_name(worker: str) -> str:
    """What the sessions of one process are called in ``pg_stat_activity``: when it is given up,
    whoever takes over ends them by this name. What tells processes apart stands at the end."""
    return f"{APPLICATION_NAME} {worker.encode('ascii', 'replace').decode()}"[-_NAME_BYTES:]


def connection_parameters(
    dsn: str,
    *,
    application_name: str = APPLICATION_NAME,
    statement_timeout_s: float | None = None,
    lock_timeout_s: float | None = None,
    idle_timeout_s: float | None = None,
) -> str:
    """The DSN with our settings added where it leaves them open.

    Timeouts are sent as options of the session; options that the DSN has already stay.
    """
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    except psycopg.ProgrammingError as error:
        raise translate(error) from error
    options = [given["options"]] if given.get("options") else []
    if statement_timeout_s is not None:
        options.append(f"-c statement_timeout={round(statement_timeout_s * 1000)}")
    if lock_timeout_s is not None:
        options.append(f"-c lock_timeout={round(lock_timeout_s * 1000)}")
    if idle_timeout_s is not None:
        idle_ms = round(idle_timeout_s * 1000)
        options.append(f"-c idle_in_transaction_session_timeout={idle_ms}")
    merged = {**_DEFAULTS, "application_name": application_name, **given}
    if options:
        merged["options"] = " ".join(options)
    return make_conninfo(**merged)


async def connect(
    dsn: str,
    *,
    application_name: str = APPLICATION_NAME,
    statement_timeout_s: float | None = None,
    lock_timeout_s: float | None = None,
) -> psycopg.AsyncConnection[Any]:
    """One connection in autocommit mode: transactions are written out where they are meant."""
    parameters = connection_parameters(
        dsn,
        application_name=application_name,
        statement_timeout_s=statement_timeout_s,
        lock_timeout_s=lock_timeout_s,
    )
    with translated():
        return await psycopg.AsyncConnection.connect(parameters, autocommit=True)


async def open_pool(
    dsn: str,
    *,
    min_size: int = 1,
    max_size: int = 8,
    application_name: str = APPLICATION_NAME,
    statement_timeout_s: float | None = None,
    lock_timeout_s: float | None = None,
    idle_timeout_s: float | None = None,
    open_timeout_s: float = 30,
    wait_s: float = 10,
) -> AsyncConnectionPool[psycopg.AsyncConnection[Any]]:
    """An open pool of connections in autocommit mode; close it with ``await pool.close()``.

    A transaction in which nothing is done for ``idle_timeout_s`` is undone by the server: a process
    that was stopped there must not hold its locks against the others.

    Raises `UnavailableError` when no connection can be made within ``open_timeout_s``; whoever
    wants one of it later waits ``wait_s`` for that.
    """
    parameters = connection_parameters(
        dsn,
        application_name=application_name,
        statement_timeout_s=statement_timeout_s,
        lock_timeout_s=lock_timeout_s,
        idle_timeout_s=idle_timeout_s,
    )
    # A pool tries for ever and tells nothing of why: the first connection says it.
    await (await connect(parameters)).close()
    pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] = AsyncConnectionPool(
        parameters,
        min_size=min_size,
        max_size=max_size,
        kwargs={"autocommit": True},
        name=application_name,
        timeout=wait_s,
        open=False,
    )
    with translated():
        await pool.open(wait=True, timeout=open_timeout_s)
    return pool


def translate(error: psycopg.Error) -> PenstockError:
    """The error of ours that says what to do about a driver's error.

    ``facts`` carry ``sqlstate`` and, where known, ``schema``, ``table``, ``column`` and
    ``constraint``.
    """
    facts = _facts(error)
    said = redact(_first_line(error))
    state = error.sqlstate
    if state is None:
        return _translate_local(error, said)
    for prefix in (state, state[:3], state[:2]):
        if prefix in _MEANING:
            kind, sentence = _MEANING[prefix]
            return kind(f"{sentence}: {said}", **facts)
    if _STALE_PLAN in said:
        return RetryableError(f"a table has changed its shape: {said}", **facts)
    return FatalError(f"the database refused: {said}", **facts)


def _translate_local(error: psycopg.Error, said: str) -> PenstockError:
    """Without a code from the server, only the class and libpq's text tell what happened."""
    if isinstance(error, psycopg_pool.PoolTimeout | psycopg_pool.TooManyRequests):
        return UnavailableError(f"no connection to the database became free: {said}")
    if isinstance(error, psycopg.DataError):
        return BadRecordError(f"the database driver cannot send the value: {said}")
    if not isinstance(error, psycopg.OperationalError):
        return FatalError(f"the database driver refused: {said}")
    if any(sign in str(error) for sign in _REFUSALS):
        return FatalError(f"the database refuses the connection: {said}")
    return UnavailableError(f"the database cannot be reached: {said}")


@contextmanager
def translated() -> Iterator[None]:
    """Driver errors raised inside come out as ours, with the driver's as the cause."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error


def redact(text: str) -> str:
    """``text`` (a DSN, or a message that quotes one) without passwords."""
    text = re.sub(r"(://[^:/@\s]*):[^/\s]*@(?=[^@\s]*)", r"\1:***@", text)
    return re.sub(
        r"""(?i)\b(password|sslpassword|passfile)\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&'"]+)""",
        r"\1=***",
        text,
    )


def _first_line(error: psycopg.Error) -> str:
    diagnostics = error.diag
    text = diagnostics.message_primary or str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def _facts(error: psycopg.Error) -> dict[str, Any]:
    diagnostics = error.diag
    found = {
        "sqlstate": error.sqlstate,
        "schema": diagnostics.schema_name,
        "table": diagnostics.table_name,
        "column": diagnostics.column_name,
        "constraint": diagnostics.constraint_name,
    }
    return {name: value for name, value in found.items() if value is not None}
