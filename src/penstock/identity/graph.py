"""The identity graph, change by change: the same computation for every store.

A change of evidence touches records: those that changed, and those that bear an identifier that a
changed record bore before or bears now. What is worked out again are the connected components of
these, as the evidence stands now; all else is as it was, because whether two parts are joined
depends on nothing outside their component (see ``components``). So the result is that of working
out everything from the beginning (G10), for the price of what was touched.

An identifier that too many records bear ties nobody and leads nowhere, which bounds a component.
The moment it crosses its limit, either way, at most as many records as the limit allows were tied
by it, or are now: these are touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from penstock.errors import BadRecordError
from penstock.identity.components import Partition, Refusal, resolve
from penstock.identity.evidence import Decision, Identifier, Match, Record, RecordKey
from penstock.identity.ids import Assignment, Place, Profile, Turn, assign, draft, meanings
from penstock.identity.reading import record_of
from penstock.identity.reasons import Reason, reasons
from penstock.identity.rules import Rules
from penstock.identity.traits import Said, traits
from penstock.records import Microseconds, Position


@dataclass(frozen=True, slots=True)
class RecordChange:
    """The latest of one row. ``values`` are None for one that is gone; columns that are not among
    them are as they are stored under ``base``. With ``since`` a row is gone only if it is stored as
    of that position or later."""

    key: RecordKey
    position: Position
    committed_at: Microseconds
    values: Mapping[str, str | None] | None
    base: RecordKey | None = None
    since: Position | None = None
    sure: bool = False
    """It counts whatever position is stored: what it says was worked out in this transaction."""


class Stored(NamedTuple):
    """A row as it is kept: the values that were read, or None for one that is gone (kept so that
    nothing older brings it back)."""

    position: Position
    committed_at: Microseconds
    values: Mapping[str, str | None] | None
    record: Record
    place: Place | None


class Member(NamedTuple):
    """A record and its profile; None for one that has none yet."""

    record: Record
    place: Place | None


class Tied(NamedTuple):
    """What ties records beside the identifiers that they bear."""

    matches: Sequence[Match] = ()
    decisions: Sequence[Decision] = ()
    members: Sequence[Member] = ()
    """The records on the other sides."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What is to be written of a region: the new place of each record that has another one now;
    the profiles whose records or traits changed, whole; ids that rest (with the survivor) and that
    rest no more; what happened; and the ties that are refused among ``region``."""

    region: Collection[RecordKey]
    moved: Mapping[RecordKey, Place]
    created: Sequence[Profile]
    documents: Mapping[str, Document]
    rests: Mapping[str, str | None]
    restored: Sequence[str]
    turns: Sequence[tuple[Turn, Reason]]
    refusals: Sequence[Refusal]


@dataclass(frozen=True, slots=True)
class Document:
    """A profile as it is served: its traits, and how many records it has."""

    traits: Mapping[str, Sequence[Said]]
    records: int


class Graph(Protocol):
    """What is stored of one kind of profile, within one transaction that nobody else writes in."""

    async def stored(self, keys: Sequence[RecordKey]) -> Mapping[RecordKey, Stored]:
        """Rows by key, also those that are gone."""

    async def bearers(
        self, identifiers: Mapping[Identifier, int]
    ) -> Mapping[Identifier, Sequence[Member]]:
        """Who bears each identifier: at most so many and one, to tell that there are more."""

    async def members(self, profiles: Collection[str]) -> Sequence[Member]:
        """All records of these profiles."""

    async def tied(self, keys: Sequence[RecordKey]) -> Tied:
        """Matches and decisions that name one of these records."""

    async def blocked(self, identifiers: Collection[Identifier]) -> Collection[Identifier]:
        """Which of these a person has blocked."""

    async def known(
        self, ids: Collection[str], founders: Collection[RecordKey]
    ) -> Mapping[str, Profile]:
        """These profiles, and the resting ones that were made for one of ``founders``."""

    async def new(self, founders: Sequence[RecordKey]) -> Sequence[Profile]:
        """New ids, one for each."""

    async def write(self, rows: Mapping[RecordKey, Stored]) -> None:
        """Keep these rows, and what they bear, instead of those of before."""

    async def rematch(self, keys: Collection[RecordKey]) -> Sequence[Member]:
        """Bring fuzzy matches to what these records say now, after they were written; those that
        are gone are among them. Returns records whose ties by matches came or went."""

    async def settle(self, settled: Settled) -> None:
        """Write what was worked out."""


LARGEST_REGION: Final = 100_000
"""Records that one step works out at most: more that hang together are no people."""


@dataclass(slots=True)
class _Region:
    """Whole components, as far as they have been followed."""

    members: dict[RecordKey, Member] = field(default_factory=dict)
    ignored: set[Identifier] = field(default_factory=set)
    seen: set[Identifier] = field(default_factory=set)
    matches: set[Match] = field(default_factory=set)
    decisions: dict[int, Decision] = field(default_factory=dict)


async def incorporate(graph: Graph, rules: Rules, changes: Sequence[RecordChange]) -> int:
    """Take up changes of rows, at most one for each key, and bring the profiles to what the
    evidence says now. Changes that are not newer than what is stored are nothing (G1): doing a
    batch again changes nothing. Returns how many profiles were written.

    Raises `BadRecordError` when more records hang together than one step works out.
    """
    keys = {change.key for change in changes}
    keys |= {change.base for change in changes if change.base is not None}
    stored = await graph.stored(sorted(keys))
    fresh = _newer(changes, stored, rules)
    if not fresh:
        return 0
    changed = {key: row for key, row in fresh.items() if _says_other(stored.get(key), row)}
    gone = [key for key, row in changed.items() if row.values is None]
    tied = await graph.tied(gone) if gone else Tied()
    await graph.write(fresh)
    if not changed:
        return 0
    region = _Region()
    told = changed.keys()
    rematched = [m for m in await graph.rematch(sorted(told)) if m.record.key not in told]
    # Those tied were read before anything was written: what has changed itself is not as it was.
    front = [member for member in tied.members if member.record.key not in changed]
    front += [Member(row.record, row.place) for row in changed.values() if row.values is not None]
    front += rematched
    front += await _touched(graph, rules, region, stored, changed)
    before = {key: place for key in gone if (place := changed[key].place) is not None}
    causes = dict.fromkeys(changed, "changed") | dict.fromkeys(gone, "deleted")
    return await _work_out(graph, rules, region, front, before, causes)


async def reconsider(graph: Graph, rules: Rules, keys: Iterable[RecordKey], cause: str) -> int:
    """Work out again what depends on these records, after a decision about them."""
    rows = await graph.stored(sorted(set(keys)))
    front = [Member(row.record, row.place) for row in rows.values() if row.values is not None]
    causes = {member.record.key: cause for member in front}
    return await _work_out(graph, rules, _Region(), front, {}, causes)


async def reread(graph: Graph, rules: Rules, changes: Sequence[RecordChange]) -> int:
    """As `incorporate`, for rows that are read anew by other rules: they count whatever is stored,
    and what was one profile is worked out together, whatever ties it now."""
    stored = await graph.stored(sorted(change.key for change in changes))
    fresh = _newer(changes, stored, rules, always=True)
    await graph.write(fresh)
    region = _Region()
    front = [Member(row.record, row.place) for row in fresh.values() if row.values is not None]
    front += [m for m in await graph.rematch(sorted(fresh)) if m.record.key not in fresh]
    front += await _touched(graph, rules, region, stored, fresh)
    gone = {key: row.place for key, row in fresh.items() if row.values is None and row.place}
    front += await graph.members({place.profile for place in gone.values()})
    causes = dict.fromkeys(fresh, "rules")
    await _follow_profiles(graph, rules, region, front)
    return await _work_out(graph, rules, region, (), gone, causes)


async def resettle(
    graph: Graph, rules: Rules, keys: Iterable[RecordKey], cause: str
) -> Collection[RecordKey]:
    """Work out again what depends on these records, whatever tied them before: what was one profile
    is worked out together. Returns all records that were."""
    rows = await graph.stored(sorted(set(keys)))
    region = _Region()
    front = [Member(row.record, row.place) for row in rows.values() if row.values is not None]
    causes = {member.record.key: cause for member in front}
    await _follow_profiles(graph, rules, region, front)
    await _work_out(graph, rules, region, (), {}, causes)
    return region.members.keys()


async def _follow_profiles(
    graph: Graph, rules: Rules, region: _Region, front: Sequence[Member]
) -> None:
    """As `_follow`, and whole profiles as they were."""
    while front:
        await _follow(graph, rules, region, front)
        profiles = {m.place.profile for m in region.members.values() if m.place is not None}
        members = await graph.members(profiles)
        front = [m for m in members if m.record.key not in region.members]


def _newer(
    changes: Sequence[RecordChange],
    stored: Mapping[RecordKey, Stored],
    rules: Rules,
    *,
    always: bool = False,
) -> dict[RecordKey, Stored]:
    """The rows as they will be, of changes that are newer than what is stored (or ``always``)."""
    fresh: dict[RecordKey, Stored] = {}
    for change in changes:
        known = stored.get(change.key)
        if known is not None and change.position <= known.position and not (always or change.sure):
            continue
        if change.since is not None and (known is None or known.position < change.since):
            continue
        values = change.values
        if values is None:
            record = Record(change.key, position=change.position)
        else:
            if change.base is not None:
                base = stored.get(change.base)
                if base is None or base.values is None:
                    raise _missing(change)
                values = {**base.values, **values}
            record = record_of(
                change.key,
                values,
                rules,
                position=change.position,
                committed_at=change.committed_at,
            )
        place = known.place if known is not None else None
        fresh[change.key] = Stored(change.position, change.committed_at, values, record, place)
    return fresh


def _missing(change: RecordChange) -> BadRecordError:
    return BadRecordError(
        f"expected the row {change.base} for an update that leaves out unchanged values, got none: "
        "its insert is missing (see the dead letters); read the table again from the source",
        source=change.key.source,
        stream=change.key.table,
        key=change.key.key,
        position=change.position,
    )


def _says_other(before: Stored | None, now: Stored) -> bool:
    """Whether a row says anything else about who is who, or about a person."""
    if before is None or before.values is None or now.values is None:
        return now.values is not None or (before is not None and before.values is not None)
    # Also the time: of two records that disagree, the later one may be right.
    return _said(before.record) != _said(now.record)


def _said(record: Record) -> tuple[object, ...]:
    return record.identifiers, record.traits, record.fields, record.at


# --------------------------------------------------------------------------- regions


async def _touched(
    graph: Graph,
    rules: Rules,
    region: _Region,
    stored: Mapping[RecordKey, Stored],
    changed: Mapping[RecordKey, Stored],
) -> list[Member]:
    """Who was tied by an identifier that came to a record or left it, or is now.

    Asked once, after the fact: before, as many less bore it as have come, and as many more as have
    left it.
    """
    came: Counter[Identifier] = Counter()
    left: Counter[Identifier] = Counter()
    for key, row in changed.items():
        old = stored.get(key)
        had = set(old.record.identifiers) if old is not None and old.values is not None else set()
        has = set(row.record.identifiers)
        came.update(has - had)
        left.update(had - has)
    asked = await _open(graph, rules, region, came.keys() | left.keys())
    found: list[Member] = []
    if not asked:
        return found
    wide = {identifier: limit + came[identifier] for identifier, limit in asked.items()}
    for identifier, members in (await graph.bearers(wide)).items():
        limit, count = asked[identifier], len(members)
        if count > limit:
            region.ignored.add(identifier)
        if count - came[identifier] + left[identifier] <= limit or count <= limit:
            found += members
    return found


async def _open(
    graph: Graph, rules: Rules, region: _Region, identifiers: Collection[Identifier]
) -> dict[Identifier, int]:
    """Those of these that may tie records, with their limits; the others are noted."""
    region.seen |= set(identifiers)
    limits = {
        identifier: rules.kinds[identifier.kind].shared_by_at_most
        for identifier in identifiers
        if identifier.kind in rules.kinds
        and identifier.value not in rules.kinds[identifier.kind].blocked
    }
    for identifier in await graph.blocked(limits.keys()) if limits else ():
        del limits[identifier]
    region.ignored |= identifiers - limits.keys()
    return limits


async def _follow(graph: Graph, rules: Rules, region: _Region, front: Iterable[Member]) -> None:
    """Make the region whole components, from these members on."""
    fresh = {member.record.key: member for member in front}
    while fresh:
        region.members.update(fresh)
        if len(region.members) > LARGEST_REGION:
            raise BadRecordError(
                f"expected at most {LARGEST_REGION} records that identifiers tie to each other, "
                "found more: lower `shared_by_at_most` of a kind, or block the values that tie them"
            )
        tied = await graph.tied(list(fresh))
        region.matches.update(tied.matches)
        region.decisions.update((decision.number, decision) for decision in tied.decisions)
        found = list(tied.members)
        unseen = {i for member in fresh.values() for i in member.record.identifiers} - region.seen
        asked = await _open(graph, rules, region, unseen)
        for identifier, members in (await graph.bearers(asked)).items() if asked else ():
            if len(members) > asked[identifier]:
                region.ignored.add(identifier)
            else:
                found += members
        fresh = {m.record.key: m for m in found if m.record.key not in region.members}


class Whole(NamedTuple):
    """Whole components of records: who is who among them, and identifiers that tie nobody."""

    partition: Partition
    members: Mapping[RecordKey, Member]
    ignored: Collection[Identifier]


async def whole(graph: Graph, rules: Rules, keys: Sequence[RecordKey]) -> Whole:
    """All that hangs together with these records, worked out and not written: for explaining."""
    rows = await graph.stored(keys)
    region = _Region()
    front = [Member(row.record, row.place) for row in rows.values() if row.values is not None]
    await _follow(graph, rules, region, front)
    return Whole(_resolved(region, rules), region.members, region.ignored)


def _resolved(region: _Region, rules: Rules) -> Partition:
    return resolve(
        [member.record for member in region.members.values()],
        rules,
        ignored=region.ignored,
        matches=region.matches,
        decisions=region.decisions.values(),
    )


async def _work_out(
    graph: Graph,
    rules: Rules,
    region: _Region,
    front: Iterable[Member],
    before: dict[RecordKey, Place],
    causes: Mapping[RecordKey, str],
) -> int:
    """Settle the components of these members. ``before``: where records that are gone were."""
    await _follow(graph, rules, region, front)
    partition = _resolved(region, rules)
    before |= {key: m.place for key, m in region.members.items() if m.place is not None}
    named = {id_ for place in before.values() for id_ in place}
    known = await graph.known(named, region.members.keys() | before.keys())
    drafted = draft(partition.parts, before, known)
    unnamed = zip(partition.parts, drafted.ids, strict=True)
    founders = [part[0] for part, own in unnamed if own is None]
    created = await graph.new(founders) if founders else ()
    assignment = assign(partition.parts, before, drafted, created)
    meant = meanings(assignment, partition.parts, before, known)
    settled = _settled(region, rules, partition, assignment, before, causes, meant)
    await graph.settle(settled)
    return len(settled.documents)


def _settled(
    region: _Region,
    rules: Rules,
    partition: Partition,
    assignment: Assignment,
    before: Mapping[RecordKey, Place],
    causes: Mapping[RecordKey, str],
    meant: Sequence[Turn],
) -> Settled:
    was = {key: place.profile for key, place in before.items()}
    # Profiles that lost a record or have one that says something else.
    touched = {was[key] for key in (*causes, *assignment.moved) if key in was}
    documents: dict[str, Document] = {}
    for part, own in zip(partition.parts, assignment.ids, strict=True):
        if own in touched or any(key in causes or key in assignment.moved for key in part):
            records = [region.members[key].record for key in part]
            documents[own] = Document(traits(records, rules.traits), len(part))
    return Settled(
        region=region.members.keys() | causes.keys(),  # also those that are gone
        moved=assignment.moved,
        created=assignment.created,
        documents=documents,
        rests=assignment.rests,
        restored=assignment.restored,
        turns=reasons((*assignment.turns, *meant), partition, was, causes),
        refusals=partition.refusals,
    )
