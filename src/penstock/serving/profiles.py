"""A profile in a context: what is known of the one whom a question is about, of the same moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from penstock.records import Position
from penstock.serving.items import ContextRow
from penstock.stores.base import ProfileSnapshot, Snapshot, SourceAge, StoredProfile

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


@dataclass(frozen=True, slots=True)
class ProfileFound:
    """The profile as an item, with the age of the oldest source that it is from; or why there is
    none."""

    items: tuple[ContextRow, ...] = ()
    ages: tuple[SourceAge, ...] = ()
    note: str | None = None


async def read_profile(
    snapshot: Snapshot, wanted: ProfileWanted, ages: Sequence[SourceAge]
) -> ProfileFound:
    """What the snapshot knows of somebody."""
    if not isinstance(snapshot, ProfileSnapshot):
        return ProfileFound(note="this store keeps no profiles")
    profile = await snapshot.profile(wanted.kind, wanted.reference)
    if profile is None and wanted.identifiers:
        ids = await snapshot.profiles_bearing(wanted.kind, wanted.identifiers)
        if len(ids) > 1:
            return ProfileFound(
                note=f"{wanted.reference!r} means {len(ids)} profiles ({', '.join(ids[:5])}): none "
                "of them is in this context"
            )
        profile = await snapshot.profile(wanted.kind, ids[0]) if ids else None
    if profile is None:
        return ProfileFound(note=f"no {wanted.kind} is known (or to be shown) by what was named")
    return ProfileFound((_item(profile),), (_age(profile, ages),))


def _item(profile: StoredProfile) -> ContextRow:
    return ContextRow(
        source=SOURCE,
        table=profile.kind,
        key=f"{profile.kind}/{profile.id}",
        row_key=(profile.id,),
        title=f"{profile.kind} {profile.id}",
        values={
            name: "; ".join(one.value for one in said) for name, said in profile.traits.items()
        },
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
