"""What is known of somebody beside their traits, for one purpose: what it may not be used for is
left out, with all that would tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from penstock.identity.details import Details, permitted
from penstock.identity.moments import DAY
from penstock.records import Microseconds
from penstock.serving.values import iso, jsonable
from penstock.stores.base import Snapshot, StoredProfile
from penstock.stores.details import (
    ComputedValue,
    DetailedSnapshot,
    Happened,
    ListedRows,
    ProfileDetails,
)

PROMPT: Final = "prompt"
"""What a model is told of somebody."""
API: Final = "api"
"""What an application is given."""

LATELY: Final = 30 * DAY
"""A trait that changed before is no news."""
_LONGEST: Final = 300
"""Characters of one value in a prompt."""


@dataclass(frozen=True, slots=True)
class Detailed:
    """A profile with its details, as far as a purpose allows. ``withheld`` names what it does not,
    of all that could be there: it does not say whether it is."""

    profile: StoredProfile
    wanted: Details = field(default_factory=Details)
    computed: Mapping[str, ComputedValue] = field(default_factory=dict)
    lists: Mapping[str, ListedRows] = field(default_factory=dict)
    latest: Sequence[Happened] = ()
    withheld: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """The details as JSON shows them."""
        return {
            "computed": {
                name: {
                    "value": jsonable(_timed(self.wanted, name, one.value)),
                    "rows": one.rows,
                    "without_time": one.untimed,
                    "table": ".".join(
                        (self.wanted.computed[name].source, self.wanted.computed[name].table)
                    ),
                }
                for name, one in self.computed.items()
            },
            "lists": {
                name: {
                    "rows": [
                        {
                            "values": jsonable(row.values),
                            "key": row.key,
                            "version": str(row.position),
                        }
                        for row in listed.rows
                    ],
                    "more": listed.more,
                }
                for name, listed in self.lists.items()
            },
            "latest": [
                {
                    "table": f"{one.source}.{one.table}",
                    "at": iso(one.at),
                    "values": dict(one.values),
                }
                for one in self.latest
            ],
            "withheld": list(self.withheld),
        }

    def beside(self) -> list[tuple[str, str]]:
        """Computed values and lists, each in few words."""
        found = [
            (name, _words(_timed(self.wanted, name, one.value)))
            for name, one in self.computed.items()
        ]
        for name, listed in self.lists.items():
            rows = [", ".join(_pairs(row.values)) for row in listed.rows]
            rows += ["and more"] if listed.more else []
            found.append((name, "; ".join(rows) or "none"))
        return found

    def told(self, now: Microseconds) -> dict[str, str]:
        """All that is known, in few words: each trait, value and list by its name, and what
        changed ``lately``."""
        said = {
            name: "; ".join(one.value for one in values)
            for name, values in self.profile.traits.items()
        }
        said.update(self.beside())
        if lately := self._lately(now):
            said["lately"] = "; ".join(lately)
        return said

    def _lately(self, now: Microseconds) -> list[str]:
        """The last events and changes of traits, the latest first."""
        news = [
            (one.at, f"{one.table.rpartition('.')[2]} {', '.join(_pairs(one.values))}".strip())
            for one in self.latest
        ]
        news += [
            (one.at, f"{name}: {_cut(one.value)}")
            for name, values in self.profile.traits.items()
            for one in values
            if (one.source, one.table) in self.wanted.timed
        ]
        news = [(at, words) for at, words in news if now - LATELY < at <= now]
        news.sort(key=lambda one: (-one[0], one[1]))
        return [f"{_minute(at)} {words}" for at, words in news[: self.wanted.latest]]


async def read_details(
    snapshot: Snapshot,
    profile: StoredProfile,
    wanted: Details,
    purpose: str | None,
    now: Microseconds,
) -> Detailed:
    """The profile and its details, for a purpose (None: for those who run the project)."""
    found = ProfileDetails()
    if wanted.tables() and isinstance(snapshot, DetailedSnapshot):
        found = await snapshot.profile_details(profile.kind, profile.id, wanted, now)
    return limited(profile, found, wanted, purpose)


def limited(
    profile: StoredProfile, found: ProfileDetails, wanted: Details, purpose: str | None
) -> Detailed:
    """Only what may be used for the purpose. An event is told where everything that is computed or
    listed of its table may be."""
    needed = () if wanted.consent is None else sorted(wanted.consent.needed)
    withheld = {n for n in needed if not permitted(n, purpose, wanted.consent, found.consents)}
    closed = {
        (one.source, one.table)
        for parts in (wanted.computed, wanted.lists)
        for name, one in parts.items()
        if name in withheld
    }
    records = [
        record._replace(
            identifiers=tuple(
                one for one in record.identifiers if one.partition(":")[0] not in withheld
            )
        )
        for record in profile.records
    ]
    traits = {name: said for name, said in profile.traits.items() if name not in withheld}
    return Detailed(
        replace(profile, traits=traits, records=records),
        wanted,
        {name: one for name, one in found.computed.items() if name not in withheld},
        {name: one for name, one in found.lists.items() if name not in withheld},
        [one for one in found.latest if (one.source, one.table) not in closed],
        sorted(withheld),
    )


def _timed(wanted: Details, name: str, value: Any) -> Any:
    """Times as they are written."""
    one = wanted.computed[name]
    if one.measure in ("first", "last") and one.column is None and isinstance(value, int):
        return iso(Microseconds(value))
    if one.measure == "last_session" and isinstance(value, dict):
        session = {key: said for key, said in value.items() if said is not None}
        return {**session, "from": iso(value["from"]), "to": iso(value["to"])}
    return value


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return _cut(", ".join(f"{name} {_words(one)}" for name, one in value.items()))
    if isinstance(value, list):
        return _cut(" > ".join(map(str, value)))
    return _cut(str(value))


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} {_cut(str(v))}" for name, v in jsonable(values).items() if v is not None]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _minute(at: Microseconds) -> str:
    return (iso(at) or "")[:16].replace("T", " ")
