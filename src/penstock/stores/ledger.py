"""The ledger of answers: its entries, how they are chained, and what serving needs of its store.

An entry has *facts*, which say nothing of a person, and *content*, which may. The chain is made
over the facts and a salted hash of the content: content can be erased, with its salt, and the chain
still fits. Pure, but for the protocol.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from penstock.errors import ConfigError
from penstock.principals import Principal
from penstock.records import Microseconds

EntryKind = Literal["answer", "context", "interaction", "feedback", "erasure", "checkpoint"]
State = Literal["kept", "hashed", "redacted"]
Contents = Literal["kept", "hashed", "off"]
"""What is kept of contents: all, hashes alone, or nothing at all is written."""

PREFIXES: Final[Mapping[EntryKind, str]] = {
    "answer": "ans", "context": "ctx", "interaction": "int", "feedback": "fbk",
    "erasure": "era", "checkpoint": "chk",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LedgerItem:
    """What contexts hold, kept once: a passage, a row, a profile, a prompt template. ``source`` and
    ``key`` are its provenance."""

    kind: str
    body: str
    source: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry to come. ``once`` is the sender's idempotency key; ``about`` the id of the entry
    that this one is about."""

    kind: EntryKind
    id: str
    at: Microseconds
    facts: Mapping[str, Any]
    content: Mapping[str, Any]
    owner: Principal | None = None
    items: Sequence[LedgerItem] = ()
    about: str | None = None
    once: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it is kept. ``content`` is None where it is only hashed, or erased."""

    number: int
    id: str
    kind: EntryKind
    at: Microseconds
    facts: Mapping[str, Any]
    hash: bytes
    state: State
    content: Mapping[str, Any] | None = None
    about: str | None = None
    items: Sequence[LedgerItem | None] = ()
    """Of its context, in their order."""


class OtherBodyError(ConfigError):
    """An idempotency key was used before, for something else."""


class LedgerStore(Protocol):
    """The ledger of one tenant at rest."""

    async def append(self, entry: NewEntry) -> str:
        """Returns the entry's id once it is durable; that of the one before, where it was sent
        before under its ``once``. Raises `OtherBodyError` where that was another one."""

    async def find(self, entry_id: str, owner: Principal | None = None) -> Entry | None:
        """One with its content and items; with an ``owner``, only if it is theirs."""

    def entries(
        self,
        *,
        kinds: Sequence[EntryKind] = ("answer",),
        limit: int = 100,
        about: str | None = None,
    ) -> AsyncIterator[Entry]:
        """The newest first, with content, without items."""


def new_id(kind: EntryKind) -> str:
    """A name that cannot be guessed (96 bits)."""
    return f"{PREFIXES[kind]}_{secrets.token_hex(12)}"


def canonical(value: object) -> str:
    """JSON in one form. ASCII alone: it is hashed as bytes, and holds whatever a model wrote."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def content_hash(salt: bytes, body: str) -> bytes:
    """What the chain holds of content. Without the salt nothing can be tried against it."""
    return hashlib.sha256(salt + body.encode()).digest()


def item_hash(key: bytes, item: LedgerItem) -> bytes:
    """What an item is found by. ``key`` is the tenant's: elsewhere the hash says nothing."""
    text = f"{item.kind}\x00{item.source or ''}\x00{item.key or ''}\x00{item.body}"
    return hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256")


def owner_hash(key: bytes, who: Principal) -> bytes:
    """Whose something is: the user's; without a user, that of those with the same groups."""
    whose = ["user", who.user] if who.user is not None else ["groups", *sorted(who.groups)]
    return hmac.digest(key, canonical(whose).encode(), "sha256")


def first_hash(tenant: str) -> bytes:
    """What the first entry of a tenant has before it."""
    return hashlib.sha256(f"penstock ledger of {tenant}".encode("utf-8", "replace")).digest()


def chained(before: bytes, number: int, facts: str, content: bytes) -> bytes:
    """The hash of an entry. ``penstock.append_ledger`` works it out the same way."""
    told = hashlib.sha256(facts.encode()).digest()
    return hashlib.sha256(before + number.to_bytes(8, "big") + told + content).digest()


@dataclass(frozen=True, slots=True)
class Told:
    """What was told of somebody who is to be forgotten: records (source and key), values, and what
    they asked themselves as a user."""

    records: Sequence[tuple[str, str]] = ()
    values: Sequence[str] = ()
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was erased: entries whose content went, and items; and the entry that says so (None:
    there was nothing)."""

    entries: int = 0
    items: int = 0
    entry: str | None = None


@dataclass(frozen=True, slots=True)
class Audit:
    """What a look at the whole chain found. ``broken`` is the number of the first entry that does
    not fit."""

    entries: int
    first: int
    last: int
    head: str
    redacted: int
    broken: int | None = None
    why: str | None = None

    @property
    def sound(self) -> bool:
        """Whether everything fits."""
        return self.broken is None and self.why is None
