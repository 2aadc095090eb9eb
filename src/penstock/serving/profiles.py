"""A profile in a context: what is known of the one whom a question is about, of the same moment."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from penstock.clock import Clock
from penstock.errors import ConfigError
from penstock.identity.details import Details
from penstock.principals import Principal
from penstock.records import Microseconds, Position
from penstock.serving.details import API, PROMPT, Detailed, read_details
from penstock.serving.items import ContextRow
from penstock.serving.values import iso
from penstock.stores.base import (
    ProfileSnapshot,
    Snapshot,
    SnapshotStore,
    SourceAge,
    StoredProfile,
)
from penstock.stores.details import DetailedSnapshot

SOURCE: Final = "profiles"
"""The source of a profile among the items of a context: it has no single one."""

_NAMED: Final = 1.0
"""The rank of an item that was not searched but named: half of what a perfect find has."""


@dataclass(frozen=True, slots=True)
class ProfileWanted:
    """Whom a question is about: an id, or what they bear (``kind:value`` in canonical form)."""

    kind: str
    reference: str
    identifiers: tuple[str, ...] = ()
    details: Details = field(default_factory=Details)


@dataclass(frozen=True, slots=True)
class ProfileFound:
    """The profile as an item, with the age of the oldest source that it is from; or why there is
    none."""

    items: tuple[ContextRow, ...] = ()
    ages: tuple[SourceAge, ...] = ()
    note: str | None = None


async def read_profile(
    snapshot: Snapshot, wanted: ProfileWanted, ages: Sequence[SourceAge], now: Microseconds
) -> ProfileFound:
    """What the snapshot knows of somebody and a model may be told."""
    if not isinstance(snapshot, ProfileSnapshot):
        return ProfileFound(note="this store keeps no profiles")
    found = await _meant(snapshot, wanted)
    if len(found) > 1:
        return ProfileFound(
            note=f"{wanted.reference!r} means {len(found)} profiles ({', '.join(found[:5])}): none "
            "of them is in this context"
        )
    profile = await snapshot.profile(wanted.kind, found[0]) if found else None
    if profile is None:
        return ProfileFound(note=f"no {wanted.kind} is known (or to be shown) by what was named")
    detailed = await read_details(snapshot, profile, wanted.details, PROMPT, now)
    return ProfileFound((_item(detailed, now),), (_age(profile, ages),))


async def _meant(snapshot: ProfileSnapshot, wanted: ProfileWanted) -> Sequence[str]:
    """The ids that a reference means: itself, where it is one, or of those who bear it."""
    if await snapshot.profile(wanted.kind, wanted.reference) is not None:
        return [wanted.reference]
    if not wanted.identifiers:
        return []
    return await snapshot.profiles_bearing(wanted.kind, wanted.identifiers)


@dataclass(frozen=True, slots=True)
class ProfileShown:
    """A profile by itself, with the ages of the sources that it is from."""

    detailed: Detailed
    age: SourceAge
    sources: tuple[SourceAge, ...]
    taken_at: Microseconds

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it; ``merged_from`` is the id that was asked for, where it is another."""
        profile = self.detailed.profile
        return {
            "kind": profile.kind,
            "id": profile.id,
            "merged_from": None if profile.asked == profile.id else profile.asked,
            "version": profile.version,
            "created_at": iso(profile.created_at),
            "changed_at": iso(profile.changed_at),
            "traits": {
                name: [{**one._asdict(), "at": iso(one.at)} for one in said]
                for name, said in profile.traits.items()
            },
            "identifiers": profile.identifiers,
            "records": [
                {
                    **one._asdict(),
                    "identifiers": list(one.identifiers),
                    "position": str(one.position),
                    "at": iso(one.at),
                    "committed_at": iso(one.committed_at),
                }
                for one in profile.records
            ],
            **self.detailed.to_dict(),
            "taken_at": iso(self.taken_at),
            "age_ms": age_ms(self.age, self.taken_at),
            "sources": [
                {**asdict(one), "as_of": iso(one.as_of), "age_ms": age_ms(one, self.taken_at)}
                for one in self.sources
            ],
        }


@dataclass(frozen=True, slots=True)
class ProfileReader:
    """Profiles for whoever asks. ``bearing`` says which identifiers of a kind a text may mean."""

    snapshots: SnapshotStore
    clock: Clock
    kinds: Collection[str]
    bearing: Callable[[str, str], Sequence[str]]
    details: Callable[[str], Details]

    def wanted(self, kind: str, who: str) -> ProfileWanted:
        """Whom an id or an identifier means. A kind that there is not has no profiles, like one
        that may not be seen: nobody learns which kinds there are."""
        kind, who = storable(kind), storable(who)
        if kind not in self.kinds:
            return ProfileWanted(kind, who)
        return ProfileWanted(kind, who, tuple(self.bearing(kind, who)), self.details(kind))

    def about(self, reference: str) -> ProfileWanted:
        """Whom ``KIND:ID`` or ``KIND:IDENTIFIER`` means."""
        kind, colon, who = reference.partition(":")
        if not (kind and colon and who):
            raise ConfigError(
                "expected a profile as KIND:ID or KIND:IDENTIFIER (customer:ada@example.org), got "
                f"{reference[:200]!r}"
            )
        return self.wanted(kind, who)

    async def read(
        self, kind: str, who: str, principal: Principal, *, purpose: str = API
    ) -> ProfileShown | None:
        """The profile, as far as it may be used for a purpose; None when there is none that this
        one may see: who may not see its kind learns nothing. `SeveralProfilesError` where ``who``
        means more than one."""
        wanted = self.wanted(kind, who)
        async with self.snapshots.snapshot(principal) as snapshot:
            taken_at = self.clock.now()
            if not isinstance(snapshot, ProfileSnapshot):
                return None
            found = await _meant(snapshot, wanted)
            if len(found) > 1:
                raise SeveralProfilesError(
                    f"expected one {wanted.kind}, but {wanted.reference[:200]!r} means "
                    f"{len(found)} ({', '.join(found[:5])}): name one by its id"
                )
            profile = await snapshot.profile(wanted.kind, found[0]) if found else None
            if profile is None:
                return None
            ages = await snapshot.ages()
            detailed = await read_details(snapshot, profile, wanted.details, purpose, taken_at)
        names = {record.source for record in profile.records}
        own = tuple(age for age in ages if age.source in names)
        return ProfileShown(detailed, _age(profile, ages), own, taken_at)

    async def segment(
        self, kind: str, segment: str, principal: Principal, *, after: str = "", limit: int = 100
    ) -> dict[str, Any] | None:
        """Who is in a segment, by their ids in order; None when there is none that this one may
        see."""
        async with self.snapshots.snapshot(principal) as snapshot:
            if not isinstance(snapshot, DetailedSnapshot):
                return None
            found = await snapshot.segment(
                storable(kind), storable(segment), after=storable(after), limit=limit
            )
        if found is None:
            return None
        return {
            "kind": kind,
            "segment": segment,
            "profiles": [{"id": one.profile, "since": iso(one.since)} for one in found],
            "next": found[-1].profile if len(found) == limit else None,
        }


class SeveralProfilesError(ConfigError):
    """What was named means more than one profile."""


def nobody(kind: str, who: str) -> str:
    """The sentence for a profile that there is not, or that is not to be seen."""
    named = f"{kind[:100]!r} by {who[:200]!r}"
    return f"expected a profile that you may see, found none of the kind {named}"


def age_ms(age: SourceAge, now: Microseconds) -> float | None:
    """How old a part is in milliseconds; None while nothing is known."""
    return None if age.as_of is None else max(0.0, round((now - age.as_of) / 1000, 3))


def storable(text: str) -> str:
    """As a database can be asked for it: nothing that is stored has such characters."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def _item(detailed: Detailed, now: Microseconds) -> ContextRow:
    profile = detailed.profile
    return ContextRow(
        source=SOURCE,
        table=profile.kind,
        key=f"{profile.kind}/{profile.id}",
        row_key=(profile.id,),
        title=f"{profile.kind} {profile.id}",
        values=detailed.told(now),
        searched=(),
        version=Position(str(profile.version)),
        committed_at=profile.changed_at,
        score=_NAMED,
    )


def _age(profile: StoredProfile, ages: Sequence[SourceAge]) -> SourceAge:
    """As old as the oldest of its sources; unknown where one of them is."""
    names = {record.source for record in profile.records}
    known = [age for age in ages if age.source in names]
    times = [age.as_of for age in known if age.as_of is not None]
    whole = len(times) == len(names)
    return SourceAge(
        SOURCE, min(times) if whole and times else None, None, any(age.loading for age in known)
    )
