"""Reading the log as it grows and judging it: nothing missing, nothing twice, all in order.

Every row that the source writes carries the next version of its key (1, 2, 3, ...), so a gap is a
loss and a step back is wrong order. A delete carries no version: that one is missing shows when a
row is created where one still stands. While a table is copied its keys may jump ahead (what is
skipped is in the copy, or, where an update leaves values out, the row is read by its key), never
back; when copies begin and end is what witnesses in the project's database have noted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from penstock.log.partitions import partitions_of
from penstock.records import Change, Key, Microseconds, Op, Position, Schema

_NAMED: Final = 20

Place = tuple[str, Key]


class Note(NamedTuple):
    """A table's copy began or ended, at a moment on the scale of ``moment`` of `Judge.take`."""

    stream: str
    begins: bool
    at: int


class _Standing:
    """What is known of one key by the log: its latest version, and which row stands there."""

    __slots__ = ("certain", "position", "row", "version")

    def __init__(self) -> None:
        self.version = 0
        self.row: int | None = None
        self.position = ""
        self.certain = False  # rows may have come and gone before the log began


class Judge:
    """Follows one of so many partitions of a topic, and the keys that are in it."""

    def __init__(self, partition: int = 0, partitions: int = 1) -> None:
        self.lost = 0
        self.duplicated = 0
        self.out_of_order = 0
        self.changes = 0
        self.copied = 0
        self.unchanged_values = 0
        self.truncates = 0
        self.by_op: Counter[str] = Counter()
        self.named: list[str] = []
        self.partition = partition
        self.at = 0
        self._partitions = partitions
        self._keys: dict[str, dict[Key, _Standing]] = {}
        self._latest = ""
        self._settled: set[str] = set()
        self._notes: list[Note] = []

    def note(self, note: Note) -> None:
        """To be heeded when the log is there."""
        self._notes.append(note)

    def take(self, last: int, moment: int, changes: Iterable[Change]) -> None:
        """The next append, up to a position; ``moment`` is when it was, for notes about copies."""
        if last <= self.at:
            self._complain("out_of_order", f"log position {last} after {self.at}")
        self.at = last
        self._turn(moment, begins=True)
        self.judge(changes)
        self._turn(moment, begins=False)

    def copying(self, stream: str, *, begins: bool) -> None:
        """The table's copy begins, or is complete. At first, all are being copied."""
        if not begins:
            self._settled.add(stream)
            return
        self._settled.discard(stream)
        for standing in self._keys.get(stream, {}).values():
            standing.certain = False

    def _turn(self, moment: int, *, begins: bool) -> None:
        """Heed the notes about copies that were made before the end of this append."""
        while self._notes and self._notes[0].at < moment and self._notes[0].begins >= begins:
            note = self._notes.pop(0)
            self.copying(note.stream, begins=note.begins)

    def _mine(self, change: Change, key: Key) -> bool:
        """Is this key's history in this partition?"""
        return self.partition == partition_of(change.schema.stream, key, self._partitions)

    def judge(self, changes: Iterable[Change]) -> None:
        """The next changes of the log."""
        for change in changes:
            self.by_op[change.op.value] += 1
            keys = self._keys.setdefault(change.schema.stream, {})
            if change.op is Op.READ:
                self._copy(keys, change)
            elif change.transaction is None:
                self._sweep(keys, change)  # of a copy that ends, or of a repair
            elif change.position <= self._latest:
                self._complain("duplicated", f"{_said(change)} is in the log again")
            else:
                self._latest = change.position
                self.changes += 1
                self._stream(keys, change)

    def compare(self, ledger: Mapping[Place, int]) -> None:
        """What the source's own ledger says at the end, against what the log has told."""
        for (stream, key), version in ledger.items():
            standing = self._keys.get(stream, {}).get(key)
            known = standing.version if standing is not None else 0
            if known > version:
                self._complain("duplicated", f"{stream} {key}: version {known} of {version}")
            elif known < version and standing is not None and standing.certain:
                self._complain(
                    "lost", f"{stream} {key}: ends at version {known} of {version}", version - known
                )
        for stream, keys in self._keys.items():
            for key in keys.keys() - {found for of, found in ledger if of == stream}:
                self._complain("duplicated", f"{stream} {key}: was never committed")

    # ------------------------------------------------------------------ one change

    def _sweep(self, keys: dict[Key, _Standing], change: Change) -> None:
        """All that is older than a copy's beginning, and was not copied, is void; or one key, of
        which a repair has found that it is gone."""
        swept = (
            keys.values()
            if change.op is Op.TRUNCATE
            else [keys.setdefault(change.key, _Standing())]
        )
        for standing in swept:
            if standing.position < change.position:
                standing.row, standing.certain = None, False
                standing.position = change.position

    def _copy(self, keys: dict[Key, _Standing], change: Change) -> None:
        self.copied += 1
        standing = keys.setdefault(change.key, _Standing())
        if change.position <= standing.position and standing.certain:
            return  # the stream has told something later
        version = _version(change)
        if version < standing.version:
            self._complain("out_of_order", f"{_said(change)} is copied after {standing.version}")
        standing.version = max(version, standing.version)
        standing.row, standing.certain = version, True
        standing.position = change.position

    def _stream(self, keys: dict[Key, _Standing], change: Change) -> None:
        if change.op is Op.TRUNCATE:
            self.truncates += 1
            for standing in keys.values():
                standing.row, standing.position = None, change.position
            return
        if change.op is Op.DELETE:
            self._leave(keys, change.key, change)
            return
        if change.old_key is not None and self._mine(change, change.old_key):
            self._leave(keys, change.old_key, change)
        if self._mine(change, change.key):
            self._arrive(keys.setdefault(change.key, _Standing()), change)
        elif change.old_key is None:
            self._complain("out_of_order", f"{_said(change)} is in another key's partition")

    def _leave(self, keys: dict[Key, _Standing], key: Key, change: Change) -> None:
        standing = keys.setdefault(key, _Standing())
        if standing.row is None and standing.certain:
            self._complain("lost", f"{_said(change)} leaves {key}, where no row stands")
        before = None
        if change.before is not None:
            text = change.before[change.schema.index("version")]
            before = int(text) if isinstance(text, str) else None
        if before is None or before == standing.row:
            standing.row = None  # else two rows trade keys, and the other one stands there already
        standing.position = change.position

    def _arrive(self, standing: _Standing, change: Change) -> None:
        assert change.after is not None
        self.unchanged_values += any(not isinstance(v, str | None) for v in change.after)
        version, expected = _version(change), standing.version + 1
        settled = change.schema.stream in self._settled
        if version < expected:
            self._complain("out_of_order", f"{_said(change)} comes after {standing.version}")
        elif version > expected and standing.certain and settled:
            self._complain(
                "lost", f"{_said(change)} comes after {standing.version}", version - expected
            )
        if change.op is Op.UPDATE and change.old_key is None and standing.row is None and settled:
            self._complain("lost", f"{_said(change)} updates where no row stands")
        if (
            change.op is Op.CREATE
            and standing.row is not None
            and standing.certain
            and not _trades(change)
        ):
            self._complain("lost", f"{_said(change)} is created where a row stands")
        standing.version = max(standing.version, version)
        standing.row, standing.certain = version, True
        standing.position = change.position

    def _complain(self, what: str, sentence: str, count: int = 1) -> None:
        setattr(self, what, getattr(self, what) + count)
        if len(self.named) < _NAMED:
            self.named.append(f"{what} in the log: {sentence}")


def partition_of(stream: str, key: Key, partitions: int) -> int:
    """Which of so many partitions has the history of a key."""
    plain = Change(
        Schema("", stream, ()),
        Op.CREATE,
        key,
        Position(""),
        Microseconds(0),
        None,
        None,
        None,
        None,
    )
    [found] = partitions_of(plain, partitions)
    return found


def _trades(change: Change) -> bool:
    """Whether a row may come before the one that stood there leaves: the key can be deferred."""
    return change.schema.stream.endswith(".pairs")


def _version(change: Change) -> int:
    value = change.value("version")
    return int(value) if isinstance(value, str) else 0


def _said(change: Change) -> str:
    version = "" if change.after is None else f" version {_version(change)}"
    key = "/".join(map(str, change.key))
    return f"{change.op} {change.schema.stream} {key}{version} at {change.position}"
