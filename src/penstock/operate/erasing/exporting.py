"""What is known of somebody, for them: with where it is from, its position and its time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from psycopg import sql

from penstock.database.connect import translated
from penstock.log.erasing import batches
from penstock.operate.erasing import planning
from penstock.records import DOCUMENTS, Change, Row
from penstock.stores.postgres import live_names
from penstock.stores.postgres.dead_letters import read_letters
from penstock.stores.postgres.erasing.base import Connection, Work
from penstock.stores.postgres.erasing.knowledge import documents_of
from penstock.stores.postgres.live_tables import LiveTable, all_tables
from penstock.stores.postgres.profiles.reading import PostgresProfiles
from penstock.subjects import RecordName, Subject, key_name

if TYPE_CHECKING:
    from penstock.project import Project


async def export(project: Project, reference: str, kind: str | None = None) -> dict[str, Any]:
    """All that is kept of a subject, at one moment."""
    tenant = project.settings.tenant
    with translated():
        async with project.pool.connection() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            subject = await planning.find_subject(project, connection, [reference], kind)
            mentions = await planning.mentioning(connection, tenant, subject)
            letters = await read_letters(connection, tenant)
            return {
                "project": project.settings.project,
                "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "asked_for": reference,
                "profiles": [
                    found
                    for of, id_ in subject.profiles
                    if (found := await _profile(connection, tenant, of, id_)) is not None
                ],
                "rows": await _rows(connection, tenant, subject),
                "documents": await _documents(connection, tenant, subject),
                "history": await _history(connection, tenant, subject),
                "dead_letters": [
                    {"reason": one.letter.reason, **_change(one.letter.change)}
                    for one in letters
                    if subject.holds(one.letter.change)
                ],
                "mentioned_in": [f"{source}/{key}" for source, key in mentions],
            }


async def _profile(
    connection: Connection, tenant: str, kind: str, id_: str
) -> dict[str, Any] | None:
    reading = PostgresProfiles(connection, tenant, kind)
    found = await reading.profile(id_)
    if found is None or found.id != id_:
        return None
    events = await reading.events(profiles=[id_])
    return {
        "kind": kind,
        "id": id_,
        "created_at": _moment(found.created_at),
        "changed_at": _moment(found.changed_at),
        "identifiers": found.identifiers,
        "traits": {
            name: [
                {"value": v.value, "from": f"{v.source}/{v.table}/{v.key}", "at": _moment(v.at)}
                for v in values
            ]
            for name, values in found.traits.items()
        },
        "records": [
            {
                "record": f"{one.source}/{one.table}/{one.key}",
                "identifiers": list(one.identifiers),
                "position": one.position,
                "at": _moment(one.at),
            }
            for one in found.records
        ],
        "events": [{"event": e.event, "other": e.other, "at": _moment(e.at)} for e in events],
    }


async def _rows(connection: Connection, tenant: str, subject: Subject) -> list[dict[str, Any]]:
    found = []
    for table in await all_tables(connection):
        wanted = frozenset(subject.of(table.source, table.stream))
        if wanted:
            found += await _rows_of(connection, tenant, table, wanted)
    return found


async def _rows_of(
    connection: Connection, tenant: str, table: LiveTable, wanted: frozenset[str]
) -> list[dict[str, Any]]:
    columns = [*table.names, live_names.POSITION, live_names.COMMITTED_AT]
    cursor = await connection.execute(
        sql.SQL("SELECT {} FROM {} WHERE {} = %s").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(c)) for c in columns),
            table.identifier,
            sql.Identifier(live_names.TENANT),
        ),
        [tenant],
    )
    found = []
    for *row, position, committed_at in await cursor.fetchall():
        key = key_name(tuple(row[index] for index in table.schema.key_indexes))
        if key in wanted:
            found.append(
                {
                    "record": str(RecordName(table.source, table.stream, key)),
                    "values": dict(zip(table.schema.names, row, strict=True)),
                    "position": position,
                    "committed_at": _moment(int(committed_at)),
                }
            )
    return found


async def _documents(connection: Connection, tenant: str, subject: Subject) -> list[dict[str, Any]]:
    ids = [id_ for id_, _ in await documents_of(Work(connection, tenant, subject))]
    cursor = await connection.execute(
        "SELECT d.source, d.key, d.title, d.metadata, d.position, d.committed_at, d.stream, "
        "ARRAY(SELECT c.text FROM unnest(d.layout) WITH ORDINALITY l (id, place) "
        "JOIN penstock.chunks c ON c.id = l.id ORDER BY l.place) "
        "FROM penstock.documents d WHERE d.id = ANY (%s) AND d.deleted_at IS NULL ORDER BY 1, 2",
        [ids],
    )
    return [
        {
            "document": f"{source}/{key}",
            "stream": stream or DOCUMENTS,
            "title": title,
            "metadata": metadata,
            "passages": texts,
            "position": position,
            "committed_at": _moment(committed_at),
        }
        for source, key, title, metadata, position, committed_at, stream, texts in (
            await cursor.fetchall()
        )
    ]


async def _history(connection: Connection, tenant: str, subject: Subject) -> list[dict[str, Any]]:
    return [
        _change(change)
        async for _, changes in batches(connection, tenant)
        for change in changes
        if subject.holds(change)
    ]


def _change(change: Change) -> dict[str, Any]:
    schema = change.schema
    return {
        "record": str(RecordName(schema.source, schema.stream, key_name(change.key))),
        "op": change.op.name.lower(),
        "after": _named(change, change.after),
        "before": _named(change, change.before),
        "position": change.position,
        "committed_at": _moment(change.committed_at),
    }


def _named(change: Change, row: Row | None) -> dict[str, str | None] | None:
    if row is None:
        return None
    pairs = zip(change.schema.names, row, strict=False)
    return {name: value for name, value in pairs if value is None or isinstance(value, str)}


def _moment(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat()


def markdown(found: dict[str, Any]) -> str:
    """An export for a person to read."""
    lines = [f"# What {found['project']} knows", "", f"As of {found['exported_at']}.", ""]
    for profile in found["profiles"]:
        lines += [f"## Profile {profile['id']}", ""]
        lines += [
            f"- {name}: {value['value']} (from {value['from']}, {value['at']})"
            for name, values in profile["traits"].items()
            for value in values
        ]
        lines += [f"- identified by {one}" for one in profile["identifiers"]] + [""]
    for row in found["rows"]:
        lines += [f"## {row['record']}", "", f"As of {row['committed_at']}.", ""]
        lines += [f"- {name}: {value}" for name, value in row["values"].items()] + [""]
    for document in found["documents"]:
        lines += [f"## {document['document']}", "", *document["passages"], ""]
    lines += [f"## {len(found['history'])} changes that are kept", ""]
    lines += [
        f"- {one['committed_at']}: {one['op']} of {one['record']}" for one in found["history"]
    ]
    return "\n".join(lines) + "\n"
