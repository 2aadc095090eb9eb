"""Permissions from their sources to the answer: a folder with files beside documents, a directory
and a table of lists in PostgreSQL, and rows that say themselves who may see them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from penstock.errors import ConfigError
from penstock.operate.check import check
from penstock.operate.permissions import explain, findings, overview
from penstock.operate.replay import replay
from penstock.operate.verify import verify
from penstock.principals import Principal
from penstock.project import Project
from penstock.settings import Settings
from penstock.stores.base import Filter

if TYPE_CHECKING:
    from tests.acceptance.conftest import Home

DEADLINE_S = 20.0
PERMISSIONS: Mapping[str, Any] = {
    "files": {"type": "sidecars"},
    "wiki": {
        "type": "table",
        "source": "directory",
        "table": "lists",
        "document": "path",
        "principal": "who",
        "effect": "effect",
    },
    "tickets": {"type": "columns", "users": ["owner"], "groups": ["team"]},
}
GROUPS = [
    {"source": "directory", "table": "members", "group": "team", "user": "login"},
    {"source": "directory", "table": "subteams", "group": "parent", "subgroup": "child"},
]


@pytest.fixture
async def directory(source_url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(source_url, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE members (team text, login text, PRIMARY KEY (team, login))",
            "CREATE TABLE subteams (parent text, child text, PRIMARY KEY (parent, child))",
            "CREATE TABLE lists (path text, who text, effect text, PRIMARY KEY (path, who))",
            "CREATE TABLE tickets (id int PRIMARY KEY, subject text, owner text, team text)",
            "INSERT INTO members VALUES ('hr', 'ada'), ('sales', 'bo')",
            "INSERT INTO subteams VALUES ('staff', 'hr'), ('staff', 'sales')",
            "INSERT INTO lists VALUES ('', 'group:staff', 'allow'), ('x.md', 'user:bo', 'deny')",
            "INSERT INTO tickets VALUES (1, 'the river is wet', 'ada', NULL)",
            "INSERT INTO tickets VALUES (2, 'the river is dry', NULL, 'sales')",
        ):
            await connection.execute(statement)
        yield connection


def folders(folder: Path) -> None:
    texts = {
        "files/hr/pay.md": "The river of pay.",
        "files/hr/plan.md": "The river of plans.",
        "files/open.md": "The river of everybody.",
        "files/lost.md": "The river of nobody.",
        "files/hr.acl.yaml": "allow: [group:hr]\n",
        "files/hr/pay.md.acl.json": '{"allow": ["user:cy"], "deny": ["user:ada"]}',
        "files/open.md.acl.yaml": "allow: [everyone]",
        "wiki/x.md": "The river of x.",
        "wiki/y.md": "The river of y.",
    }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def settings(folder: Path, database: str, source: str, *, permitted: bool = True) -> Settings:
    def said(name: str) -> dict[str, Any]:
        return {"permissions": PERMISSIONS[name]} if permitted else {}

    def files(name: str) -> dict[str, Any]:
        found = {"type": "files", "path": str(folder / name), "heartbeat": 0.1}
        return {**found, "include": ["**/*.md"] if permitted else ["**/*"], **said(name)}

    return Settings.model_validate(
        {
            "project": "lists",
            "database": database,
            "data": str(folder / "data"),
            "knowledge": {"embedder": "constant"},
            "groups": GROUPS if permitted else [],
            "sources": {
                "files": files("files"),
                "wiki": files("wiki"),
                "directory": {
                    "type": "postgres",
                    "dsn": source,
                    "heartbeat": 0.1,
                    "tables": {
                        "members": {},
                        "subteams": {},
                        "lists": {},
                        "tickets": {"searched": ["subject"], **said("tickets")},
                    },
                },
            },
        }
    )


@asynccontextmanager
async def opened(chosen: Settings, *, running: bool = True) -> AsyncIterator[Project]:
    project = Project(chosen)
    try:
        await project.start()
        if running:
            async with project.running():
                await project.caught_up(limit_s=DEADLINE_S)
                yield project
        else:
            yield project
    finally:
        await project.close()


async def seen(project: Project, user: str | None = None, *groups: str) -> set[str]:
    """Everything of a context, by its source and key."""
    context = await project.context(
        "the river", limit=50, where=Filter(), principal=Principal(user, groups)
    )
    return {f"{item.source}/{item.key}" for item in context.items}


async def until(project: Project, user: str, expected: set[str]) -> float:
    """How long it takes until this one sees exactly this."""
    began = time.monotonic()
    async with asyncio.timeout(DEADLINE_S):
        while await seen(project, user) != expected:
            await asyncio.sleep(0.005)
    return time.monotonic() - began


TICKETS = {n: f"directory/public.tickets/{n}" for n in (1, 2)}
ADA = {"files/hr/plan.md", "files/open.md", "wiki/x.md", "wiki/y.md", TICKETS[1]}
BO = {"files/open.md", "wiki/y.md", TICKETS[2]}


async def test_g7_permissions_from_their_sources_to_the_answer(
    directory: psycopg.AsyncConnection, source_url: str, database_url: str, tmp_path: Path
) -> None:
    """Switched on in a project that has run without; obeyed by everything; nothing embeds again."""
    folders(tmp_path)
    before = settings(tmp_path, database_url, source_url, permitted=False)
    async with opened(before) as project:
        assert "files/lost.md" in await seen(project)
        assert "files/hr.acl.yaml" in await seen(project)
    chosen = settings(tmp_path, database_url, source_url)
    async with opened(chosen, running=False) as project:
        assert await seen(project, "ada") == {"wiki/x.md", "wiki/y.md", TICKETS[1]}, "at once"
    async with opened(chosen) as project:
        await until(project, "ada", ADA)
        assert await seen(project, "bo") == BO
        assert await seen(project, "cy") == {"files/open.md", "files/hr/pay.md"}
        assert await seen(project) == {"files/open.md"}
        assert await seen(project, "zoe", "staff") == {"files/open.md", "wiki/x.md", "wiki/y.md"}
        assert project.embedding_counts()[0] == 0
        answer = await project.answer("the river of plans?", principal=Principal("bo"))
        assert not any("hr/" in citation.key for citation in answer.citations)
        report = await verify(project)
        assert report.differences == 0, report.to_dict()
        await changes(directory, project, tmp_path)
        assert project.embedding_counts()[0] == 0
    moved = await replayed(chosen)
    assert moved
    async with opened(chosen) as project:
        await until(project, "ada", ADA)
        assert await seen(project, "bo") == BO


async def replayed(chosen: Settings) -> int:
    """Everything is processed again from the beginning of the log."""
    async with opened(chosen, running=False) as project:
        return len(await replay(project, "knowledge", position=0)) + len(
            await replay(project, "tables", position=0)
        )


async def changes(directory: psycopg.AsyncConnection, project: Project, folder: Path) -> None:
    """What is taken away is gone from the next query; what is given back is there again."""
    sidecar = folder / "files/hr.acl.yaml"

    def write(text: str) -> Callable[[], Awaitable[Any]]:
        return lambda: asyncio.to_thread(sidecar.write_text, text)

    def do(statement: str) -> Callable[[], Awaitable[Any]]:
        return lambda: directory.execute(statement.encode())

    no_hr = ADA - {"files/hr/plan.md"}
    steps = [
        (do("DELETE FROM members WHERE login = 'ada'"), {"files/open.md", TICKETS[1]}),
        (do("INSERT INTO members VALUES ('hr', 'ada')"), ADA),
        (do("DELETE FROM subteams WHERE child = 'hr'"), ADA - {"wiki/x.md", "wiki/y.md"}),
        (do("INSERT INTO subteams VALUES ('staff', 'hr')"), ADA),
        (do("INSERT INTO lists VALUES ('y.md', 'group:hr', 'deny')"), ADA - {"wiki/y.md"}),
        (do("DELETE FROM lists WHERE path = 'y.md'"), ADA),
        (do("UPDATE tickets SET owner = 'bo' WHERE id = 1"), ADA - {TICKETS[1]}),
        (do("UPDATE tickets SET owner = 'ada' WHERE id = 1"), ADA),
        (write("allow: [group:board]\n"), no_hr),
        (write("allow: [group:hr\n"), no_hr),
        (write("allow: [group:hr]\n"), ADA),
    ]
    for action, expected in steps:
        await action()
        assert await until(project, "ada", expected) < 5
    letters = await project.store.dead_letters(source="files")
    assert [letter.letter.change.key[0] for letter in letters] == ["hr.acl.yaml"]
    assert "expected YAML or JSON" in letters[0].letter.reason


async def test_it_is_explained(
    directory: psycopg.AsyncConnection, source_url: str, database_url: str, tmp_path: Path
) -> None:
    """Which entry, through which group, from which source, since when; and what is wrong."""
    folders(tmp_path)
    (tmp_path / "files/hr/broken.md").write_text("The river breaks.")
    (tmp_path / "files/hr/broken.md.acl.yaml").write_text("allow: [hr]")
    async with opened(settings(tmp_path, database_url, source_url)) as project:

        async def why(user: str, key: str, *groups: str, source: str | None = None) -> Any:
            found = await explain(project, Principal(user, groups), key, source=source)
            visible = f"{found.document.source}/{key}" in await seen(project, user, *groups)
            assert found.permitted is visible, "it says what a query does"
            return found

        yes = await why("ada", "hr/plan.md")
        assert yes.reason == "yes: group:hr may"
        [ground] = yes.to_dict()["allowed_by"]
        assert ground["entry"] == "hr.acl.yaml"
        assert ground["place"] == "hr"
        [step] = ground["through"]
        assert (step["member"], step["group"]) == ("user:ada", "group:hr")
        assert step["stream"] == "public.members"
        assert step["since"].startswith("20")
        no = await why("ada", "hr/pay.md")
        assert no.reason == "no: user:ada may not, and a denial beats every permission"
        assert [g.entry for g in no.denied_by] == ["hr/pay.md.acl.json"]
        nested = await why("ada", "x.md", source="wiki")
        [ground] = nested.to_dict()["allowed_by"]
        assert [s["group"] for s in ground["through"]] == ["group:hr", "group:staff"]
        assert (await why("bo", "hr/plan.md")).reason == "no: only group:hr may"
        assert (await why("bo", "lost.md")).reason == "no: nothing says who may see it"
        broken = await why("ada", "hr/broken.md")
        assert "a list that cannot be used closes it" in broken.reason
        assert "expected user:NAME, group:NAME or everyone, got 'hr'" in broken.problems[0]
        assert (await why("Cy", "hr/pay.md")).hints
        assert (await why("ada", "public.tickets/1")).reason == "yes: user:ada may"
        assert (await why("bo", "public.tickets/1")).reason == "no: only user:ada may"
        with pytest.raises(ConfigError, match=r"no 'pay.md'.*did you mean 'hr/pay.md'"):
            await why("ada", "pay.md")
        said = "\n".join(f.message for f in findings(await overview(project)))
        assert "2 of 5 documents can be seen by nobody" in said
        assert "hr/broken.md.acl.yaml closes 'hr/broken.md'" in said
        await directory.execute("INSERT INTO lists VALUES ('z.md', 'group:Staff', 'allow')")
        await project.caught_up(limit_s=DEADLINE_S)
        said = "\n".join(f.message for f in findings(await overview(project)))
        assert "1 groups are named in lists and have no member in the tables of groups" in said
        assert "differ by case alone" in said


def test_the_commands(home: Home, database_url: str) -> None:
    """`ask --as`, `acl explain`, `acl list` and `check`, as a user meets them."""
    home.project(
        database_url,
        "  documents: {type: files, path: ./documents, permissions: sidecars}\n"
        "  shared: {type: files, path: ./shared, permissions: open}\n",
    )
    (home.folder / "shared").mkdir()
    (home.documents / "pay.md").write_text("Pay is due on the 28th of each month.")
    (home.documents / "pay.md.acl.yaml").write_text("allow: [group:hr]\ndeny: [user:eve]\n")
    assert home.run("run", "--once").code == 0
    for who, expected in (
        ((), 0),
        (("ada",), 0),
        (("ada", "group:hr"), 1),
        (("eve", "group:hr"), 0),
    ):
        arguments = [part for name in who for part in ("--as", name)]
        found = home.run("search", "when is pay due", "--json", *arguments)
        assert len(found.json["passages"]) == expected
    told = home.run("acl", "explain", "ada", "pay.md", "--group", "hr")
    assert "yes: group:hr may" in told.output
    assert "pay.md.acl.yaml" in told.output
    assert (
        home.run("acl", "explain", "eve", "pay.md", "-g", "hr", "--json").json["permitted"] is False
    )
    assert "expected a document that is stored, found no 'nay.md'" in home.run(
        "acl", "explain", "ada", "nay.md"
    ).sentence(2)
    assert home.run("acl", "list", "--json").json["sources"][0]["documents"] == 1
    assert "every document can be seen by somebody" in home.run("check").output
    (home.documents / "lost.md").write_text("Nobody reads this.")
    assert home.run("run", "--once").code == 0
    assert "1 of 2 documents can be seen by nobody" in home.run("check").output
    assert "expected one user" in home.run("ask", "when?", "--as", "a", "--as", "b").sentence(2)


async def test_a_check_says_nothing_of_permissions_where_there_are_none(
    home: Home, database_url: str
) -> None:
    home.project(database_url)
    assert not [f for f in await check(home.file) if f.subject.startswith("permissions")]
