"""What a holder of personal data promises to erasure.

A new table either belongs to a holder or is listed as holding nothing personal
(`registry.NOTHING_PERSONAL`): a test walks all tables of a database and fails for any other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

from penstock.identity.rules import Rules
from penstock.subjects import Subject

Connection = psycopg.AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Work:
    """What a holder works with: a transaction of the caller's, whose data it is, and who goes.
    ``rules`` are those of the kinds of profiles that the project declares."""

    connection: Connection
    tenant: str
    subject: Subject
    rules: Mapping[str, Rules] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Holder:
    """A part of the stores that can hold somebody.

    ``erase`` takes them out within the caller's transaction and returns how many things it took or
    redacted. It may be called again for somebody who is gone already (a process may end at any
    point), reads nothing that another holder takes away, and moves no position. ``tables`` are
    those of the schema ``penstock`` that it answers for: they are rewritten afterwards, since
    PostgreSQL keeps what was deleted until then.
    """

    name: str
    tables: tuple[str, ...]
    erase: Callable[[Work], Awaitable[int]]
