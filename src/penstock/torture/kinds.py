"""Kinds of faults: what each does, how many processes it kills, and where it is possible."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from penstock.errors import ConfigError


class Fault(StrEnum):
    """Everything that is done to a running project."""

    KILL = "kill"
    KILL_AT = "kill_at"
    KILL_TWICE = "kill_twice"
    KILL_IN_LARGE = "kill_in_large"
    KILL_DATABASE = "kill_database"
    KILL_SOURCE = "kill_source"
    KILL_EVERYTHING_TWICE = "kill_everything_twice"
    STOP = "stop"
    FREEZE = "freeze"
    FREEZE_DATABASE = "freeze_database"
    OUTLIVE_LEASE = "outlive_lease"
    CUT_SOURCE = "cut_source"
    RESET_SOURCE = "reset_source"
    SLOW_SOURCE = "slow_source"
    BYTEWISE_SOURCE = "bytewise_source"
    HALF_OPEN_SOURCE = "half_open_source"
    RESENT = "resent"
    REPLAYED = "replayed"
    LATE_SENDER = "late_sender"
    SLOT_DROPPED = "slot_dropped"
    BINLOG_PURGED = "binlog_purged"
    CUT_DATABASE = "cut_database"
    RESET_DATABASE = "reset_database"
    SLOW_DATABASE = "slow_database"
    BYTEWISE_DATABASE = "bytewise_database"
    HALF_OPEN_DATABASE = "half_open_database"
    DISK_FULL = "disk_full"
    KILL_BROKER = "kill_broker"
    FREEZE_BROKER = "freeze_broker"
    CUT_BROKER = "cut_broker"
    SLOW_BROKER = "slow_broker"
    HALF_OPEN_BROKER = "half_open_broker"


MEANINGS: Final = {
    Fault.KILL: "SIGKILL of our process at a random moment",
    Fault.KILL_AT: "SIGKILL of our process at a named boundary, before and after",
    Fault.KILL_TWICE: "the same, and once more while it comes back",
    Fault.KILL_IN_LARGE: "the same, while a transaction larger than a batch is half in the log",
    Fault.KILL_DATABASE: "SIGKILL of the project's database server",
    Fault.KILL_SOURCE: "SIGKILL of the source's database server",
    Fault.KILL_EVERYTHING_TWICE: "all of us, database and source, twice in quick succession",
    Fault.STOP: "SIGTERM, while changes flow",
    Fault.FREEZE: "SIGSTOP of our process, SIGCONT a little later",
    Fault.FREEZE_DATABASE: "SIGSTOP of the project's database, SIGCONT a little later",
    Fault.OUTLIVE_LEASE: "SIGSTOP at a boundary until another has taken over; SIGCONT",
    Fault.CUT_SOURCE: "the connections to the source are closed",
    Fault.RESET_SOURCE: "the connections to the source are reset (RST)",
    Fault.SLOW_SOURCE: "every packet from and to the source comes 50 ms late",
    Fault.BYTEWISE_SOURCE: "one byte at a time from and to the source",
    Fault.HALF_OPEN_SOURCE: "the connections to the source stay open and are never answered again",
    Fault.RESENT: "the source sends again what it sent before, and old after new",
    Fault.REPLAYED: "part of the log is processed again (`penstock replay`)",
    Fault.LATE_SENDER: "the source's senders stand still while tables are copied again",
    Fault.SLOT_DROPPED: "the replication slot is dropped",
    Fault.BINLOG_PURGED: "the binlog that comes next is purged while we are stopped (MariaDB)",
    Fault.CUT_DATABASE: "the connections to the project's database are closed",
    Fault.RESET_DATABASE: "the connections to the project's database are reset (RST)",
    Fault.SLOW_DATABASE: "every packet from and to the database comes 50 ms late",
    Fault.BYTEWISE_DATABASE: "one byte at a time from and to the database",
    Fault.HALF_OPEN_DATABASE: "the database is silent, then resets; at times we are killed then",
    Fault.DISK_FULL: "the disk of the project's database is full for a while (a tmpfs; root only)",
    Fault.KILL_BROKER: "SIGKILL of the Kafka broker, which is started again a little later",
    Fault.FREEZE_BROKER: "SIGSTOP of the Kafka broker, SIGCONT a little later",
    Fault.CUT_BROKER: "the connections to the broker are closed",
    Fault.SLOW_BROKER: "every packet from and to the broker comes 50 ms late",
    Fault.HALF_OPEN_BROKER: "the broker is silent for a while, then resets",
}

KILLS: Final = {
    Fault.KILL: 1,
    Fault.KILL_AT: 1,
    Fault.KILL_TWICE: 2,
    Fault.KILL_IN_LARGE: 1,
    Fault.KILL_DATABASE: 1,
    Fault.KILL_SOURCE: 1,
    Fault.KILL_EVERYTHING_TWICE: 6,
    Fault.KILL_BROKER: 1,
}
"""How many processes a fault kills."""
BROKER: Final = frozenset(
    {Fault.KILL_BROKER, Fault.FREEZE_BROKER, Fault.CUT_BROKER, Fault.SLOW_BROKER,
     Fault.HALF_OPEN_BROKER}
)  # fmt: skip
"""What is done to a Kafka broker."""
COMMANDED: Final = frozenset({Fault.REPLAYED, Fault.SLOT_DROPPED, Fault.BINLOG_PURGED})
"""All our processes are stopped, and a person gives a command."""
LASTING: Final = frozenset(
    {Fault.FREEZE_DATABASE, Fault.SLOW_SOURCE, Fault.BYTEWISE_SOURCE, Fault.SLOW_DATABASE,
     Fault.BYTEWISE_DATABASE, Fault.HALF_OPEN_DATABASE, Fault.DISK_FULL, Fault.FREEZE_BROKER,
     Fault.SLOW_BROKER, Fault.HALF_OPEN_BROKER, Fault.FREEZE}
)  # fmt: skip
"""Other faults can come while these last."""
DATABASE_WIRES: Final = frozenset(
    {Fault.CUT_DATABASE, Fault.RESET_DATABASE, Fault.SLOW_DATABASE, Fault.BYTEWISE_DATABASE,
     Fault.HALF_OPEN_DATABASE}
)  # fmt: skip
"""Done on the way to the project's database."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a campaign runs on. ``log`` is ``embedded``, ``kafka`` (a broker of its own), or
    ``kafka://host:port``."""

    source: Literal["postgres", "mariadb"] = "postgres"
    log: str = "embedded"
    partitions: int = 1
    workers: int = 1
    profiles: bool = False
    """Whether the project also keeps profiles, and who is who is compared."""

    @property
    def kafka(self) -> bool:
        """Whether the log is on Kafka."""
        return self.log != "embedded"

    @property
    def own_broker(self) -> bool:
        """Whether the broker is ours to break."""
        return self.log == "kafka"

    def words(self) -> list[str]:
        """As on the command line, what is not the default."""
        words = [f"--source {self.source}"] if self.source != "postgres" else []
        words += [f"--log {self.log}"] if self.kafka else []
        words += [f"--partitions {self.partitions}"] if self.partitions != 1 else []
        words += [f"--workers {self.workers}"] if self.workers != 1 else []
        return words + (["--profiles"] if self.profiles else [])

    def check(self) -> None:
        """Raise `ConfigError` for what cannot be."""
        if self.source not in {"postgres", "mariadb"}:
            raise ConfigError(f"expected --source postgres or mariadb, got {self.source!r}")
        if self.log not in {"embedded", "kafka"} and not self.log.startswith("kafka://"):
            raise ConfigError(
                f"expected --log embedded, kafka (a broker of its own) or kafka://host:port, got "
                f"{self.log!r}"
            )


DEFAULT: Final = Setting()


def why_not(fault: Fault, setting: Setting) -> str | None:
    """Why a fault has no meaning in this setting; None where it has."""
    if fault in BROKER and not setting.kafka:
        return "the log is not on Kafka (--log kafka)"
    if fault in BROKER and not setting.own_broker:
        return "the broker is not ours to break (--log kafka starts one)"
    if fault is Fault.BINLOG_PURGED and setting.source != "mariadb":
        return "the source has no binlog (--source mariadb)"
    if (
        fault in {Fault.SLOT_DROPPED, Fault.RESENT, Fault.LATE_SENDER}
        and setting.source != "postgres"
    ):
        return "the source has no senders and slots for us (--source postgres)"
    return None


def fault_named(name: str) -> Fault:
    """A fault as it is written on the command line."""
    try:
        return Fault(name)
    except ValueError:
        raise ConfigError(
            f"expected faults among {', '.join(Fault)}, got {name!r}: choose some of these"
        ) from None
