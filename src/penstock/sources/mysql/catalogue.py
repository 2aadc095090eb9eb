"""What the source's catalogue says: the server, its tables, their columns. One question each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from penstock.errors import SourceError
from penstock.sources.mysql.connections import Session
from penstock.sources.mysql.positions import FIRST_EVENT
from penstock.sources.mysql.shapes import Shape, ShapeColumn

_SYSTEM: Final = ("mysql", "information_schema", "performance_schema", "sys")
_VARIABLES: Final = (
    "version", "log_bin", "binlog_format", "binlog_row_image", "binlog_row_metadata",
    "binlog_row_value_options", "server_id", "server_uuid", "binlog_checksum", "gtid_mode",
    "expire_logs_days", "binlog_expire_logs_seconds", "hostname", "log_slave_updates",
    "log_replica_updates", "read_only", "binlog_legacy_event_pos", "lower_case_table_names",
    "max_connections", "gtid_strict_mode", "encrypt_binlog",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Server:
    """Settings that capture depends on."""

    version: str
    mariadb: bool
    log_bin: bool
    binlog_format: str
    row_image: str
    row_metadata: str
    row_value_options: str
    server_id: int
    identity: str
    gtids: bool
    expire_s: float
    lower_case_names: int

    @property
    def describes_columns(self) -> bool:
        """Whether the log says what its columns are called."""
        return self.row_metadata == "FULL"

    @property
    def can_describe_columns(self) -> bool:
        """Whether it could be told to."""
        return bool(self.row_metadata)

    @property
    def flavour(self) -> str:
        """What it is called."""
        return f"{'MariaDB' if self.mariadb else 'MySQL'} {self.version.split('-')[0]}"


async def fetch_server(session: Session) -> Server:
    """The server's settings."""
    found = await session.variables(_VARIABLES)
    version = str((await session.fetch("SELECT VERSION()"))[0][0])
    mariadb = "mariadb" in version.lower()
    expire_s = float(found.get("binlog_expire_logs_seconds", 0) or 0)
    if not expire_s:
        expire_s = 86400 * float(found.get("expire_logs_days", 0) or 0)
    return Server(
        version=version.removeprefix("5.5.5-"),
        mariadb=mariadb,
        log_bin=found.get("log_bin", "OFF").upper() == "ON",
        binlog_format=found.get("binlog_format", "ROW").upper(),
        row_image=found.get("binlog_row_image", "FULL").upper(),
        row_metadata=found.get("binlog_row_metadata", "").upper(),
        row_value_options=found.get("binlog_row_value_options", ""),
        server_id=int(found.get("server_id", 0)),
        identity=found.get("server_uuid") or f"server_id:{found.get('server_id', 0)}",
        gtids=mariadb or found.get("gtid_mode", "OFF").upper() == "ON",
        expire_s=expire_s,
        lower_case_names=int(found.get("lower_case_table_names", 0)),
    )


@dataclass(frozen=True, slots=True)
class Table:
    """A table that might be captured."""

    database: str
    name: str
    kind: str
    engine: str
    rows: int
    key: tuple[str, ...]

    @property
    def stream(self) -> str:
        """How changes of this table name it."""
        return f"{self.database}.{self.name}"


_TABLES: Final = """
SELECT t.TABLE_SCHEMA, t.TABLE_NAME, t.TABLE_TYPE, coalesce(t.ENGINE, ''),
       coalesce(t.TABLE_ROWS, 0)
FROM information_schema.TABLES t
WHERE t.TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')
ORDER BY 1, 2
"""

# Unique keys without empty parts and without parts of columns: the primary one first, then by name.
_KEYS: Final = """
SELECT s.TABLE_SCHEMA, s.TABLE_NAME, s.INDEX_NAME, s.COLUMN_NAME, s.NULLABLE, s.SUB_PART
FROM information_schema.STATISTICS s
WHERE s.NON_UNIQUE = 0
  AND s.TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')
ORDER BY 1, 2, s.INDEX_NAME <> 'PRIMARY', 3, s.SEQ_IN_INDEX
"""

_COLUMNS: Final = """
SELECT c.COLUMN_NAME, c.COLUMN_TYPE, c.CHARACTER_SET_NAME
FROM information_schema.COLUMNS c
WHERE c.TABLE_SCHEMA = %s AND c.TABLE_NAME = %s
ORDER BY c.ORDINAL_POSITION
"""

_COLUMN_NAMES: Final = """
SELECT c.TABLE_SCHEMA, c.TABLE_NAME, c.COLUMN_NAME
FROM information_schema.COLUMNS c
WHERE c.TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')
ORDER BY 1, 2, c.ORDINAL_POSITION
"""


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def fetch_tables(session: Session) -> list[Table]:
    """All tables and views that are not the system's own and that we may see, with their keys."""
    keys: dict[tuple[str, str], dict[str, list[str] | None]] = {}
    for database, table, index, column, nullable, part in await session.fetch(_KEYS):
        indexes = keys.setdefault((database, table), {})
        if nullable == "YES" or part is not None or column is None:
            indexes[index] = None
        elif (columns := indexes.setdefault(index, [])) is not None:
            columns.append(column)
    found = []
    for database, name, kind, engine, rows in await session.fetch(_TABLES):
        usable = [columns for columns in keys.get((database, name), {}).values() if columns]
        key = tuple(usable[0]) if usable else ()
        found.append(Table(database, name, kind, engine, int(rows), key))
    return found


async def fetch_shape(session: Session, table: Table) -> Shape:
    """The columns of a table as they are now."""
    return Shape(
        tuple(
            ShapeColumn(
                name,
                _text(kind),
                None if charset is None else _text(charset),
                name in table.key,
            )
            for name, kind, charset in await session.fetch(_COLUMNS, (table.database, table.name))
        )
    )


async def fetch_column_names(session: Session) -> dict[str, list[str]]:
    """The columns of all tables, by stream."""
    found: dict[str, list[str]] = {}
    for database, table, column in await session.fetch(_COLUMN_NAMES):
        found.setdefault(f"{database}.{table}", []).append(column)
    return found


async def fetch_charsets(session: Session) -> dict[int, str]:
    """The character set of each collation, by its number."""
    statement = "SELECT ID, CHARACTER_SET_NAME FROM information_schema.COLLATIONS"
    found = {
        int(number): _text(name)
        for number, name in await session.fetch(statement)
        if number is not None and name is not None
    }
    try:
        more = await session.fetch(
            "SELECT ID, CHARACTER_SET_NAME FROM "
            "information_schema.COLLATION_CHARACTER_SET_APPLICABILITY WHERE ID IS NOT NULL"
        )
    except SourceError:
        return found  # MySQL has no such column, and needs none
    return found | {int(number): _text(name) for number, name in more}


async def fetch_end(session: Session) -> tuple[str, int]:
    """Where the binlog ends now: what committed before lies before it."""
    rows = await session.fetch(await _status_statement(session))
    if not rows:
        raise SourceError(
            f"expected the server of {session.what} to write a binlog, got none: start it with "
            "log_bin and a server_id"
        )
    return _text(rows[0][0]), int(rows[0][1])


async def _status_statement(session: Session) -> str:
    """MySQL gave the statement another name in 8.4."""
    version = str(session.connection.get_server_info())  # type: ignore[no-untyped-call] # of the driver
    if "mariadb" in version.lower():
        return "SHOW MASTER STATUS"
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    recent = int(major) > 8 or (int(major) == 8 and int(minor) >= 4)
    return "SHOW BINARY LOG STATUS" if recent else "SHOW MASTER STATUS"


async def fetch_files(session: Session) -> dict[str, int]:
    """The binlogs that the server still has, with their sizes."""
    return {_text(row[0]): int(row[1]) for row in await session.fetch("SHOW BINARY LOGS")}


async def fetch_gtids(session: Session, server: Server, file: str, offset: int) -> str:
    """Which transactions lie before a place of the log (MySQL: before now, which may be more)."""
    if server.mariadb:
        if offset <= FIRST_EVENT:
            return ""
        rows = await session.fetch("SELECT BINLOG_GTID_POS(%s, %s)", (file, offset))
        return _text(rows[0][0] or "")
    rows = await session.fetch("SELECT @@GLOBAL.gtid_executed")
    return _text(rows[0][0]).replace("\n", "")


def choose_tables(patterns: Sequence[str], tables: Sequence[Table], what: str) -> list[Table]:
    """The tables that the project names (``shop.flights`` or ``shop.*``).

    Raises `SourceError` when a name or pattern finds nothing that can be captured.
    """
    chosen: dict[str, Table] = {}
    for pattern in patterns:
        glob = is_pattern(pattern)
        found = [table for table in tables if matches(pattern, table.stream)]
        if glob:
            found = [table for table in found if table.kind == "BASE TABLE"]
        if not found:
            have = ", ".join(repr(t.stream) for t in tables if t.kind == "BASE TABLE")[:300]
            raise SourceError(
                f"expected a table {pattern!r} in {what}, got these: {have or 'none'}; mend the "
                "name in the project file (DATABASE.TABLE), make the table, or grant SELECT on it",
                table=pattern,
            )
        chosen.update((table.stream, table) for table in found)
    for table in chosen.values():
        refuse_what_cannot_be_captured(table, what)
    return list(chosen.values())


def is_pattern(pattern: str) -> bool:
    """Whether it stands for several tables."""
    return any(mark in pattern for mark in "*?[")


def matches(pattern: str, stream: str) -> bool:
    """Whether a name or pattern of the project file means this table."""
    return fnmatchcase(stream, pattern) if is_pattern(pattern) else stream == pattern


def refuse_what_cannot_be_captured(table: Table, what: str) -> None:
    """Raises `SourceError` with what to do."""
    named = f"table {table.stream!r} of {what}"
    if table.kind != "BASE TABLE":
        raise SourceError(f"expected a table, got a {table.kind.lower()} for {named}: name tables")
    if table.engine.lower() not in ("innodb", "rocksdb"):
        raise SourceError(
            f"expected {named} to be transactional, got engine {table.engine!r}: "
            "ALTER TABLE ... ENGINE = InnoDB"
        )
    if not table.key:
        raise SourceError(
            f"expected a key on {named}, got none: add a primary key, or a unique one of columns "
            "that are NOT NULL"
        )
