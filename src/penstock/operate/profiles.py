"""Looking at profiles, and deciding about them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock import wiring
from penstock.database.connect import translated
from penstock.errors import ConfigError
from penstock.identity.evidence import Identifier, RecordKey, Verb
from penstock.identity.graph import Whole
from penstock.identity.identifiers import identifiers_of
from penstock.identity.reasons import between, path, said
from penstock.identity.rules import Rules
from penstock.operate.profile_picture import svg
from penstock.serving.details import Detailed, limited
from penstock.stores.base import StoredProfile
from penstock.stores.postgres.profiles.deciding import Deciding
from penstock.stores.postgres.profiles.models import Models
from penstock.stores.postgres.profiles.reading import PostgresProfiles

if TYPE_CHECKING:
    from penstock.project import Project


@dataclass(frozen=True, slots=True)
class Explained:
    """Why records are one person, or are not: the ties that lead from one to the next; those that
    were refused; identifiers that they share and that tie nobody, with the reason; and decisions
    about them that a later one contradicts."""

    together: bool
    ties: Sequence[tuple[str, str, str]]
    refused: Sequence[tuple[str, str, str, str]]
    ignored: Sequence[tuple[str, str]]
    overruled: Sequence[int] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "together": self.together,
            "ties": [dict(zip(("from", "to", "by"), tie, strict=True)) for tie in self.ties],
            "refused": [
                dict(zip(("from", "to", "by", "because"), one, strict=True)) for one in self.refused
            ],
            "ignored": [
                {"identifier": identifier, "because": why} for identifier, why in self.ignored
            ],
            "overruled": list(self.overruled),
        }


class Drawn(NamedTuple):
    """A picture, and what it shows."""

    name: str
    title: str
    svg: str
    whole: Whole


class ProfileDesk:
    """One kind of profile of a project, for a person who looks and decides."""

    def __init__(self, project: Project, kind: str, rules: Rules) -> None:
        self._project = project
        self.kind = kind
        self.rules = rules

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[PostgresProfiles]:
        """What is stored, at one moment."""
        tenant = self._project.settings.tenant
        with translated():
            async with self._project.pool.connection() as connection, connection.transaction():
                await connection.execute(
                    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
                )
                yield PostgresProfiles(connection, tenant, self.kind)

    @asynccontextmanager
    async def _deciding(self) -> AsyncIterator[Deciding]:
        tenant = self._project.settings.tenant
        with translated():
            async with self._project.pool.connection() as connection, connection.transaction():
                yield Deciding(connection, tenant, self.kind, self.rules)

    # ------------------------------------------------------------------ naming

    def record(self, reference: str) -> RecordKey | None:
        """``SOURCE/TABLE/KEY`` as a record's name; None when it is none."""
        source, _, rest = reference.partition("/")
        table, slash, key = rest.partition("/")
        if not slash:
            return None
        for of, stream in self.rules.tables:
            if of == source and table in (stream, stream.rpartition(".")[2]):
                return RecordKey(source, stream, key)
        return None

    def identifiers(self, reference: str) -> list[Identifier]:
        """``KIND:VALUE``, or a value as each kind would write it."""
        return identifiers_of(reference, self.rules.kinds)

    async def find(self, reference: str, *, limit: int = 100) -> list[StoredProfile]:
        """The profiles that an id, a record, an identifier or a bare value means."""
        async with self.reading() as profiles:
            direct = await profiles.profile(reference)
            if direct is not None:
                return [direct]
            record = self.record(reference)
            if record is not None:
                own = await profiles.of_record(record)
                ids = [] if own is None else [own]
            else:
                named = [str(identifier) for identifier in self.identifiers(reference)]
                ids = await profiles.bearing(named, limit=limit) if named else []
            found = [await profiles.profile(id_) for id_ in ids]
        return [profile for profile in found if profile is not None]

    async def one(self, reference: str) -> StoredProfile:
        """The one profile that a reference means; `ConfigError` when it is none, or several."""
        found = await self.find(reference, limit=6)
        if len(found) == 1:
            return found[0]
        if not found:
            raise ConfigError(
                f"expected a profile's id, a record as SOURCE/TABLE/KEY, or an identifier that a "
                f"{self.kind} bears, got {reference!r}: `penstock profiles list` shows some"
            )
        raise ConfigError(
            f"expected one {self.kind}, but {reference!r} means {len(found)} or more "
            f"({', '.join(profile.id for profile in found[:5])}): name one by its id"
        )

    async def detailed(self, profile: StoredProfile, purpose: str | None = None) -> Detailed:
        """Computed values, lists and the last events of a profile, for a purpose (None: all)."""
        wanted = wiring.details_of(self._project.settings, self.kind)
        # Whoever has the database sees all rows, as the CLI shows all profiles.
        lists = {n: replace(one, rule=None, open_to=True) for n, one in wanted.lists.items()}
        wanted, now = replace(wanted, lists=lists), self._project.clock.now()
        async with self.reading() as profiles:
            found = await profiles.details(profile.id, wanted, now)
        return limited(profile, found, wanted, purpose and purpose.strip().lower())

    async def records(self, reference: str) -> list[RecordKey]:
        """The record that is named, or all of the profile that is meant."""
        record = self.record(reference)
        if record is not None:
            async with self.reading() as profiles:
                if await profiles.of_record(record) is not None:
                    return [record]
        profile = await self.one(reference)
        return [RecordKey(one.source, one.table, one.key) for one in profile.records]

    # ------------------------------------------------------------------ explaining

    async def explain(self, one: str, other: str | None = None) -> Explained:
        """Why all records of a profile are one person; or why two are, or are not."""
        left = await self.records(one)
        right = left if other is None else await self.records(other)
        async with self._deciding() as deciding:
            around = await deciding.around([left[0], right[0]])
        if other is None:
            ties = [tie for tie in around.partition.ties if {tie.left, tie.right} & set(left)]
            return Explained(
                together=True,
                ties=[(str(t.left), str(t.right), said(t.via)) for t in ties],
                refused=[
                    _refused(refusal)
                    for refusal in around.partition.refusals
                    if {refusal.left, refusal.right} & set(left)
                ],
                ignored=self._ignored(around, left),
                overruled=around.partition.overruled,
            )
        steps = path(around.partition, left[0], right[0])
        return Explained(
            together=steps is not None,
            ties=[(str(t.left), str(t.right), said(t.via)) for t in steps or ()],
            refused=[
                _refused(refusal)
                for refusal in (
                    between(around.partition, left[0], right[0]) if steps is None else ()
                )
            ],
            ignored=self._ignored(around, left, right),
            overruled=around.partition.overruled,
        )

    async def picture(self, one: str, other: str | None = None) -> Drawn:
        """All that hangs together with a profile (and another), drawn."""
        profile = await self.one(one)
        keys = [await self.records(one)]
        title = f"{profile.id}: who is who, and why"
        if other is not None:
            keys.append(await self.records(other))
            title = f"{profile.id} and {(await self.one(other)).id}: who is who, and why"
        async with self._deciding() as deciding:
            around = await deciding.around([key for side in keys for key in side[:1]])
        why = {identifier: self._why_ignored(identifier) for identifier in around.ignored}
        return Drawn(profile.id, title, svg(around, title, why), around)

    def _ignored(self, around: Whole, *sides: Sequence[RecordKey]) -> list[tuple[str, str]]:
        """Identifiers that all sides bear and that tie nobody."""
        borne = [
            {
                identifier
                for key in side
                if key in around.members
                for identifier in around.members[key].record.identifiers
            }
            for side in sides
        ]
        found = set.intersection(*borne) & set(around.ignored)
        return [(str(identifier), self._why_ignored(identifier)) for identifier in sorted(found)]

    def _why_ignored(self, identifier: Identifier) -> str:
        kind = self.rules.kinds.get(identifier.kind)
        if kind is None:
            return "its kind is no longer declared"
        return f"it is blocked, or more than {kind.shared_by_at_most} records bear it"

    # ------------------------------------------------------------------ deciding

    async def merge(self, references: Sequence[str], *, by: str, reason: str) -> int:
        """These are one person. Returns the number of the decision."""
        sides = [await self.records(reference) for reference in references]
        rest = [key for side in sides[1:] for key in side if key not in sides[0]]
        if not rest:
            raise ConfigError(
                f"expected records that are not together yet, got {', '.join(references)}, which "
                "are the same"
            )
        return await self._decide("merge", sides[0], rest, by=by, reason=reason)

    async def unmerge(self, references: Sequence[str], *, by: str, reason: str) -> int:
        """These records are somebody else than the others of their profile; or, for an id that was
        merged away: the records that came with it are."""
        left: list[RecordKey] = []
        for reference in references:
            record = self.record(reference)
            left += [record] if record is not None else await self._merged_records(reference)
        async with self.reading() as profiles:
            owners = {await profiles.of_record(key) for key in left}
            owner = next(iter(owners)) if len(owners) == 1 else None
            profile = None if owner is None else await profiles.profile(owner)
        if profile is None:
            raise ConfigError(
                f"expected records of one {self.kind}, as SOURCE/TABLE/KEY, or an id that was "
                f"merged into another, got {', '.join(references)}"
            )
        members = [RecordKey(one.source, one.table, one.key) for one in profile.records]
        right = [key for key in members if key not in left]
        if not right:
            raise ConfigError(
                f"expected some of the {len(members)} records of {profile.id}, got all of them: "
                "nothing would be left to part them from"
            )
        return await self._decide("unmerge", left, right, by=by, reason=reason)

    async def _merged_records(self, id_: str) -> list[RecordKey]:
        """The records that came into another profile with an id, as far as they are there."""
        async with self.reading() as profiles:
            now = await profiles.profile(id_)
            merges = [
                event
                for event in await profiles.events(profiles=[id_], limit=100_000)
                if event.event == "merged" and event.profile == id_
            ]
        if now is None or now.id == id_ or not merges:
            raise ConfigError(
                f"expected an id that was merged into another {self.kind}, or records of one as "
                f"SOURCE/TABLE/KEY, got {id_!r}"
            )
        there = {str(RecordKey(one.source, one.table, one.key)): one for one in now.records}
        return [
            RecordKey(one.source, one.table, one.key)
            for name in merges[-1].detail.get("records", ())
            if (one := there.get(name)) is not None
        ]

    async def decide_pair(self, number: int, *, one: bool, by: str, reason: str) -> tuple[int, str]:
        """A pair of records that might be one person is one, or is two. Returns the number of the
        decision, and one of the records."""
        models = Models(self._project.pool, self._project.settings.tenant, self.kind, self.rules)
        _, found = await models.waiting(1, number)
        if not found:
            raise ConfigError(
                f"expected the number of a pair that waits for a person, got {number}: see "
                "`penstock profiles review`"
            )
        left, right = found[0].left.key, found[0].right.key
        verb: Verb = "merge" if one else "unmerge"
        decision = await self._decide(verb, [left], [right], by=by, reason=reason)
        return decision, str(left)

    async def pin(self, reference: str, *, by: str, reason: str) -> int:
        """The records of a profile stay together, and nobody else joins them."""
        records = await self.records(reference)
        return await self._decide("pin", records, (), by=by, reason=reason)

    async def block(self, reference: str, *, by: str, reason: str) -> tuple[int, Identifier]:
        """An identifier says nothing. Returns the decision's number, and the identifier."""
        found = self.identifiers(reference)
        if len(found) != 1:
            raise ConfigError(
                f"expected an identifier as KIND:VALUE with one of the kinds "
                f"{', '.join(self.rules.kinds)}, got {reference!r}"
            )
        number = await self._decide("block", (), (), by=by, reason=reason, identifier=found[0])
        return number, found[0]

    async def revoke(self, number: int) -> None:
        """Take a decision back."""
        async with self._deciding() as deciding:
            await deciding.revoke(number)

    async def _decide(
        self,
        verb: Verb,
        left: Sequence[RecordKey],
        right: Sequence[RecordKey],
        *,
        by: str,
        reason: str,
        identifier: Identifier | None = None,
    ) -> int:
        async with self._deciding() as deciding:
            return await deciding.decide(
                verb, left, right, identifier=identifier, by=by, reason=reason
            )


def _refused(refusal: Any) -> tuple[str, str, str, str]:
    because = {
        "decision": f"decision {refusal.detail} says otherwise",
        "limit": f"one person would have too many of the kind {refusal.detail!r}",
        "size": f"the profile would have {refusal.detail} records: a person has to say so",
    }[refusal.why]
    return str(refusal.left), str(refusal.right), said(refusal.via), because


def desk(project: Project, kind: str | None = None) -> ProfileDesk:
    """The desk of a kind of profile; of the only one, where none is named."""
    kinds = wiring.profile_rules(project.settings)
    if not kinds:
        raise ConfigError(
            "expected `profiles` in the project file, found none: see docs/howto/profiles.md"
        )
    if kind is None and len(kinds) > 1:
        raise ConfigError(f"expected --kind with one of {', '.join(kinds)}, got none")
    chosen = kind or next(iter(kinds))
    if chosen not in kinds:
        raise ConfigError(f"expected --kind with one of {', '.join(kinds)}, got {chosen!r}")
    return ProfileDesk(project, chosen, kinds[chosen])
