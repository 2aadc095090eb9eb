"""Which public id each part has. The partition is a function of the evidence; ids are history.

Where two profiles become one, the older id survives and the other rests: it resolves to the
survivor. Each record keeps its *origin*, the id that it had before anything was merged. So where a
profile is split again, each id goes to the part that has most of the records that it came with, and
an id that rested comes back. A part to which no id belongs takes one that rests and whose *founder*
(the record that it was made for) it holds, or gets a new one. A profile without records is gone;
when its founder comes back, so does its id.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from penstock.identity.evidence import RecordKey

Event = Literal["created", "merged", "split", "restored", "gone", "moved", "means"]


class Profile(NamedTuple):
    """A public id with what decides about it: when it was made, as a number that rises, and for
    which record. ``resting``: it was merged into another (``into``), or its records are gone.
    ``at``: the profile that its founder is in, where that is known."""

    id: str
    number: int
    founder: RecordKey
    resting: bool = False
    into: str | None = None
    at: str | None = None


class Turn(NamedTuple):
    """What happened to a profile. ``other`` is the survivor of a merge, the profile whose records
    a split or move took, or what an id that rests ``means`` from now on; ``records`` are those that
    came."""

    event: Event
    profile: str
    other: str | None = None
    records: tuple[RecordKey, ...] = ()


class Place(NamedTuple):
    """The profile in which a record is, and the one that it came with."""

    profile: str
    origin: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """The id of each part, in their order; where records are now that were elsewhere; the new
    profiles; what each profile that rests now was merged into (None: it is gone); those that rest
    no more; and what happened."""

    ids: tuple[str, ...]
    moved: Mapping[RecordKey, Place]
    created: tuple[Profile, ...]
    rests: Mapping[str, str | None]
    restored: tuple[str, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """As `Assignment`, before new ids are made: the parts without one (None) need them."""

    ids: tuple[str | None, ...]
    rests: Mapping[str, str | None]
    restored: tuple[str, ...]


def draft(
    parts: Sequence[tuple[RecordKey, ...]],
    before: Mapping[RecordKey, Place],
    profiles: Mapping[str, Profile],
) -> Draft:
    """The ids that are there already for the parts.

    ``before`` says where each record was (all records of these profiles, also those that are gone
    now); ``profiles`` are all that it names, and the resting ones whose founder is in a part.
    """
    claims = _claims(parts, before, profiles)
    founded = {p.founder: p for p in sorted(profiles.values(), key=_age)[::-1] if p.resting}
    ids: list[str | None] = []
    rests: dict[str, str | None] = {}
    restored: list[str] = []
    taken: set[str] = set()
    for number, part in enumerate(parts):
        own: str | None = None
        if active := sorted((profiles[i] for i in claims.active.get(number, ())), key=_age):
            own = active[0].id
            rests.update({loser.id: own for loser in active[1:]})
        elif founded or number in claims.resting:
            back = sorted((founded[key] for key in part if key in founded), key=_age)
            resting = (*claims.resting.get(number, ()), *(profile.id for profile in back))
            own = next((id_ for id_ in resting if id_ not in taken), None)
            if own is not None:
                restored.append(own)
                taken.add(own)
        ids.append(own)
    held = {id_ for found in claims.active.values() for id_ in found}
    rests.update(dict.fromkeys(sorted({place.profile for place in before.values()} - held)))
    return Draft(tuple(ids), rests, tuple(restored))


def assign(
    parts: Sequence[tuple[RecordKey, ...]],
    before: Mapping[RecordKey, Place],
    drafted: Draft,
    created: Sequence[Profile],
) -> Assignment:
    """Each part with its id: ``created`` are for those that had none, in their order."""
    fresh = iter(created)
    ids = tuple(next(fresh).id if own is None else own for own in drafted.ids)
    return Assignment(
        ids,
        _moved(parts, ids, before, drafted.rests),
        tuple(created),
        drafted.rests,
        drafted.restored,
        _turns(
            parts,
            ids,
            {key: place.profile for key, place in before.items()},
            drafted.rests,
            {profile.id for profile in created},
            frozenset(drafted.restored),
        ),
    )


class _Claims(NamedTuple):
    """Which ids belong to which part: those in use, and those that rest, the strongest first."""

    active: Mapping[int, list[str]]
    resting: Mapping[int, list[str]]


def _claims(
    parts: Sequence[tuple[RecordKey, ...]],
    before: Mapping[RecordKey, Place],
    profiles: Mapping[str, Profile],
) -> _Claims:
    members: dict[str, Counter[int]] = defaultdict(Counter)
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    for number, part in enumerate(parts):
        for key in part:
            if (place := before.get(key)) is not None:
                members[place.profile][number] += 1
                origin = profiles.get(place.origin)
                resting = origin is not None and origin.resting
                votes[place.origin if resting else place.profile][number] += 1
    active: dict[int, list[str]] = defaultdict(list)
    resting_ones: dict[int, list[tuple[int, tuple[int, str], str]]] = defaultdict(list)
    for id_, counts in members.items():
        # Where none is left of the records that an id came with, it stays with most of the others.
        active[_most(votes.get(id_) or counts)].append(id_)
    for id_, counts in votes.items():
        if id_ not in members:
            part_number = _most(counts)
            strength = (-counts[part_number], _age(profiles[id_]), id_)
            resting_ones[part_number].append(strength)
    return _Claims(active, {n: [id_ for *_, id_ in sorted(f)] for n, f in resting_ones.items()})


def _most(counts: Counter[int]) -> int:
    """The part with most; of equals the first, whose first record is the smallest."""
    return min(counts, key=lambda part: (-counts[part], part))


def _age(profile: Profile) -> tuple[int, str]:
    return profile.number, profile.id


def _moved(
    parts: Sequence[tuple[RecordKey, ...]],
    ids: Sequence[str],
    before: Mapping[RecordKey, Place],
    rests: Mapping[str, str | None],
) -> dict[RecordKey, Place]:
    """Who is elsewhere now. Only a merge leaves a record its origin."""
    moved: dict[RecordKey, Place] = {}
    for part, own in zip(parts, ids, strict=True):
        for key in part:
            place = before.get(key)
            if place is None:
                moved[key] = Place(own, own)
            elif place.profile != own:
                merged = rests.get(place.profile) == own
                moved[key] = Place(own, place.origin if merged else own)
    return moved


def _turns(
    parts: Sequence[tuple[RecordKey, ...]],
    ids: Sequence[str],
    before: Mapping[RecordKey, str],
    rests: Mapping[str, str | None],
    created: set[str],
    restored: frozenset[str],
) -> tuple[Turn, ...]:
    """What happened, in the order of the parts; what is gone comes last."""
    turns: list[Turn] = []
    for part, own in zip(parts, ids, strict=True):
        if own in created and not any(key in before for key in part):
            turns.append(Turn("created", own, None, part))
            continue
        if own not in created and all(before.get(key, own) == own for key in part):
            if own in restored:
                turns.append(Turn("restored", own, None, part))
            continue
        came: dict[str, list[RecordKey]] = defaultdict(list)
        for key in part:
            came[before.get(key, own)].append(key)
        others = sorted(came.keys() - {own})
        if own in restored:
            turns.append(Turn("restored", own, None, part))
        for other in others:
            records = tuple(came[other])
            if rests.get(other) == own:
                turns.append(Turn("merged", other, own, records))
            elif own in created or own in restored:
                turns.append(Turn("split", own, other, records))
            else:
                turns.append(Turn("moved", own, other, records))
    turns += [Turn("gone", profile) for profile, into in rests.items() if into is None]
    return tuple(turns)


def meanings(
    assignment: Assignment,
    parts: Sequence[tuple[RecordKey, ...]],
    before: Mapping[RecordKey, Place],
    profiles: Mapping[str, Profile],
) -> list[Turn]:
    """What ids that rest mean now, where no turn of the assignment says it: they go with their
    founders, or else mean what they were merged into. Each names the next id on the way.

    ``profiles`` has all whose founder is or was in a part.
    """
    place = {key: own for part, own in zip(parts, assignment.ids, strict=True) for key in part}
    said = _said(assignment.turns)
    turns = []
    for id_, profile in sorted(profiles.items()):
        founder = profile.founder
        was_at = before[founder].profile if founder in before else profile.at
        is_at = place.get(founder) if founder in place or founder in before else profile.at
        if id_ in assignment.restored or not (profile.resting or id_ in assignment.rests):
            continue
        now = is_at or assignment.rests.get(id_, profile.into)
        told = said.get(id_, was_at or profile.into)
        if now != told:
            turns.append(Turn("means", id_, now))
    return turns


def _said(turns: Sequence[Turn]) -> dict[str, str | None]:
    """What turns say of ids."""
    said: dict[str, str | None] = {}
    for turn in turns:
        if turn.event in ("created", "split", "restored"):
            said[turn.profile] = turn.profile
        elif turn.event in ("merged", "gone"):
            said[turn.profile] = turn.other
    return said
