"""How the way from a PostgreSQL source stands: its slot, what the server keeps for us, whose it is.

Asked on a connection of its own, so that it is known also while the stream stands still. Pure, but
for `look`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import psycopg

from penstock.sources.base import Health, HealthLevel
from penstock.sources.postgres.catalogue import Server, Slot, fetch_server, fetch_slot
from penstock.sources.postgres.positions import format_lsn

DEFAULT_BUDGET: Final = 10 << 30
_MIB: Final = 1 << 20


class _Verdict(NamedTuple):
    level: HealthLevel
    message: str
    mend: str = ""


async def look(
    connection: psycopg.AsyncConnection, what: str, slot_name: str, budget_bytes: int | None
) -> Health | None:
    """Ask the server; None while there is no slot yet."""
    server = await fetch_server(connection, what)
    slot = await fetch_slot(connection, what, slot_name)
    return None if slot is None else assess(slot, server, budget_bytes)


def budget(server: Server, asked_bytes: int | None) -> int:
    """How much WAL may be kept for us: what the project says, but no more than the server allows
    (then the slot would be lost before the error)."""
    allowed = server.max_slot_wal_keep_mb * _MIB
    if asked_bytes is None:
        return allowed if allowed > 0 else DEFAULT_BUDGET
    return min(asked_bytes, allowed) if allowed > 0 else asked_bytes


def assess(slot: Slot, server: Server, asked_bytes: int | None) -> Health:
    """What is to be said of a slot, the worst first."""
    limit = budget(server, asked_bytes)
    verdict = max(_verdicts(slot, server, limit), key=lambda v: _ORDER.index(v.level))
    stands = "nowhere" if slot.confirmed_lsn is None else format_lsn(slot.confirmed_lsn)
    facts: dict[str, str | int | bool | None] = {
        "slot": slot.name,
        "confirmed_lsn": stands,
        "active": slot.active_pid is not None,
        "wal_status": slot.wal_status,
        "safe_wal_bytes": slot.safe_wal_bytes,
        "failover": slot.failover,
        "synced": slot.synced,
    }
    return Health(verdict.level, verdict.message, verdict.mend, slot.retained_bytes, limit, facts)


_ORDER: Final[Sequence[HealthLevel]] = ("ok", "warning", "error")


def _verdicts(slot: Slot, server: Server, limit: int) -> list[_Verdict]:
    held, most = size(slot.retained_bytes), size(limit)
    found = [_Verdict("ok", f"replication slot {slot.name!r} keeps {held} of WAL, {most} allowed")]
    if slot.invalid is not None:
        found.append(
            _Verdict(
                "error",
                f"expected replication slot {slot.name!r} to be valid, got {slot.invalid!r}: "
                "changes are missing",
                "`penstock resync` the source, and raise max_slot_wal_keep_size",
            )
        )
    elif slot.wal_status in ("unreserved", "lost"):
        found.append(
            _Verdict(
                "error",
                f"replication slot {slot.name!r} needs WAL that the server is about to remove "
                f"(wal_status {slot.wal_status!r}, {held} kept)",
                "let `penstock run` catch up now, and raise max_slot_wal_keep_size",
            )
        )
    if slot.retained_bytes > limit:
        found.append(
            _Verdict(
                "error",
                f"replication slot {slot.name!r} keeps {held} of WAL, more than the budget of "
                f"{most}",
                _catch_up(slot),
            )
        )
    elif slot.retained_bytes > limit / 2:
        found.append(
            _Verdict(
                "warning",
                f"replication slot {slot.name!r} keeps {held} of WAL, more than half of the "
                f"budget of {most}",
                _catch_up(slot),
            )
        )
    if slot.wal_status == "extended" and server.max_slot_wal_keep_mb > 0:
        found.append(
            _Verdict(
                "warning",
                f"replication slot {slot.name!r} keeps {held} of WAL, more than max_wal_size; at "
                f"{size(server.max_slot_wal_keep_mb * _MIB)} it is lost",
                _catch_up(slot),
            )
        )
    return found


def _catch_up(slot: Slot) -> str:
    if slot.active_pid is None:
        return "run Penstock until it has caught up, or `penstock drop` the source"
    return "find out what keeps it behind (`penstock status`), or raise retained_wal"


def size(number: int) -> str:
    """Bytes as a person reads them."""
    for unit, of in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= of:
            return f"{number / of:.1f} {unit}"
    return f"{number} bytes"
