"""Connecting to MySQL and MariaDB, and what its errors mean. The driver is PyMySQL, in threads.

The driver does what has nothing to do with capture: handshake, authentication, TLS, ordinary
questions. Rows of tables and the binlog are read by ``stream.py`` from the same socket.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from penstock.errors import (
    ConfigError,
    MissingExtraError,
    PenstockError,
    RetryableError,
    SourceError,
    UnavailableError,
)
from penstock.sources.mysql.protocol import Refusal

if TYPE_CHECKING:
    import pymysql

CONNECT_S: Final = 10.0
ANSWER_S: Final = 10.0
_OPTIONS: Final = frozenset({"ssl-mode", "ssl-ca", "ssl-cert", "ssl-key", "socket"})
_SSL_MODES: Final = ("disabled", "preferred", "required", "verify-ca", "verify-identity")
_SESSION: Final = (
    "SET SESSION sql_mode = '', time_zone = '+00:00', net_write_timeout = 600, "
    "net_read_timeout = 60, wait_timeout = 28800"
)

# By the server's number of an error.
_DENIED: Final = frozenset({1044, 1045, 1142, 1143, 1227, 1698, 3118, 4151})
_AGAIN: Final = frozenset({1205, 1213, 1412, 1969, 3024})
_GONE: Final = frozenset({1040, 1053, 1077, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 2003, 2006,
                          2013, 2014, 4031})  # fmt: skip
_NO_BINLOG: Final = 1236


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is and how to be let in."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    options: Mapping[str, str]

    @classmethod
    def parse(cls, dsn: str, what: str) -> Address:
        """Of ``mysql://user:password@host:3306/database``."""
        try:
            parts = urlsplit(dsn)
            options = _options(parts)
            return cls(
                parts.hostname or "",
                parts.port or 3306,
                unquote(parts.username or "root"),
                unquote(parts.password or ""),
                unquote(parts.path.lstrip("/")),
                options,
            )
        except ValueError as error:
            raise ConfigError(
                f"expected a DSN like mysql://user:password@host:3306/database for {what}, got one "
                f"that cannot be read ({error}): mend it"
            ) from error

    def tls(self) -> ssl.SSLContext | None:
        """What the options ask for; None: no TLS."""
        mode = self.options.get("ssl-mode", "preferred")
        local = self.host in ("127.0.0.1", "localhost", "::1") or "socket" in self.options
        if mode == "disabled" or (mode == "preferred" and local):
            return None
        context = ssl.create_default_context(cafile=self.options.get("ssl-ca"))
        if mode != "verify-identity":
            context.check_hostname = False
        if mode in ("preferred", "required"):
            context.verify_mode = ssl.CERT_NONE
        if "ssl-cert" in self.options:
            context.load_cert_chain(self.options["ssl-cert"], self.options.get("ssl-key"))
        return context


def _options(parts: SplitResult) -> dict[str, str]:
    options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    if parts.scheme not in ("mysql", "mariadb") or not parts.hostname:
        raise ValueError("no scheme mysql:// or mariadb://, or no host")
    unknown = options.keys() - _OPTIONS
    if unknown:
        raise ValueError(f"unknown options {sorted(unknown)}")
    if options.get("ssl-mode", "preferred") not in _SSL_MODES:
        raise ValueError(f"ssl-mode is one of {', '.join(_SSL_MODES)}")
    return options


class Session:
    """One connection. Questions run in threads, one at a time, with bounded waits."""

    def __init__(self, connection: pymysql.Connection[Any], what: str) -> None:
        self.connection = connection
        self.what = what
        self._closed = False
        self._asking = threading.Lock()
        """Held by threads, not by tasks: a question outlives a task that is cancelled."""

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a statement; errors are translated."""
        return await asyncio.to_thread(self._fetch, statement, parameters)

    def _fetch(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        import pymysql

        try:
            with self._asking, self.connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return list(cursor.fetchall())
        except (pymysql.Error, OSError) as error:
            raise translated(error, self.what) from error

    async def variables(self, names: Sequence[str], scope: str = "GLOBAL") -> dict[str, str]:
        """Variables of the server, by name; those that it does not have are missing."""
        marks = ", ".join(["%s"] * len(names))
        statement = f"SHOW {scope} VARIABLES WHERE Variable_name IN ({marks})"
        return {name.lower(): value for name, value in await self.fetch(statement, names)}

    def literal(self, value: str | bytes) -> str:
        """A value as it stands in a statement, as the driver quotes it."""
        return str(self.connection.escape(value))

    async def close(self) -> None:
        """End the connection, whatever it is doing."""
        if not self._closed:
            self._closed = True
            self.connection._force_close()  # type: ignore[attr-defined] # noqa: SLF001 - no farewell to a server that may not answer


async def connect(dsn: str, what: str, *, answer_s: float | None = ANSWER_S) -> Session:
    """Connect with a session that prints in UTC and in UTF-8.

    Raises `UnavailableError` when the server cannot be reached, `SourceError` when it refuses us.
    """
    address = Address.parse(dsn, what)
    try:
        import pymysql
    except ImportError as error:
        raise MissingExtraError("capturing MySQL and MariaDB", "mysql") from error
    arguments: dict[str, Any] = {
        "host": address.host,
        "port": address.port,
        "user": address.user,
        "password": address.password,
        "database": address.database or None,
        "charset": "utf8mb4",
        "autocommit": True,
        "connect_timeout": CONNECT_S,
        "read_timeout": answer_s,
        "write_timeout": answer_s,
        "program_name": "penstock",
        "init_command": _SESSION,
        "unix_socket": address.options.get("socket"),
    }
    opening = partial(_open, pymysql.connect, arguments, address)
    try:
        return Session(await asyncio.to_thread(opening), what)
    except (pymysql.Error, OSError, RuntimeError) as error:
        raise _refused(error, what) from error


def _open(connecting: Any, arguments: dict[str, Any], address: Address) -> pymysql.Connection[Any]:
    context = address.tls()
    if context is None:
        return connecting(**arguments)  # type: ignore[no-any-return]
    try:
        return connecting(**arguments, ssl=context)  # type: ignore[no-any-return]
    except Exception as error:
        # The driver gives up where the server has no TLS; "preferred" then means without.
        if address.options.get("ssl-mode", "preferred") != "preferred" or "SSL" not in str(error):
            raise
        return connecting(**arguments)  # type: ignore[no-any-return]


def quoted(*names: str) -> str:
    """Names as the server's identifiers, joined by dots. (Not for statements with parameters, where
    the driver reads per cent signs.)"""
    return ".".join("`" + name.replace("`", "``") + "`" for name in names)


def _number(error: BaseException) -> int:
    first = error.args[0] if error.args else 0
    return first if isinstance(first, int) else 0


def one_line(error: BaseException) -> str:
    """What the driver says, on one line."""
    words = str(error.args[-1] if error.args else error)
    return " ".join(words.split())


def _refused(error: BaseException, what: str) -> PenstockError:
    number, sentence = _number(error), one_line(error)
    if number in _DENIED or number == 1049 or isinstance(error, RuntimeError):
        mend = "mend the user, password or database in the DSN, or the rights"
        if "cryptography" in sentence:
            mend = "use TLS (ssl-mode=required in the DSN), or install the package cryptography"
        return SourceError(
            f"expected to be let in by the server of {what}, got {sentence!r}: {mend}"
        )
    return UnavailableError(
        f"expected to reach the server of {what}, got {sentence!r}: start it, or mend the DSN"
    )


def translated(error: BaseException, what: str) -> PenstockError:
    """What a failed command means for capture: try again, or a person must act."""
    if isinstance(error, OSError):
        return UnavailableError(f"lost the connection to {what} ({error}): it is opened again")
    return refusal_error(Refusal(_number(error), "", one_line(error)), what)


def refusal_error(refusal: Refusal, what: str) -> PenstockError:
    """What the server's error means for capture."""
    number, sentence = refusal.number, refusal.message
    if number == _NO_BINLOG:
        return _no_binlog(sentence, what)
    if number in _GONE or not number:
        return UnavailableError(f"lost the connection to {what} ({sentence}): it is opened again")
    if number in _AGAIN:
        return RetryableError(f"{what} cannot do it now ({sentence}): it is tried again")
    mend = "grant the right to the user of the DSN" if number in _DENIED else "`penstock check`"
    if number not in _DENIED:
        mend = "`penstock check` says what to mend"
    return SourceError(f"{what} refuses it ({sentence}): {mend}", number=number)


def _no_binlog(sentence: str, what: str) -> PenstockError:
    if (
        "same server_uuid" in sentence
        or "same server_id" in sentence
        or "same server-id" in sentence
    ):
        return SourceError(
            f"expected the server id of {what} to be ours alone, got {sentence!r}: another reader "
            "took the stream over; set `server_id` of the source to a number that nobody else has"
        )
    return SourceError(
        f"expected the binlog of {what} to hold what comes next, got {sentence!r}: it was purged "
        "or reset; `penstock drop` the source and run again (its tables are copied anew), and keep "
        "binlogs longer (binlog_expire_logs_seconds, expire_logs_days)",
        number=_NO_BINLOG,
    )
