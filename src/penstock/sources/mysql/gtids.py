"""Which transactions were seen, by their global ids, in both flavours. Pure.

MySQL names a transaction by its server's UUID and a number, and a set of them by intervals:
``3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:11-18``. MariaDB names it by domain, server and number,
and where it stands by the last one of each domain: ``0-1-100,1-2-50``. Another server of the same
replication is asked to go on after what was seen.
"""

from __future__ import annotations

import re
import uuid
from typing import Final, Protocol

from penstock.errors import SourceError

_MARIADB: Final = re.compile(r"(\d+)-(\d+)-(\d+)")
_MYSQL: Final = re.compile(r"([0-9a-f-]{36})((?::\d+(?:-\d+)?)+)", re.IGNORECASE)


class Gtids(Protocol):
    """Transactions that were seen."""

    def add(self, gtid: str) -> None:
        """One more, as a `Gtid` of the binlog names it."""

    def format(self) -> str:
        """As the server reads and prints it."""


class MariaDBGtids:
    """The last transaction of each domain."""

    def __init__(self, text: str = "") -> None:
        self._last: dict[int, tuple[int, int]] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            self.add(part)

    def add(self, gtid: str) -> None:
        """One more; it is the newest of its domain."""
        match = _MARIADB.fullmatch(gtid)
        if match is None:
            raise SourceError(f"expected a GTID like 0-1-100, got {gtid!r}")
        domain, server, number = map(int, match.groups())
        self._last[domain] = (server, number)

    def format(self) -> str:
        """``0-1-100,1-2-50``."""
        return ",".join(f"{d}-{s}-{n}" for d, (s, n) in sorted(self._last.items()))


class MySQLGtids:
    """Intervals of numbers by server."""

    def __init__(self, text: str = "") -> None:
        self._intervals: dict[str, list[tuple[int, int]]] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            self.add(part)

    def add(self, gtid: str) -> None:
        """One transaction, or several of one server; in any order, again and again."""
        match = _MYSQL.fullmatch(gtid)
        if match is None:
            raise SourceError(
                "expected GTIDs like 3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5, got "
                f"{gtid!r} (tagged GTIDs are not supported)"
            )
        server = match[1].lower()
        found = self._intervals.setdefault(server, [])
        for piece in match[2][1:].split(":"):
            first, _, last = piece.partition("-")
            self._join(found, int(first), int(last or first))

    @staticmethod
    def _join(found: list[tuple[int, int]], first: int, last: int) -> None:
        if last < first:
            raise SourceError(f"expected an interval of GTIDs, got {first}-{last}")
        if found and found[-1][1] == first - 1:  # the usual case: the next one
            found[-1] = (found[-1][0], last)
            return
        merged: list[tuple[int, int]] = []
        for begin, end in sorted([*found, (first, last)]):
            if merged and begin <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((begin, end))
        found[:] = merged

    def format(self) -> str:
        """As ``gtid_executed`` is printed."""
        return ",".join(
            f"{server}:{':'.join(f'{a}-{b}' if b > a else str(a) for a, b in intervals)}"
            for server, intervals in sorted(self._intervals.items())
        )

    def encode(self) -> bytes:
        """As COM_BINLOG_DUMP_GTID sends it."""
        parts = [len(self._intervals).to_bytes(8, "little")]
        for server, intervals in sorted(self._intervals.items()):
            parts += [uuid.UUID(server).bytes, len(intervals).to_bytes(8, "little")]
            for first, last in intervals:
                parts += [first.to_bytes(8, "little"), (last + 1).to_bytes(8, "little")]
        return b"".join(parts)


def parse_gtids(text: str, *, mariadb: bool) -> MariaDBGtids | MySQLGtids:
    """Of either flavour."""
    return MariaDBGtids(text) if mariadb else MySQLGtids(text)
