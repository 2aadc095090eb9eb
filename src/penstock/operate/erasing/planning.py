"""Who is meant, and by what they are found: from a reference to a `Subject`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from penstock import wiring
from penstock.errors import ConfigError
from penstock.identity.identifiers import canonical
from penstock.identity.rules import Rules, filled
from penstock.log.erasing import Place, batches
from penstock.operate.profiles import ProfileDesk
from penstock.records import DOCUMENTS, Change, Value
from penstock.settings import (
    DocumentSourceSettings,
    InteractionsSettings,
    ProfileEventsSettings,
    RowSourceSettings,
)
from penstock.stores.postgres.erasing.base import Connection
from penstock.stores.postgres.erasing.people import events_about, memberships_of
from penstock.stores.postgres.erasing.rows import live_rows
from penstock.stores.postgres.erasing.told import entries_about
from penstock.stores.postgres.live_tables import all_tables
from penstock.subjects import RecordName, Subject, form, key_name, merged, names_of

if TYPE_CHECKING:
    from penstock.project import Project

_LEAST, _MOST, _LINES = 12, 80, 8
_TOLD: Final = ("interactions", "feedback")
"""The tables of a source of interactions."""
MENTIONS: Final = 100
"""So many documents that only mention somebody are named at most."""


async def find_subject(
    project: Project, connection: Connection, references: Sequence[str], kind: str | None
) -> Subject:
    """Everything that the references mean: profiles with all of their records, rows, documents;
    and rows elsewhere that bear a value which only they have."""
    found = [await _one(project, connection, reference, kind) for reference in references]
    subject = merged(found)
    tenant = project.settings.tenant
    subject = await _with_bearers(connection, tenant, subject)
    subject = await _with_answers(project, connection, subject)
    subject = await _with_events(project, connection, subject)
    told = {name for name, _ in _followers(project)}
    return subject.including(canaries=await _canaries(connection, tenant, subject, told))


async def _one(
    project: Project, connection: Connection, reference: str, kind: str | None
) -> Subject:
    named = _named(project, reference)
    desks = _desks(project, kind)
    if named is not None and (named.stream == DOCUMENTS or not desks):
        return Subject(frozenset({named}))
    meant = [
        (desk, profile.id) for desk in desks for profile in await desk.find(reference, limit=6)
    ]
    if len(meant) > 1 and named is None:
        raise ConfigError(
            f"expected one person, but {reference!r} means several "
            f"({', '.join(f'{desk.kind} {id_}' for desk, id_ in meant)}): name one by its id, or "
            "say --kind"
        )
    parts = [await _profile(project, connection, desk, id_) for desk, id_ in meant]
    if named is not None:
        parts.append(Subject(frozenset({named})))
    if not parts:
        value = form(reference.partition(":")[2] if ":" in reference else reference)
        if value is None:
            raise ConfigError(
                f"expected a profile's id, an identifier (email:ada@example.org), a record "
                f"(SOURCE/TABLE/KEY) or a document (SOURCE/KEY), got {reference!r}, which nothing "
                "here bears"
            )
        parts.append(Subject(frozenset(), frozenset({value}), (value,)))
    return merged(parts)


async def _with_answers(project: Project, connection: Connection, subject: Subject) -> Subject:
    """With the rows that a source of interactions has of answers which hold them."""
    readers = [
        name
        for name, chosen in project.settings.sources.items()
        if isinstance(chosen, InteractionsSettings)
    ]
    entries = await entries_about(connection, project.settings.tenant, subject) if readers else []
    return subject.including(
        records=[
            RecordName(source, _TOLD[kind == "feedback"], id_)
            for source in readers
            for id_, kind in entries
        ]
    )


def _followers(project: Project) -> list[tuple[str, str]]:
    """The sources that follow what happens to profiles, with their kinds."""
    return [
        (name, chosen.kind)
        for name, chosen in project.settings.sources.items()
        if isinstance(chosen, ProfileEventsSettings)
    ]


async def _with_events(project: Project, connection: Connection, subject: Subject) -> Subject:
    """With the rows that sources of profile events have of them. What an id means stays: that it
    means nobody is what followers have to learn."""
    if not (followers := _followers(project)):
        return subject
    tenant = project.settings.tenant
    events = await events_about(connection, tenant, subject)
    members = await memberships_of(connection, tenant, subject)
    keys = [(kind, "profile_events", key_name((str(number),))) for kind, number in events]
    keys += [(kind, "segment_members", key_name(tuple(key))) for kind, *key in members]
    return subject.including(
        records=[
            RecordName(source, stream, key)
            for source, followed in followers
            for kind, stream, key in keys
            if kind == followed
        ]
    )


def _named(project: Project, reference: str) -> RecordName | None:
    """A row or a document that is named with its source."""
    source, slash, rest = reference.partition("/")
    chosen = project.settings.sources.get(source)
    if not slash or chosen is None:
        return None
    if isinstance(chosen, DocumentSourceSettings):
        return RecordName(source, DOCUMENTS, rest)
    table, slash, key = rest.partition("/")
    if not slash or not isinstance(chosen, RowSourceSettings):
        return None
    streams = [chosen.stream(one) for one in chosen.tables]
    for stream in streams:
        if table in (stream, stream.rpartition(".")[2]):
            return RecordName(source, stream, key)
    known = ", ".join(sorted(stream.rpartition(".")[2] for stream in streams))
    raise ConfigError(
        f"expected a table of the source {source!r} ({known}), got {table!r} in {reference!r}"
    )


def _desks(project: Project, kind: str | None) -> list[ProfileDesk]:
    kinds = wiring.profile_rules(project.settings) if project.settings.profiles else {}
    if kind is not None and kind not in kinds:
        raise ConfigError(
            f"expected a kind of profile ({', '.join(sorted(kinds)) or 'there is none'}), "
            f"got {kind!r}"
        )
    return [
        ProfileDesk(project, name, rules)
        for name, rules in sorted(kinds.items())
        if kind in (None, name)
    ]


async def _profile(
    project: Project, connection: Connection, desk: ProfileDesk, id_: str
) -> Subject:
    tenant, kind = project.settings.tenant, desk.kind
    said = {"tenant": tenant, "kind": kind, "id": id_}
    cursor = await connection.execute(
        "SELECT r.id, r.source, r.stream, r.key, r.identifiers, r.columns "
        "FROM penstock.profile_records r WHERE r.tenant = %(tenant)s AND r.kind = %(kind)s "
        "AND r.profile = %(id)s",
        said,
    )
    rows = await cursor.fetchall()
    records = [RecordName(*row[1:4]) for row in rows]
    own = {"ids": [row[0] for row in rows], **said}
    # Events are kept under records of ours: the rows themselves are named beside.
    cursor = await connection.execute(
        "SELECT f.source, f.stream, f.key FROM penstock.profile_facts f "
        "WHERE f.tenant = %(tenant)s AND f.kind = %(kind)s AND f.owner = ANY (%(ids)s)",
        own,
    )
    records += [RecordName(*row) for row in await cursor.fetchall()]
    cursor = await connection.execute(
        "SELECT DISTINCT b.identifier FROM penstock.profile_bearers b WHERE b.tenant = %(tenant)s "
        "AND b.kind = %(kind)s AND b.identifier = ANY (%(borne)s) AND b.record <> ALL (%(ids)s)",
        {**own, "borne": sorted({one for row in rows for one in row[4]})},
    )
    shared = {identifier for (identifier,) in await cursor.fetchall()}
    cursor = await connection.execute(
        "SELECT p.id FROM penstock.profiles p WHERE p.tenant = %(tenant)s AND p.kind = %(kind)s "
        "AND (p.id = %(id)s OR p.resting AND "
        "(p.merged_into = %(id)s OR p.founder = ANY (%(ids)s)))",
        own,
    )
    ids = [(kind, row[0]) for row in await cursor.fetchall()]
    texts = set(_identifying(desk.rules, rows, shared))
    values = frozenset(found for text in texts if (found := form(text)) is not None)
    told = tuple(sorted(text.strip() for text in texts if form(text) is not None))
    return Subject(frozenset(records), values, told, tuple(ids))


def _identifying(rules: Rules, rows: Iterable[Sequence[object]], shared: set[str]) -> Iterator[str]:
    """What identifies somebody and nobody else, in its canonical form and as rows write it."""
    for _, source, stream, _, identifiers, columns in rows:
        for identifier in identifiers if isinstance(identifiers, list) else ():
            if identifier not in shared:
                yield identifier.partition(":")[2]
        table = rules.tables.get((str(source), str(stream)))
        for kind, said in table.identifiers if table is not None else ():
            text = filled(said, columns) if isinstance(columns, dict) else None
            value = canonical(text, rules.kinds[kind])
            if text is not None and value is not None and f"{kind}:{value}" not in shared:
                yield text


# --------------------------------------------------------------------------- elsewhere


async def _with_bearers(connection: Connection, tenant: str, subject: Subject) -> Subject:
    """With the rows of any table that bear a value of theirs. A value that the row of somebody
    else bears too is nobody's alone: it is not used."""
    if not subject.values:
        return subject
    bearers: dict[RecordName, set[str]] = {}
    for table in await all_tables(connection):
        async for name, row in live_rows(connection, tenant, table):
            borne = subject.borne(row)
            if borne and name not in subject.records:
                bearers[name] = borne
    cursor = await connection.execute(
        "SELECT r.source, r.stream, r.key FROM penstock.profile_records r "
        "JOIN unnest(%s::text[], %s::text[], %s::text[]) w (source, stream, key) "
        "USING (source, stream, key) WHERE r.tenant = %s AND r.profile IS NOT NULL",
        [*(list(part) for part in zip(*bearers, strict=True)), tenant]
        if bearers
        else [[], [], [], tenant],
    )
    others = {RecordName(*row) for row in await cursor.fetchall()}
    shared = {value for name in others for value in bearers[name]}
    return Subject(
        subject.records | {n for n, borne in bearers.items() if borne - shared and n not in others},
        subject.values - shared,
        tuple(one for one in subject.canaries if form(one) not in shared),
        subject.profiles,
    )


def pieces(row: Iterable[Value]) -> Iterator[str]:
    """The parts of a row that are worth searching for: long enough to stand nowhere by chance."""
    for value in row:
        if not isinstance(value, str):
            continue
        if form(value) is not None:
            yield value.strip()
            continue
        lines = [line.strip() for line in value.splitlines()]
        long = [line[:_MOST] for line in lines if len(line) >= _LEAST]
        yield from [line for line in long if sum(map(str.isalpha, line)) >= 3][:_LINES]


async def _canaries(
    connection: Connection, tenant: str, subject: Subject, derived: Collection[str]
) -> list[str]:
    """What only the subject's rows and documents say, in live tables and in the log. What is
    ``derived`` (sources) says nothing of its own but ids of profiles, which stay."""
    own: dict[str, None] = {}
    held: set[tuple[Place, int]] = set()
    for table in await all_tables(connection):
        async for name, row in live_rows(connection, tenant, table):
            if name in subject.records and name.source not in derived:
                own.update(dict.fromkeys(pieces(row)))
    async for place, changes in batches(connection, tenant):
        for number, change in enumerate(changes):
            if not subject.holds(change):
                continue
            held.add((place, number))
            if change.schema.source not in derived:
                own.update(dict.fromkeys(_said(change)))
                own.update(dict.fromkeys(pieces(key.key for key in names_of(change))))
    # The ids of answers stay: they name entries whose content goes.
    for name in subject.records:
        if name.stream in _TOLD:
            own.pop(name.key, None)
    await _leave_what_others_say(connection, tenant, subject, own, held)
    return list(own)


async def _leave_what_others_say(
    connection: Connection,
    tenant: str,
    subject: Subject,
    own: dict[str, None],
    held: Collection[tuple[Place, int]],
) -> None:
    for table in await all_tables(connection):
        async for name, row in live_rows(connection, tenant, table):
            if name not in subject.records:
                _leave(own, row)
    async for place, changes in batches(connection, tenant):
        for number, change in enumerate(changes):
            if (place, number) not in held:
                _leave(own, (*(change.after or ()), *(change.before or ())))


def _leave(own: dict[str, None], row: Iterable[Value]) -> None:
    """Without the pieces of a row. Of a short line, which most values are, there is no other piece
    than itself."""
    for value in row:
        if not isinstance(value, str):
            continue
        if len(value) <= _MOST and value.isprintable():
            own.pop(value.strip(), None)
        else:
            for piece in pieces((value,)):
                own.pop(piece, None)


def _said(change: Change) -> Iterator[str]:
    return pieces((*(change.after or ()), *(change.before or ())))


async def mentioning(
    connection: Connection, tenant: str, subject: Subject
) -> list[tuple[str, str]]:
    """Documents of others that mention the subject by a value of theirs: they stay, unless they are
    named themselves."""
    if not subject.values:
        return []
    cursor = await connection.execute(
        "SELECT DISTINCT d.source, coalesce(d.stream, %(documents)s), d.key, d.row_key "
        "FROM penstock.chunks c JOIN penstock.documents d ON d.id = c.document_id "
        "WHERE c.tenant = %(tenant)s AND EXISTS (SELECT FROM unnest(%(values)s::text[]) v "
        "WHERE strpos(lower(c.text), v) > 0) ORDER BY 1, 3 LIMIT %(most)s",
        {
            "tenant": tenant,
            "values": sorted(subject.values),
            "documents": DOCUMENTS,
            "most": MENTIONS,
        },
    )
    found = []
    for source, stream, key, row_key in await cursor.fetchall():
        name = key if row_key is None else str(row_key[0]) if len(row_key) == 1 else key
        if RecordName(source, stream, name) not in subject.records:
            found.append((source, key))
    return found
