"""Who is erased: which records are theirs, and by which values they are met elsewhere.

Pure, and part of the kernel: a log and a store ask the same questions of a change. Standard library
only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

from penstock.records import Change, Column, Key, Row, Schema, Value

ERASED: Final = "erased"
"""The stream name of changes whose content was erased: only their place is left."""

_COLUMNS: Final = (Column("place", "text", key=True),)
_LONGEST_KEY: Final = 400
_PHONE: Final = re.compile(r"\+?[\d\s()/.\-]{7,30}")
_PHONE_STARTS: Final = frozenset("+0(")
_LEAST_TELLING: Final = 8


class RecordName(NamedTuple):
    """A row or a document, as everything names it: the key as one text."""

    source: str
    stream: str
    key: str

    def __str__(self) -> str:
        return f"{self.source}/{self.stream}/{self.key}"


def key_name(key: Key) -> str:
    """A key as one text: as it is where it is one value; a long one goes by its digest."""
    alone = len(key) == 1 and key[0] is not None
    name = str(key[0]) if alone else json.dumps(key, ensure_ascii=False)
    if len(name) > _LONGEST_KEY:
        name = "sha256:" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return name


def form(value: str) -> str | None:
    """A value as it is compared, if it tells who somebody is wherever it stands: an address, a
    telephone number, an id of letters and digits. None for what does not: ``7``, a name."""
    text = value.strip().casefold()
    if len(text) < _LEAST_TELLING - 1 or len(text) > _LONGEST_KEY:
        return None
    if "@" in text:
        return None if " " in text else text
    if text[0] in "+0(" and _PHONE.fullmatch(text):
        digits = re.sub(r"\D", "", text)
        return f"+{digits}" if text[0] == "+" else digits
    if len(text) < _LEAST_TELLING or " " in text:
        return None
    return text if any(map(str.isdigit, text)) and any(map(str.isalpha, text)) else None


def forms(row: Iterable[Value]) -> Iterator[str]:
    """The forms of the values of a row."""
    for value in row:
        if isinstance(value, str) and (found := form(value)) is not None:
            yield found


def erased(change: Change) -> Change:
    """What is left of a change: that there was one, of which kind, when and where."""
    schema = Schema(change.schema.source, ERASED, _COLUMNS)
    return change._replace(
        schema=schema, key=(change.position,), after=None, before=None, old_key=None
    )


def names_of(change: Change) -> Iterator[RecordName]:
    """The records that a change names: its own, and the one that it moved away from."""
    source, stream = change.schema.source, change.schema.stream
    for key in (change.key, change.old_key):
        if key:
            yield RecordName(source, stream, key_name(key))


@dataclass(frozen=True)
class Subject:
    """Those who are erased by one request. ``values`` are forms (`form`); ``canaries`` are what is
    searched for afterwards, and ``profiles`` the ids by kind that meant them."""

    records: frozenset[RecordName]
    values: frozenset[str] = frozenset()
    canaries: tuple[str, ...] = ()
    profiles: tuple[tuple[str, str], ...] = ()

    def holds(self, change: Change) -> bool:
        """Whether a change is about them: it is of a record of theirs, or bears a value of
        theirs."""
        if change.schema.stream == ERASED:
            return False
        if not self.records.isdisjoint(names_of(change)):
            return True
        return bool(self.values) and any(
            self.borne(row) for row in (change.after, change.before) if row
        )

    def borne(self, row: Iterable[Value]) -> set[str]:
        """Those of their values that a row bears."""
        return {
            found
            for value in row
            if isinstance(value, str)
            and self._may_be(value)
            and (found := form(value)) in self.values
        }

    def _may_be(self, value: str) -> bool:
        """Whether it is worth while to look closer: most values end in another way. A telephone
        number may end in anything."""
        text = value.strip()
        return text[-2:].casefold()[-2:] in self._ends or text[:1] in _PHONE_STARTS

    @cached_property
    def _ends(self) -> frozenset[str]:
        return frozenset(value[-2:] for value in self.values)

    def says(self, text: str) -> bool:
        """Whether a text that is not a row mentions them."""
        folded = text.casefold()
        return any(value in folded for value in self.values) or any(
            canary.casefold() in folded for canary in self.canaries
        )

    def of(self, source: str, stream: str) -> list[str]:
        """The keys of their records in a table."""
        return sorted(r.key for r in self.records if (r.source, r.stream) == (source, stream))

    @cached_property
    def streams(self) -> list[tuple[str, str]]:
        """The tables that have records of theirs."""
        return sorted({(record.source, record.stream) for record in self.records})

    def including(
        self, *, records: Iterable[RecordName] = (), canaries: Iterable[str] = ()
    ) -> Subject:
        """With more records and canaries."""
        return replace(
            self,
            records=self.records | frozenset(records),
            canaries=tuple(dict.fromkeys((*self.canaries, *canaries))),
        )

    def to_dict(self) -> dict[str, Any]:
        """As a plan keeps it."""
        return {
            "records": sorted(map(list, self.records)),
            "values": sorted(self.values),
            "canaries": list(self.canaries),
            "profiles": list(map(list, self.profiles)),
        }

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Subject:
        """What `to_dict` gave."""
        return cls(
            frozenset(RecordName(*record) for record in kept["records"]),
            frozenset(kept["values"]),
            tuple(kept["canaries"]),
            tuple((kind, id_) for kind, id_ in kept["profiles"]),
        )


def merged(subjects: Sequence[Subject]) -> Subject:
    """Several as one."""
    return Subject(
        frozenset().union(*(one.records for one in subjects)),
        frozenset().union(*(one.values for one in subjects)),
        tuple(dict.fromkeys(canary for one in subjects for canary in one.canaries)),
        tuple(dict.fromkeys(profile for one in subjects for profile in one.profiles)),
    )


# --------------------------------------------------------------------------- suppression


class Suppression:
    """What may not come in again. It knows digests with the project's secret, nothing else."""

    def __init__(self, secret: bytes, digests: Iterable[bytes] = ()) -> None:
        self._secret = secret
        self._digests = frozenset(digests)

    def of_record(self, record: RecordName) -> bytes:
        """The digest of a record."""
        return self._digest("\x1f".join(("r", *record)))

    def of_value(self, value: str) -> bytes:
        """The digest of a form."""
        return self._digest("\x1f".join(("v", value)))

    def digests_of(self, subject: Subject) -> list[bytes]:
        """All digests of somebody."""
        return sorted(
            {
                *map(self.of_record, subject.records),
                *map(self.of_value, subject.values),
            }
        )

    def screen(self, changes: Sequence[Change]) -> Sequence[Change]:
        """These changes, in order, those that are suppressed without their content (`erased`)."""
        if not self._digests:
            return changes
        return [erased(change) if self._holds(change) else change for change in changes]

    def _holds(self, change: Change) -> bool:
        if change.schema.stream == ERASED:
            return False
        if any(self.of_record(name) in self._digests for name in names_of(change)):
            return True
        return any(
            self.of_value(found) in self._digests
            for row in _rows(change)
            for found in set(forms(row))
        )

    def _digest(self, text: str) -> bytes:
        data = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, key=self._secret, digest_size=16).digest()


def _rows(change: Change) -> list[Row]:
    return [row for row in (change.after, change.before) if row]


Screen = Callable[[Sequence[Change]], Sequence[Change]]


def unscreened(changes: Sequence[Change]) -> Sequence[Change]:
    """Where nobody is suppressed."""
    return changes
