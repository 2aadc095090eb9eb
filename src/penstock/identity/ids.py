"""Which public id each part has. The partition is a function of the evidence; ids are history.

A profile's id goes with most of its records. Where two profiles become one, the older id survives
and the other rests: it resolves to the survivor. Where one becomes two, the id stays with the part
that has most of its records, and each other part takes back the resting id whose *founder* (the
record that it was made for) it holds, or gets a new one. A profile without records is gone; when
its founder comes back, so does its id.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from penstock.identity.evidence import RecordKey

Event = Literal["created", "merged", "split", "restored", "gone", "moved"]


class Profile(NamedTuple):
    """A public id with what decides about it: when it was made, as a number that rises, and for
    which record. ``resting``: it was merged into another, or its records are gone."""

    id: str
    number: int
    founder: RecordKey
    resting: bool = False


class Turn(NamedTuple):
    """What happened to a profile. ``other`` is the survivor of a merge, or the profile whose
    records a split or move took; ``records`` are those that came."""

    event: Event
    profile: str
    other: str | None = None
    records: tuple[RecordKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Assignment:
    """The id of each part, in their order; the new profiles; what each profile that rests now was
    merged into (None: it is gone); those that rest no more; and what happened."""

    ids: tuple[str, ...]
    created: tuple[Profile, ...]
    rests: Mapping[str, str | None]
    restored: tuple[str, ...]
    turns: tuple[Turn, ...]


def assign(
    parts: Sequence[tuple[RecordKey, ...]],
    before: Mapping[RecordKey, str],
    profiles: Mapping[str, Profile],
    new: Callable[[RecordKey], Profile],
) -> Assignment:
    """Give each part its id.

    ``before`` says in which profile each record was (all records of these profiles, also those that
    are gone now); ``profiles`` are these, and all resting ones whose founder is in a part; ``new``
    makes one for a founder.
    """
    holders = _holders(parts, before)
    claims: dict[int, list[Profile]] = defaultdict(list)
    for profile, holder in holders.items():
        claims[holder].append(profiles[profile])
    # Of several that were made for one record, the oldest.
    resting = {p.founder: p for p in sorted(profiles.values(), key=_age)[::-1] if p.resting}
    ids: list[str] = []
    created: list[Profile] = []
    rests: dict[str, str | None] = {}
    restored: list[str] = []
    for number, part in enumerate(parts):
        claimed = sorted(claims.get(number, ()), key=_age)
        if claimed:
            survivor = claimed[0]
            rests.update({loser.id: survivor.id for loser in claimed[1:]})
        elif back := sorted((resting[key] for key in part if key in resting), key=_age):
            survivor = back[0]
            restored.append(survivor.id)
        else:
            survivor = new(part[0])
            created.append(survivor)
        ids.append(survivor.id)
    for profile in sorted({*before.values()} - holders.keys()):
        rests[profile] = None
    fresh = {profile.id for profile in created}
    turns = _turns(parts, ids, before, rests, fresh, frozenset(restored))
    return Assignment(tuple(ids), tuple(created), rests, tuple(restored), turns)


def _age(profile: Profile) -> tuple[int, str]:
    return profile.number, profile.id


def _holders(
    parts: Sequence[tuple[RecordKey, ...]], before: Mapping[RecordKey, str]
) -> dict[str, int]:
    """The part that has most of each profile's records; of equals, the one with the smallest."""
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    smallest: dict[tuple[str, int], RecordKey] = {}
    for number, part in enumerate(parts):
        for key in part:
            profile = before.get(key)
            if profile is not None:
                votes[profile][number] += 1
                smallest.setdefault((profile, number), key)
    return {
        profile: min(counts, key=lambda part: (-counts[part], smallest[profile, part]))
        for profile, counts in votes.items()
    }


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
        came: dict[str, list[RecordKey]] = defaultdict(list)
        for key in part:
            came[before.get(key, own)].append(key)
        others = sorted(came.keys() - {own})
        if own in restored:
            turns.append(Turn("restored", own, None, part))
        elif own in created and not others:
            turns.append(Turn("created", own, None, part))
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
