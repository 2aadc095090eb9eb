"""Who may see what, in PostgreSQL: lists, groups, and both walls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg
from psycopg_pool import AsyncConnectionPool

from penstock.database.connect import open_pool
from penstock.errors import BadRecordError, ConfigError, RetryableError
from penstock.principals import Principal
from penstock.records import Change, Column, Microseconds, Position, Schema
from penstock.stores.base import (
    ApplyRows,
    Filter,
    PermissionEntry,
    SetPermissions,
    TruncateDocuments,
)
from penstock.stores.postgres.permissions import Declared, Permitted, declare
from penstock.stores.postgres.search import PostgresSnapshot, PostgresSnapshotStore
from penstock.stores.postgres.store import PostgresStore
from penstock.testing.knowledge import MODEL, Doc, replacing, store, vector_of
from penstock.testing.permissions import (
    CLOSED_ELSE,
    DOCS_BY_ENTRIES,
    GROUPS_DECLARED,
    LISTS,
    LISTS_DECLARED,
    MEMBERS,
    row,
    without,
)

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]
DECLARED = Declared([CLOSED_ELSE, DOCS_BY_ENTRIES], [GROUPS_DECLARED, LISTS_DECLARED])


@dataclass
class World:
    pool: Pool
    writer: PostgresStore
    reader: PostgresSnapshotStore

    async def declare(self, declared: Declared = DECLARED) -> bool:
        return await declare(self.pool, declared, tenant="default")

    async def add(self, *keys: str, position: int = 1, **more: Any) -> None:
        docs = [Doc(key, f"the river at {key}", position=position, **more) for key in keys]
        await store(self.writer, replacing(*docs))

    async def rows(self, *changes: Change) -> None:
        await store(self.writer, ApplyRows(changes))

    async def say(self, place: str, number: int = 1, **said: Any) -> None:
        """An entry of a file beside the place."""
        entry = PermissionEntry(
            "docs",
            place,
            said.pop("entry", f"{place}.acl.yaml"),
            Position(f"{number:016x}"),
            Microseconds(number),
            **said,
        )
        await store(self.writer, SetPermissions([entry]))

    async def seen(
        self, user: str | None = None, *groups: str, tenant: str = "default"
    ) -> set[str]:
        """The keys of all documents that this one finds: by vector, by words, and by number."""
        async with self.reader.snapshot(Principal(user, groups, tenant)) as snapshot:
            by_vector = await found(snapshot, text=False)
            by_words = await found(snapshot, vector=False)
            by_number = {p.key for p in await snapshot.passages(range(1, 2000))}
        assert by_vector == by_words == by_number
        return by_number

    async def execute(self, statement: str, *values: Any) -> list[Any]:
        async with self.pool.connection() as connection:
            cursor = await connection.execute(statement.encode(), values or None)
            return await cursor.fetchall() if cursor.description else []


async def found(snapshot: PostgresSnapshot, *, vector: bool = True, text: bool = True) -> set[str]:
    hits = await snapshot.candidates(
        vector_of("x") if vector else None,
        "the river" if text else None,
        limit=200,
        where=Filter(),
        model=MODEL,
    )
    return {p.key for p in await snapshot.passages([hit.chunk for hit in hits])}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    pool = await open_pool(database_url, max_size=6)
    made = World(pool, PostgresStore(pool), PostgresSnapshotStore(pool))
    await made.writer.prepare_tables([MEMBERS, LISTS])
    yield made
    await pool.close()


# --------------------------------------------------------------------------- lists of documents


async def test_g7_a_declared_source_without_lists_shows_nothing(world: World) -> None:
    """Unknown means no: also what was stored, and seen, before permissions were declared."""
    await world.add("a", "b/c")
    assert await world.seen() == {"a", "b/c"}
    assert await world.declare()
    assert not await world.declare(), "the second time nothing is new"
    await world.add("later")
    assert await world.seen("ada", "staff") == set()
    await world.declare(Declared())
    assert await world.seen() == {"a", "b/c", "later"}, "a project without permissions is open"


async def test_g7_documents_of_one_commit_have_each_its_own_list(world: World) -> None:
    """Lists that versions carry themselves, several in one commit, beside a source with a rule."""
    carried: dict[str, tuple[list[str] | None, list[str]]] = {
        "for all": (None, []),
        "for ada": (["user:ada"], []),
        "ada's too": (["user:ada"], []),
        "not for eve": (None, ["user:eve"]),
        "for nobody": ([], []),
        "ada, not staff": (["user:ada"], ["group:staff"]),
    }
    docs = [
        Doc(f"{source} {key}", f"the river at {source} {key}", source, allow=allow, deny=deny)
        for source in ("free", "docs")
        for key, (allow, deny) in carried.items()
    ]
    await world.declare(Declared([DOCS_BY_ENTRIES]))
    await world.say("docs for ada", allow=["user:eve"])
    await store(world.writer, replacing(*docs))
    assert await world.seen() == {"free for all", "free not for eve"}
    assert await world.seen("eve") == {"free for all", "docs for ada"}
    ada = {"free for all", "free for ada", "free ada's too", "free not for eve"}
    assert await world.seen("ada") == {*ada, "free ada, not staff"}
    assert await world.seen("ada", "staff") == ada


async def test_g7_lists_apply_to_documents_that_come_before_and_after(world: World) -> None:
    """A list arrives before its document or after it; the nearest list counts; folders inherit."""
    await world.declare()
    await world.add("hr/before", "other")
    await world.say("hr", allow=["group:hr"])
    await world.say("hr/special", allow=["user:ada"])
    await world.add("hr/after", "hr/special", "hr2")
    assert await world.seen("bo", "hr") == {"hr/before", "hr/after"}
    assert await world.seen("ada") == {"hr/special"}
    await world.say("hr", 2, gone=True)
    assert await world.seen("bo", "hr") == set()
    await world.say("hr", 1, allow=["everyone"])
    assert await world.seen() == set(), "an older list that comes late does not count"


async def test_g7_a_denial_beats_every_permission(world: World) -> None:
    """Of the user, of a group, of a folder above, and of everyone."""
    await world.declare()
    await world.add("a/x", "a/y", "a/z")
    await world.say("a", allow=["everyone"], deny=["user:eve", "group:out"])
    await world.say("a/x", allow=["user:eve", "group:out", "user:ada"])
    await world.say("a/z", allow=["everyone"], deny=["everyone"])
    assert await world.seen("eve") == set()
    assert await world.seen("bo", "out") == set()
    assert await world.seen("ada", "out") == set()
    assert await world.seen("ada") == {"a/x", "a/y"}
    assert await world.seen() == {"a/y"}


async def test_g7_a_list_that_cannot_be_read_closes_its_place(world: World) -> None:
    """And all below, also where a list is in order; two files about one place contradict."""
    await world.declare()
    await world.add("a/x", "b/x")
    await world.say("a/x", allow=["everyone"])
    await world.say("b", allow=["everyone"])
    assert await world.seen() == {"a/x", "b/x"}
    await world.say("a", allow=[], problem="expected YAML")
    assert await world.seen() == {"b/x"}
    await world.say("b", 2, allow=["user:ada"], entry="b.acl.json")
    assert await world.seen("ada") == set()
    await world.say("b", 3, entry="b.acl.json", gone=True)
    await world.say("a", 2, allow=["user:ada"])
    assert await world.seen("ada") == {"a/x", "b/x"}


async def test_a_list_changes_no_chunk_and_embeds_nothing(world: World) -> None:
    """Only the rows of documents are written, and only those whose list is another."""
    await world.declare()
    await world.add("a/x", "a/y", "c")
    await world.say("a/y", allow=["user:ada"])
    before = await world.execute(
        "SELECT id, ctid::text, xmin::text FROM penstock.chunks ORDER BY 1"
    )
    vectors = await world.execute("SELECT ctid::text, xmin::text FROM penstock.vectors ORDER BY 1")
    rows = dict(await world.execute("SELECT key, xmin::text FROM penstock.documents"))
    await world.say("a", allow=["user:bo"])
    after = await world.execute("SELECT id, ctid::text, xmin::text FROM penstock.chunks ORDER BY 1")
    assert before == after
    assert vectors == await world.execute(
        "SELECT ctid::text, xmin::text FROM penstock.vectors ORDER BY 1"
    )
    now = dict(await world.execute("SELECT key, xmin::text FROM penstock.documents"))
    assert {key for key in now if now[key] != rows[key]} == {"a/x"}


async def test_names_of_places_are_no_patterns(world: World) -> None:
    """A place is itself and what is below it, not what begins like it; hostile names are names."""
    keys = ["a%", "a%/x", "ab/x", "a_", "a0", "a-b/x", "a'; DROP--/x", "ü/ñ", "a//b", "/a"]
    await world.declare()
    await world.add(*keys)
    for place, below in (
        ("a%", {"a%", "a%/x"}),
        ("a_", {"a_"}),
        ("a", set()),
        ("a'; DROP--", {"a'; DROP--/x"}),
        ("ü", {"ü/ñ"}),
        ("", set(keys)),
    ):
        await world.say(place, allow=["user:ada"], entry="one")
        assert await world.seen("ada") == below | ({"a//b"} if place == "a" else set())
        await world.say(place, 2, entry="one", gone=True)


async def test_truncated_documents_take_their_lists_with_them(world: World) -> None:
    await world.declare()
    await world.add("a")
    await world.say("a", allow=["everyone"])
    await store(world.writer, TruncateDocuments("docs", "documents", Position(f"{5:016x}")))
    await world.add("a", position=6)
    assert await world.seen() == set()


# --------------------------------------------------------------------------- groups


async def test_g7_groups_are_live(world: World) -> None:
    """Membership comes and goes with the rows of a live table; removing a group is removing its
    rows; what the caller vouches for counts beside it, with the groups that hold it."""
    await world.declare()
    await world.add("a")
    await world.say("a", allow=["group:staff"])
    assert await world.seen("ada") == set()
    await world.rows(row(MEMBERS, 1, "hr", "ada", None), row(MEMBERS, 2, "staff", None, "hr"))
    assert await world.seen("ada") == {"a"}
    assert await world.seen("bo", "hr") == {"a"}
    assert await world.seen(None, "staff") == {"a"}
    await world.rows(row(MEMBERS, 1, "sales", "ada", None))
    assert await world.seen("ada") == set()
    await world.rows(row(MEMBERS, 1, "hr", "ada", None))
    assert await world.seen("ada") == {"a"}
    await world.rows(without(MEMBERS, 2))
    assert await world.seen("ada") == set()


async def test_g7_groups_in_circles_end(world: World) -> None:
    """And everything in the circle is a member of everything in it."""
    await world.declare()
    await world.add("a", "b")
    await world.say("a", allow=["group:g0"])
    await world.say("b", allow=["everyone"], deny=["group:g39"])
    chain = [row(MEMBERS, i, f"g{(i + 1) % 40}", None, f"g{i}") for i in range(40)]
    await world.rows(*chain, row(MEMBERS, 99, "g20", "ada", None))
    assert await world.seen("ada") == {"a"}
    assert await world.seen("bo") == {"b"}


async def test_a_user_called_like_a_group_is_not_that_group(world: World) -> None:
    await world.declare()
    await world.add("a", "b", "c")
    await world.say("a", allow=["group:staff"])
    await world.say("b", allow=["user:staff"])
    await world.say("c", allow=["everyone"], deny=["group:staff"])
    await world.rows(row(MEMBERS, 1, "staff", "ada", None), row(MEMBERS, 2, "ada", "cy", None))
    assert await world.seen("staff") == {"b", "c"}
    assert await world.seen("ada") == {"a"}
    assert await world.seen("everyone") == {"c"}
    assert await world.seen("group:staff") == {"c"}


HOSTILE = [
    "a'b",
    'a"b',
    "a\\b",
    "a{b}",
    "a,b",
    "NULL",
    "ü",
    "İ",
    "ß",
    "日本",
    "a b",
    "🌊",
    "null",
    "*",
]


async def test_hostile_names_are_names(world: World) -> None:
    """Characters with a meaning in arrays, JSON or SQL stand for themselves."""
    await world.declare()
    await world.add(*(str(i) for i in range(len(HOSTILE))))
    for i, name in enumerate(HOSTILE):
        await world.say(str(i), allow=[f"group:{name}"])
    await world.rows(*(row(MEMBERS, i, name, f"u-{name}", None) for i, name in enumerate(HOSTILE)))
    for i, name in enumerate(HOSTILE):
        assert await world.seen(None, name) == {str(i)}
        assert await world.seen(f"u-{name}") == {str(i)}
        assert await world.seen(name) == set()


async def test_names_differ_by_case_and_agree_in_unicode_form(world: World) -> None:
    """No folding, which would make one user of two; but one spelling in two encodings is one."""
    await world.declare()
    await world.add("a", "b")
    await world.rows(
        row(LISTS, 1, "a", "Ada", None, "allow"), row(LISTS, 2, "b", "Zoe\u0301", None, "allow")
    )
    assert await world.seen("ada") == set()
    assert await world.seen("Ada") == {"a"}
    assert await world.seen("strasse") == set()
    assert await world.seen("Zo\u00e9") == {"b"}


@pytest.mark.parametrize("name", ["", " ada", "a\x00b", "a\nb", "x" * 401, "\ud800"])
def test_what_is_no_name_cannot_ask(name: str) -> None:
    with pytest.raises(ConfigError, match="expected the name of a"):
        Principal(name)
    with pytest.raises(ConfigError, match="expected the name of a"):
        Principal("ada", (name,))


async def test_too_many_groups_are_an_error_and_not_a_permission(world: World) -> None:
    """Behind the bound there may be a denial."""
    await world.declare()
    await world.add("a")
    await world.say("a", allow=["everyone"])
    await world.rows(*(row(MEMBERS, i, f"g{i}", "ada", None) for i in range(10_001)))
    with pytest.raises(BadRecordError, match="at most 10000 groups"):
        await world.seen("ada")
    assert await world.seen("bo") == {"a"}


# --------------------------------------------------------------------------- lists as a table


async def test_g7_a_table_of_lists_is_obeyed(world: World) -> None:
    """Rows that allow and deny, for documents and folders; changes of a row's place and effect."""
    await world.declare()
    await world.rows(row(LISTS, 1, "a/x", "ada", None, "allow"))
    await world.add("a/x", "a/y")
    assert await world.seen("ada") == {"a/x"}
    await world.rows(row(LISTS, 2, "/a/", None, "staff", "ALLOW"))
    assert await world.seen("bo", "staff") == {"a/y"}, "the nearest place that allows counts"
    await world.rows(row(LISTS, 1, "a/y", "ada", None, "allow"))
    assert await world.seen("ada") == {"a/y"}
    assert await world.seen("bo", "staff") == {"a/x"}
    await world.rows(row(LISTS, 3, "", "bo", None, "deny"))
    assert await world.seen("bo", "staff") == set()
    await world.rows(without(LISTS, 3))
    assert await world.seen("bo", "staff") == {"a/x"}
    await world.rows(row(LISTS, 2, "a", None, "staff", "permit"))
    assert await world.seen("bo", "staff") == set(), "an effect that nobody knows closes the place"
    assert await world.seen("ada") == set()
    await world.rows(row(LISTS, 2, "a", None, None, "allow"))
    assert await world.seen("ada") == set()
    await world.rows(without(LISTS, 2))
    assert await world.seen("ada") == {"a/y"}


async def test_g7_what_a_table_says_counts_from_the_moment_it_is_declared(world: World) -> None:
    """Rows that were there before; and no longer when the project takes it back."""
    await world.add("a")
    await world.rows(row(LISTS, 1, "a", None, "hr", "allow"), row(MEMBERS, 1, "hr", "ada", None))
    await world.declare()
    assert await world.seen("ada") == {"a"}
    await world.declare(Declared([CLOSED_ELSE, DOCS_BY_ENTRIES], [LISTS_DECLARED]))
    assert await world.seen("ada") == set()
    assert await world.seen("ada", "hr") == {"a"}
    await world.rows(row(MEMBERS, 2, "hr", "bo", None))
    assert await world.seen("bo") == set(), "the table is followed no longer"


async def test_a_table_whose_columns_change_is_still_followed(world: World) -> None:
    """Another column, another type, the deciding column gone (then nobody is in any group)."""
    await world.declare()
    await world.add("a")
    await world.say("a", allow=["group:hr"])
    await world.rows(row(MEMBERS, 1, "hr", "ada", None))

    def as_of(number: int, *columns: Column) -> Schema:
        return Schema("directory", "public.members", (Column("id", "bigint", key=True), *columns))

    wider = as_of(1, *MEMBERS.columns[1:], Column("note", "text"))
    await world.rows(row(wider, 2, "hr", "bo", None, "n", position=1 << 40))
    assert await world.seen("ada") == await world.seen("bo") == {"a"}
    other = as_of(2, Column("team", "character varying(20)"), *wider.columns[2:])
    await world.rows(row(other, 3, "hr", "cy", None, "n", position=(1 << 40) + 1))
    assert await world.seen("cy") == {"a"}
    gone = as_of(3, *wider.columns[2:])
    await world.rows(row(gone, 4, "dee", None, "n", position=(1 << 40) + 2))
    for user in ("ada", "bo", "cy", "dee"):
        assert await world.seen(user) == set()


# --------------------------------------------------------------------------- rows


TICKETS = Schema(
    "crm",
    "public.tickets",
    (
        Column("id", "bigint", key=True),
        Column("subject", "text"),
        Column("owner", "text"),
        Column("teams", "text[]"),
        Column("hidden", "jsonb"),
    ),
)
BY_COLUMNS = {
    "kind": "columns",
    "users": ["owner"],
    "groups": ["teams"],
    "deny": ["hidden"],
    "always": ["group:support"],
}
TICKETS_DECLARED = Declared(
    [CLOSED_ELSE, {"source": "crm", "stream": "public.tickets", "rule": BY_COLUMNS}],
    [GROUPS_DECLARED],
)


def ticket_doc(key: int, *values: str | None, position: int = 1) -> Doc:
    names = ("owner", "teams", "hidden")
    return Doc(
        f"public.tickets/{key}",
        f"the river of ticket {key}",
        source="crm",
        stream="public.tickets",
        row_key=[str(key)],
        metadata=dict(zip(names, values, strict=True)),
        position=position,
    )


LISTED = [
    (1, "ada", '{hr,"a b"}', None, {"ada", "hr", "a b", "support"}),
    (2, None, None, None, {"support"}),
    (3, "ada", "{}", '["user:bo", "group:hr"]', {"ada", "support"}),
    (4, "ada", None, '"user:ada"', {"support"}),
    (5, "ada", None, '{"no": "list"}', set()),
    (6, "ada", None, '["bo"]', set()),
    (7, " ada ", None, None, {"ada", "support"}),
    (9, "", None, None, {"support"}),
    (10, "a\tb", None, None, set()),
    (8, "ada", None, "7", set()),
]


async def test_g7_columns_say_who_may_see_a_row(world: World) -> None:
    """The text of the row and the row itself, by both walls; a value that is no list closes it."""
    await world.writer.prepare_tables([TICKETS])
    await world.declare(TICKETS_DECLARED)
    await world.rows(row(MEMBERS, 1, "hr", "bo", None), row(MEMBERS, 2, "support", "bo", None))
    for key, owner, teams, hidden, _ in LISTED:
        await world.rows(row(TICKETS, key, "s", owner, teams, hidden))
        await store(world.writer, replacing(ticket_doc(key, owner, teams, hidden)))
    for name in ("ada", "hr", "a b", "support", "none"):
        who = Principal("ada") if name == "ada" else Principal(None, (name,))
        expected = {str(key) for key, *_, names in LISTED if name in names}
        async with world.reader.snapshot(who) as snapshot:
            passages = await snapshot.passages(range(1, 100))
            assert {p.row_key[0] for p in passages if p.row_key} == expected
            assert {row.key[0] for row in await snapshot.rows(passages)} == expected
            cursor = await snapshot._connection.execute("SELECT id::text FROM crm.tickets")
            assert {id_ for (id_,) in await cursor.fetchall()} == expected, "by SQL"
    expected = {f"public.tickets/{key}" for key in (1, 2, 4, 7, 9)}
    assert await world.seen("bo") == expected


async def test_g7_a_deciding_column_that_is_gone_closes_the_table(world: World) -> None:
    await world.writer.prepare_tables([TICKETS])
    await world.declare(TICKETS_DECLARED)
    await world.rows(row(TICKETS, 1, "s", "ada", None, None))
    async with world.reader.snapshot(Principal("ada")) as snapshot:
        cursor = await snapshot._connection.execute("SELECT id FROM crm.tickets")
        assert await cursor.fetchall() == [(1,)]
    narrower = Schema("crm", "public.tickets", TICKETS.columns[:4])
    await world.rows(row(narrower, 2, "s", "ada", None, position=1 << 40))
    async with world.reader.snapshot(Principal("ada", ("support",))) as snapshot:
        cursor = await snapshot._connection.execute("SELECT id FROM crm.tickets")
        assert await cursor.fetchall() == []


# --------------------------------------------------------------------------- the second wall


async def test_g7_the_database_refuses_without_our_condition(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row-level security alone: a search whose own condition is gone finds no more than before."""
    await world.declare()
    await world.add("mine", "theirs")
    await world.say("mine", allow=["user:ada"])
    await world.say("theirs", allow=["user:bo"])
    everything = Permitted([0, -1, *range(1, 100)])

    async def all_lists(self: PostgresSnapshot) -> Permitted:
        return everything

    monkeypatch.setattr(PostgresSnapshot, "_may", all_lists)
    assert await world.seen("ada") == {"mine"}
    assert await world.seen() == set()
    async with world.reader.snapshot(Principal("ada")) as snapshot:
        hits = await snapshot.candidates(
            vector_of("x"), "the river", limit=9, where=Filter(), model=MODEL
        )
        assert len(hits) == 1, "not even the number of what is theirs"
        cursor = await snapshot._connection.execute("SELECT key FROM penstock.documents")
        assert await cursor.fetchall() == [("mine",)]
        cursor = await snapshot._connection.execute(
            "SELECT chunk_id FROM penstock.passages('{1,2}')"
        )
        assert await cursor.fetchall() == [(hits[0].chunk,)]


async def test_g7_our_condition_refuses_without_the_database(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the other way: the same search as a role that row-level security does not bind."""
    from penstock.stores.postgres import search

    await world.declare()
    await world.add("mine", "theirs")
    await world.say("mine", allow=["user:ada"])
    await world.say("theirs", allow=["user:bo"])
    settings = search._SETTINGS.replace("set_config('role', 'penstock_reader', true)", "1")
    monkeypatch.setattr(search, "_SETTINGS", settings)
    async with world.reader.snapshot(Principal("ada")) as snapshot:
        cursor = await snapshot._connection.execute("SELECT key FROM penstock.documents ORDER BY 1")
        assert await cursor.fetchall() == [("mine",), ("theirs",)], "no policy binds this role"
        hits = await snapshot.candidates(
            vector_of("x"), "the river", limit=9, where=Filter(), model=MODEL
        )
        assert len(hits) == 1
    assert await world.seen("ada") == {"mine"}
    assert await world.seen() == set()


async def test_g7_the_serving_role_reads_no_words_but_by_permission(world: World) -> None:
    """Not from chunks, not from lists, groups or entries; and it cannot write any of them."""
    await world.declare()
    await world.add("theirs")
    await world.say("theirs", allow=["user:bo"])
    refused = (
        "SELECT text FROM penstock.chunks",
        "SELECT heading FROM penstock.chunks",
        "SELECT * FROM penstock.lists",
        "SELECT * FROM penstock.permissions",
        "SELECT * FROM penstock.memberships",
        "SELECT * FROM penstock.permission_rules",
        "UPDATE penstock.documents SET list_id = 0",
        "INSERT INTO penstock.memberships VALUES ('default', 's', 't', 'r', 'g', 'm', '', 0)",
        "SELECT * FROM directory.members",
    )
    async with world.pool.connection() as connection:
        for statement in refused:
            await connection.execute("BEGIN")
            await connection.execute(
                "SELECT set_config('penstock.tenant', 'default', true),"
                " set_config('role', 'penstock_reader', true)"
            )
            if "directory" in statement:
                cursor = await connection.execute(statement.encode())
                assert await cursor.fetchall() == []
            else:
                with pytest.raises(pg.InsufficientPrivilege):
                    await connection.execute(statement.encode())
            await connection.execute("ROLLBACK")


# --------------------------------------------------------------------------- at the same time


async def test_g7_a_snapshot_has_passages_and_permissions_of_one_moment(world: World) -> None:
    """What is revoked while a query runs is seen by it to the end, and by the next not at all;
    a new secret text under a list that closed at the same time is never seen under the old one."""
    await world.declare()
    await world.add("a")
    await world.say("a", allow=["group:hr"])
    await world.rows(row(MEMBERS, 1, "hr", "ada", None))
    async with world.reader.snapshot(Principal("ada")) as snapshot:
        assert await found(snapshot) == {"a"}
        await world.rows(without(MEMBERS, 1))
        await world.say("a", 2, allow=["user:bo"])
        await store(world.writer, replacing(Doc("a", "the river, secret", position=2)))
        [passage] = await snapshot.passages(range(1, 100))
        assert passage.text == "the river at a"
        assert await world.seen("ada") == set()
        assert await found(snapshot) == {"a"}
    assert await world.seen("bo") == {"a"}


async def waits_or_is_done(world: World, task: asyncio.Task[None]) -> None:
    """Until the task has ended, or the server says that somebody waits for a lock."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
    while not task.done() and await world.execute(waiting) == [(0,)]:
        await asyncio.sleep(0)


async def test_g7_a_document_and_its_list_in_two_open_transactions(world: World) -> None:
    """Whichever is stored first: the other waits, and sees it."""
    await world.declare()
    await world.say("f", allow=["user:ada"])
    async with world.writer.transaction() as transaction:
        await transaction.apply(replacing(Doc("f/a", "the river of a")))
        entry = asyncio.create_task(world.say("f", 2, allow=["user:bo"]))
        await waits_or_is_done(world, entry)
    await entry
    assert await world.seen("ada") == set()
    assert await world.seen("bo") == {"f/a"}
    async with world.writer.transaction() as transaction:
        change = PermissionEntry(
            "docs", "f", "f.acl.yaml", Position(f"{3:016x}"), Microseconds(3), allow=["user:cy"]
        )
        await transaction.apply(SetPermissions([change]))
        document = asyncio.create_task(world.add("f/b"))
        await waits_or_is_done(world, document)
    await document
    assert await world.seen("bo") == set()
    assert await world.seen("cy") == {"f/a", "f/b"}


async def test_g7_lists_and_documents_written_at_once_never_miss_each_other(world: World) -> None:
    """Two pipelines in two transactions, in every order: no document keeps a list that is not its
    own, and nobody waits for ever."""
    await world.declare()

    async def again(step: Callable[[], Awaitable[None]]) -> None:
        """As the loops do."""
        while True:
            try:
                return await step()
            except RetryableError:
                await asyncio.sleep(0)

    async def documents(name: str) -> None:
        for number in range(1, 13):
            await again(partial(world.add, f"f/{name}", "f/both", position=number))

    async def lists() -> None:
        for number in range(1, 25):
            await again(partial(world.say, "f", number, allow=[f"user:u{number}"]))

    async def table() -> None:
        for number in range(1, 13):
            change = row(LISTS, 1, f"f/{number}", "ada", None, "allow")
            await again(partial(world.rows, change))

    await asyncio.gather(documents("1"), documents("2"), lists(), table())
    await world.rows(without(LISTS, 1))
    assert await world.seen("u24") == {"f/1", "f/2", "f/both"}
    assert await world.seen("u23") == set()


async def test_g7_revocation_while_queries_run(world: World) -> None:
    """Many ask while permissions are given and taken: who asks after a change was committed, and is
    answered before the next begins, is shown what that change left; the first to ask included."""
    await world.declare()
    await world.add("a")
    settled: list[bool] = [False]
    moving = False
    stop = asyncio.Event()
    compared = {True: 0, False: 0}

    async def change() -> None:
        nonlocal moving
        for number in range(1, 41):
            allowed = bool(number % 2)
            moving = True
            await world.say("a", number, allow=["user:ada"] if allowed else ["user:bo"])
            settled.append(allowed)
            moving = False
            assert (await world.seen("ada") == {"a"}) is allowed, "the very next query"
            before = compared[allowed]
            while compared[allowed] == before:
                await asyncio.sleep(0)
        stop.set()

    async def ask() -> None:
        while not stop.is_set():
            count, quiet = len(settled), not moving
            seen = await world.seen("ada")
            if quiet and not moving and len(settled) == count:
                assert (seen == {"a"}) is settled[-1]
                compared[settled[-1]] += 1

    await asyncio.gather(change(), ask(), ask(), ask())
    assert min(compared.values()) >= 20
