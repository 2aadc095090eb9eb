"""What the project says of profiles, as the identity graph uses it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from penstock.errors import ConfigError
from penstock.identity.fuzzy import comparisons
from penstock.identity.rules import Form, KindRule, Rules, TableRule, TraitRule
from penstock.settings import ProfileSettings, Settings
from penstock.settings.profiles import IdentifierSettings, ProfileTableSettings
from penstock.wiring.details import details_of, stream_of
from penstock.wiring.permissions import declares_permissions

if TYPE_CHECKING:
    from penstock.clock import Clock
    from penstock.identity.details import Details
    from penstock.serving.profiles import ProfileReader, ProfileWanted
    from penstock.stores.base import SnapshotStore

_BY_NAME: dict[str, Form] = {"email": "email", "phone": "phone"}


def profile_rules(settings: Settings) -> dict[str, Rules]:
    """The rules of each kind of profile, by its name."""
    return {kind: _rules(settings, kind) for kind in settings.profiles}


def profile_readers(settings: Settings, kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who may see the profiles of a kind, and who may not whatever else is said."""
    chosen = settings.profiles[kind]
    if chosen.allow is not None:
        return chosen.allow, chosen.deny
    return (() if declares_permissions(settings) else ("everyone",)), chosen.deny


def profile_wanted(settings: Settings, reference: str) -> ProfileWanted:
    """Whom ``KIND:ID`` or ``KIND:IDENTIFIER`` means; the kind may be left out where there is one.
    An identifier is ``email:ada@example.org``, or its value alone."""
    from penstock.identity.identifiers import identifiers_of
    from penstock.serving.profiles import ProfileWanted

    kinds = settings.profiles
    kind, colon, rest = reference.partition(":")
    if not (colon and kind in kinds):
        kind, rest = next(iter(kinds), ""), reference
        if len(kinds) != 1:
            raise ConfigError(
                f"expected KIND:ID or KIND:IDENTIFIER with one of the kinds "
                f"{', '.join(kinds) or '(there are none: see docs/howto/profiles.md)'}, "
                f"got {reference!r}"
            )
    found = identifiers_of(rest, _rules(settings, kind).kinds)
    return ProfileWanted(kind, rest, tuple(map(str, found)), details_of(settings, kind))


def profile_reader(settings: Settings, snapshots: SnapshotStore, clock: Clock) -> ProfileReader:
    """What gives profiles to applications."""
    from penstock.identity.identifiers import identifiers_of
    from penstock.serving.profiles import ProfileReader

    @cache
    def rules(kind: str) -> Rules:  # when first asked: a form may need an extra
        return _rules(settings, kind)

    def bearing(kind: str, who: str) -> Sequence[str]:
        return [str(identifier) for identifier in identifiers_of(who, rules(kind).kinds)]

    @cache
    def details(kind: str) -> Details:
        return details_of(settings, kind)

    return ProfileReader(snapshots, clock, frozenset(settings.profiles), bearing, details)


def _rules(settings: Settings, kind: str) -> Rules:
    chosen = settings.profiles[kind]
    details = details_of(settings, kind)
    tables = {}
    for name, table in sorted(chosen.tables.items()):
        place = stream_of(settings, name)
        # Rows of events are kept whether anything is computed of them or not.
        keeps = table.events or place in details.tables()
        tables[place] = _table(
            table, details.columns(*place) if keeps else None, _compared(chosen, name)
        )
    borne = sorted({kind for table in chosen.tables.values() for kind in table.identifiers})
    said = sorted({trait for table in chosen.tables.values() for trait in table.traits})
    return Rules(
        kinds={kind: _kind(kind, chosen.identifiers.get(kind)) for kind in borne},
        traits={
            name: TraitRule(rule.rule, tuple(_trusted(settings, one) for one in rule.trust))
            if (rule := chosen.traits.get(name)) is not None
            else TraitRule()
            for name in said
        },
        tables=tables,
        largest=chosen.quarantine_above,
        noted=bool(details.segments),
    )


def _trusted(settings: Settings, name: str) -> str:
    """A source, or a table as its changes name it."""
    if "." not in name or name.partition(".")[0] not in settings.sources:
        return name
    return ".".join(stream_of(settings, name))


def _compared(chosen: ProfileSettings, name: str) -> dict[str, str]:
    """What fuzzy matching compares of a table's rows."""
    if chosen.matching is None:
        return {}
    comparisons.expect_extra()
    said = chosen.matching.compare.get(name)
    if said is not None:
        return dict(sorted(said.items()))
    table = chosen.tables[name]
    if table.events:  # many of one person, and nothing in them that tells people apart
        return {}
    found = dict(table.traits)
    for kind, columns in table.identifiers.items():
        form = (chosen.identifiers.get(kind) or IdentifierSettings()).form
        if form not in ("exact", "digits") and "{" not in columns[0]:
            found.setdefault(kind, columns[0])
    return dict(sorted(found.items()))


def _table(
    chosen: ProfileTableSettings, kept: tuple[str, ...] | None, compared: dict[str, str]
) -> TableRule:
    return TableRule(
        identifiers=tuple(
            (kind, said) for kind, several in sorted(chosen.identifiers.items()) for said in several
        ),
        traits=dict(sorted(chosen.traits.items())),
        fields=compared,
        at=chosen.time,
        kept=kept,
        events=chosen.events,
    )


def _kind(name: str, chosen: IdentifierSettings | None) -> KindRule:
    from penstock.identity import identifiers

    said = chosen or IdentifierSettings()
    form: Form = said.form or _BY_NAME.get(name, "text")
    if form == "phone":
        identifiers.phonenumbers()
    rule = KindRule(
        form=form,
        shared_by_at_most=said.shared_by_at_most,
        per_profile_at_most=said.per_profile_at_most,
        priority=said.priority,
        region=said.region,
        providers=said.providers,
    )
    return identifiers.blocking(rule, said.blocked)
