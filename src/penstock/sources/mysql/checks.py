"""What ``penstock check`` says about a MySQL source. Changes nothing there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from penstock.errors import PenstockError, SourceError
from penstock.sources.base import Finding
from penstock.sources.mysql.catalogue import (
    Server,
    choose_tables,
    fetch_end,
    fetch_files,
    fetch_server,
    fetch_shape,
    fetch_tables,
)
from penstock.sources.mysql.connections import Session, connect
from penstock.sources.mysql.shapes import live_type

_DAY_S: Final = 86400.0
_AND_RECONNECT: Final = "(and in the configuration), then reconnect the applications"


def refuse_server(server: Server, what: str) -> None:
    """Raises `SourceError` for a server that cannot be captured as it is set."""
    for finding in server_findings(server, what):
        if finding.level == "error":
            raise SourceError(f"{finding.message} on the server of {what}: {finding.mend}")


def server_findings(server: Server, name: str) -> list[Finding]:
    """What is to be said about the server's settings."""
    findings = [_setting(name, *row) for row in _required(server)]
    if server.describes_columns:
        findings.append(Finding(f"{name}: binlog_row_metadata", "ok", "columns are described"))
    elif server.can_describe_columns:
        findings.append(
            Finding(
                f"{name}: binlog_row_metadata",
                "warning",
                f"binlog_row_metadata is {server.row_metadata!r}: after some alterations a table "
                "must be copied again, because its rows in the log do not say what their columns "
                "are",
                "SET GLOBAL binlog_row_metadata = FULL (and in the server's configuration)",
            )
        )
    if 0 < server.expire_s < _DAY_S:
        findings.append(
            Finding(
                f"{name}: binlog expiry",
                "warning",
                f"binlogs are purged after {server.expire_s / 3600:.1f} h: while Penstock is "
                "stopped for longer, changes are lost and tables are copied anew",
                "SET GLOBAL binlog_expire_logs_seconds = 604800",
            )
        )
    if not server.gtids:
        findings.append(
            Finding(
                f"{name}: gtid_mode",
                "warning",
                "GTIDs are off: after a failover to another server tables are copied anew",
                "turn gtid_mode on",
            )
        )
    return findings


def _required(server: Server) -> list[tuple[str, bool, str, str]]:
    return [
        (
            "log_bin",
            server.log_bin,
            "the binlog is on",
            "start the server with log_bin and a server_id",
        ),
        (
            "binlog_format",
            server.binlog_format == "ROW",
            f"binlog_format is {server.binlog_format!r}",
            f"SET GLOBAL binlog_format = ROW {_AND_RECONNECT}",
        ),
        (
            "binlog_row_image",
            server.row_image in ("FULL", "NOBLOB", "FULL_NODUP"),
            f"binlog_row_image is {server.row_image!r}",
            f"SET GLOBAL binlog_row_image = FULL {_AND_RECONNECT}",
        ),
        (
            "binlog_row_value_options",
            not server.row_value_options,
            f"binlog_row_value_options is {server.row_value_options!r}",
            "SET GLOBAL binlog_row_value_options = '', then reconnect the applications",
        ),
    ]


_EXPECTED: Final = {
    "log_bin": "expected a binlog, got none",
    "binlog_format": "expected binlog_format 'ROW'",
    "binlog_row_image": "expected binlog_row_image 'FULL' (or 'NOBLOB')",
    "binlog_row_value_options": "expected JSON columns to be logged whole",
}


def _setting(name: str, setting: str, well: bool, words: str, mend: str) -> Finding:  # noqa: FBT001 - one column of a table above
    subject = f"{name}: {setting}"
    if well:
        return Finding(subject, "ok", words)
    said = _EXPECTED[setting]
    message = said if setting == "log_bin" else f"{said}, but {words}"
    return Finding(subject, "error", message, mend)


async def check_source(dsn: str, name: str, patterns: Sequence[str]) -> list[Finding]:
    """Reachability, settings, rights and tables."""
    what = f"source {name!r}"
    try:
        session = await connect(dsn, what)
    except PenstockError as error:
        return [Finding(f"{name}: connection", "error", *_message_and_mend(error))]
    try:
        server = await fetch_server(session)
        return [
            Finding(f"{name}: connection", "ok", f"connected to {server.flavour}"),
            *server_findings(server, name),
            *await _check_rights(session, name, server),
            *await _check_tables(session, name, what, patterns),
        ]
    except PenstockError as error:
        return [Finding(f"{name}: catalogue", "error", *_message_and_mend(error))]
    finally:
        await session.close()


def _message_and_mend(error: PenstockError) -> tuple[str, str]:
    message, _, mend = str(error).rpartition(": ")
    return (message, mend) if message else (mend, "")


async def _check_rights(session: Session, name: str, server: Server) -> list[Finding]:
    subject = f"{name}: rights"
    monitor = "BINLOG MONITOR" if server.mariadb else "REPLICATION CLIENT"
    mend = f"GRANT REPLICATION SLAVE, {monitor} ON *.* TO the user of the DSN"
    try:
        await fetch_end(session)
        files = await fetch_files(session)
    except PenstockError as error:
        return [Finding(subject, "error", str(error), mend)]
    grants = " ".join(str(row[0]).upper() for row in await session.fetch("SHOW GRANTS"))
    if "REPLICATION SLAVE" not in grants and "ALL PRIVILEGES ON *.*" not in grants:
        return [Finding(subject, "error", "expected the right REPLICATION SLAVE, got none", mend)]
    size = sum(files.values())
    return [Finding(subject, "ok", f"may read the binlog: {len(files)} files, {size / 1e6:.1f} MB")]


async def _check_tables(
    session: Session, name: str, what: str, patterns: Sequence[str]
) -> list[Finding]:
    available = await fetch_tables(session)
    findings: list[Finding] = []
    for pattern in patterns:
        try:
            for table in choose_tables([pattern], available, what):
                for column in (await fetch_shape(session, table)).columns:
                    live_type(column)
                findings.append(
                    Finding(
                        f"{name}: {table.stream}",
                        "ok",
                        f"key ({', '.join(table.key)}), about {table.rows} rows",
                    )
                )
        except PenstockError as error:
            findings.append(Finding(f"{name}: {pattern}", "error", *_message_and_mend(error)))
    return findings
