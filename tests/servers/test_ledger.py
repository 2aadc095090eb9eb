"""The ledger of answers in a real database: chained, append-only, erasable, replayed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.errors import BadRecordError, ConfigError
from penstock.operate.audit import Auditor
from penstock.principals import Principal
from penstock.project import Project, open_project
from penstock.records import Microseconds
from penstock.serving.answer import Answer
from penstock.serving.ledger.replay import compared, pinned, replayed
from penstock.settings import Settings
from penstock.stores.ledger import Audit, LedgerItem, NewEntry, OtherBodyError, Told, new_id
from penstock.stores.postgres.ledger import PostgresLedger

POLICY = (
    "# Cancellation\n\nA flight can be cancelled free of charge until 24 hours before departure.\n"
)
BAGS = "# Luggage\n\nEach traveller may take one bag of 23 kilograms.\n"
CANCEL = "Until when can a flight be cancelled free of charge?"


def settings(database: str, folder: Path, **more: Any) -> Settings:
    (folder / "documents").mkdir(exist_ok=True)
    source = {"type": "files", "path": str(folder / "documents"), "heartbeat": 0.1}
    return Settings.model_validate(
        {"project": "kept", "database": database, "sources": {"documents": source}, **more}
    )


@pytest.fixture
async def project(database_url: str, tmp_path: Path) -> AsyncIterator[Project]:
    async with open_project(settings=settings(database_url, tmp_path)) as opened:
        (tmp_path / "documents" / "policy.md").write_text(POLICY, encoding="utf-8")
        (tmp_path / "documents" / "bags.md").write_text(BAGS, encoding="utf-8")
        yield opened


async def audit(project: Project, expected: str | None = None) -> Audit:
    return await Auditor(project.pool, project.settings.tenant).verify(expected)


async def found(project: Project, answer: Answer) -> Any:
    assert answer.id is not None
    entry = await project.ledger().find(answer.id)
    assert entry is not None
    return entry


async def test_g8_an_answer_is_pinned_whole_and_replayed(project: Project, tmp_path: Path) -> None:
    """Question, principal, passages with versions, positions, prompt, times; replaying it gives the
    same; after a change the same replay still does, and the difference says what is new."""
    async with project.running():
        await project.caught_up(limit_s=30)
        answer = await project.answer(CANCEL, principal=Principal("ada", ("staff",)))
        entry = await found(project, answer)
        said = pinned(entry)
        assert said.principal == Principal("ada", ("staff",))
        assert said.text == answer.text
        assert said.context.items == answer.context.items
        assert said.context.sources == answer.context.sources
        assert entry.facts["timings_ms"]["embed"] >= 0
        assert entry.facts["template"]
        assert (await replayed(project.answerer(), said))["same"]
        (tmp_path / "documents" / "policy.md").write_text(
            POLICY.replace("24 hours", "48 hours"), encoding="utf-8"
        )
        await project.caught_up(limit_s=30)
        assert (await replayed(project.answerer(), said))["same"]
        changed = await compared(project.answerer(), said)
    assert not changed["same"]
    assert "48 hours" in changed["text"]["is"]
    changes = {item["key"]: item["change"] for item in changed["items"]}
    assert changes["policy.md"] == "changed"
    assert {part["source"] for part in changed["sources"]} == {"documents"}
    assert (await audit(project)).sound


# --------------------------------------------------------------------------- the chain


def entry(number: int = 0, **more: Any) -> NewEntry:
    values: dict[str, Any] = {
        "kind": "answer",
        "id": new_id("answer"),
        "at": Microseconds(1_000_000 + number),
        "facts": {"generator": "test", "number": number},
        "content": {"question": f"question {number}", "text": f"of Ada {number} ü \ud800 \x00"},
        "owner": Principal("ada"),
        "items": [LedgerItem("passage", f'{{"text": "passage {number % 3}"}}', "docs", "a.md")],
    }
    return NewEntry(**{**values, **more})


@pytest.fixture
async def empty(database_url: str, tmp_path: Path) -> AsyncIterator[Project]:
    async with open_project(settings=settings(database_url, tmp_path)) as opened:
        yield opened


async def tamper(project: Project, statement: str) -> None:
    """As one who has the database, and turns its rules off."""
    async with project.pool.connection() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(statement.encode())


async def count(project: Project, table: str) -> int:
    async with project.pool.connection() as connection:
        cursor = await connection.execute(f"SELECT count(*) FROM penstock.{table}".encode())
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def test_g8_many_writers_make_one_chain(empty: Project, tmp_path: Path) -> None:
    """From two processes' worth of ledgers at once: no number twice, none missing, items once."""
    async with open_project(settings=empty.settings) as other:
        names = await asyncio.gather(
            *(
                (empty if number % 2 else other).ledger().append(entry(number))
                for number in range(60)
            )
        )
    assert len(set(names)) == 60
    said = await audit(empty)
    assert (said.sound, said.entries, said.first, said.last) == (True, 60, 1, 60)
    assert await count(empty, "ledger_items") == 3
    kept = await empty.ledger().find(names[7])
    assert kept is not None
    assert kept.content is not None
    assert kept.content["text"] == "of Ada 7 ü \ud800 \x00"


_ENTRIES, _CONTENTS = "UPDATE penstock.ledger_entries SET", "UPDATE penstock.ledger_contents SET"
_NUMBER = """replace(facts, '"number":4', '"number":5')"""
_THIRD = "(SELECT hash FROM penstock.ledger_entries WHERE number = 3)"
TAMPERINGS = {
    "facts": (f"{_ENTRIES} facts = {_NUMBER} WHERE number = 5", 5),
    "time": (f"{_ENTRIES} at = 7 WHERE number = 5", 5),
    "content": (f"{_CONTENTS} body = replace(body, 'Ada', 'Bob') WHERE number = 5", 5),
    "removed": ("DELETE FROM penstock.ledger_entries WHERE number = 5", 5),
    "last removed": ("DELETE FROM penstock.ledger_entries WHERE number = 9", 9),
    "content removed": ("DELETE FROM penstock.ledger_contents WHERE number = 5", 5),
    "item": ("UPDATE penstock.ledger_items SET body = '{}' WHERE body LIKE '%passage 1%'", 2),
    "item removed": ("DELETE FROM penstock.ledger_items WHERE body LIKE '%passage 1%'", 2),
    "erased in silence": (
        f"{_CONTENTS} state = 'redacted', body = NULL, salt = NULL WHERE number = 5", 5,
    ),
    "beginning cut off": (
        f"UPDATE penstock.ledger_heads SET trimmed_number = 3, trimmed_hash = {_THIRD}", 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("tampering", TAMPERINGS)
async def test_g8_what_was_changed_is_named(empty: Project, tampering: str) -> None:
    """Whoever changes an entry past the database's rules is found out, from that entry on."""
    statement, first = TAMPERINGS[tampering]
    for number in range(9):
        await empty.ledger().append(entry(number))
    assert (await audit(empty)).sound
    await tamper(empty, statement)
    if tampering == "beginning cut off":
        await tamper(empty, "DELETE FROM penstock.ledger_entries WHERE number <= 3")
    said = await audit(empty)
    assert said.broken == first, said.why
    assert said.why


async def test_g8_a_ledger_written_anew_as_a_whole_is_found_by_a_head_kept_elsewhere(
    empty: Project,
) -> None:
    for number in range(3):
        await empty.ledger().append(entry(number))
    head = (await audit(empty)).head
    assert (await audit(empty, head)).sound
    for table in ("entries", "contents", "uses", "items", "heads"):
        await tamper(empty, f"DELETE FROM penstock.ledger_{table}")
    empty.ledger()._key = None
    for number in range(4):
        await empty.ledger().append(entry(number))
    assert (await audit(empty)).sound
    said = await audit(empty, head)
    assert said.broken == 3
    with pytest.raises(ConfigError, match="expected NUMBER:HASH"):
        await audit(empty, "nonsense")


REFUSED = [
    "UPDATE penstock.ledger_entries SET facts = '{}'",
    "DELETE FROM penstock.ledger_entries",
    "TRUNCATE penstock.ledger_entries CASCADE",
    "UPDATE penstock.ledger_contents SET body = '{}'",
    "DELETE FROM penstock.ledger_contents",
    "UPDATE penstock.ledger_contents SET state = 'redacted', salt = NULL, owner = NULL",
    "UPDATE penstock.ledger_items SET body = '{}'",
    "DELETE FROM penstock.ledger_items",
    "DELETE FROM penstock.ledger_uses",
    "UPDATE penstock.ledger_heads SET number = 0",
    "UPDATE penstock.ledger_heads SET key = ''",
    "DELETE FROM penstock.ledger_heads",
    "TRUNCATE penstock.ledger_contents",
]


@pytest.mark.parametrize("statement", REFUSED)
async def test_g8_the_database_itself_refuses_other_than_more(
    empty: Project, statement: str
) -> None:
    await empty.ledger().append(entry())
    async with empty.pool.connection() as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(statement.encode())


async def test_g7_every_table_of_ours_is_walled(empty: Project) -> None:
    """Row-level security is on and forced for all that the ledger and conversations are kept in."""
    async with empty.pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT relname, relrowsecurity AND relforcerowsecurity FROM pg_class "
            "WHERE relnamespace = 'penstock'::regnamespace AND relkind = 'r' "
            "AND relname ~ '^(ledger|session)'"
        )
        walled = dict(await cursor.fetchall())
    assert len(walled) == 9
    assert all(walled.values()), walled


async def test_g7_readers_do_not_see_the_ledger(empty: Project) -> None:
    """Questions are read as penstock_reader, which has no right to any of its tables."""
    await empty.ledger().append(entry())
    kept = [f"ledger_{name}" for name in ("entries", "contents", "items", "uses", "heads", "once")]
    for table in (*kept, "sessions", "session_turns", "session_forms"):
        async with empty.pool.connection() as connection:
            await connection.execute("SET ROLE penstock_reader")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(f"SELECT * FROM penstock.{table}".encode())
            await connection.execute("RESET ROLE")


# --------------------------------------------------------------------------- erasing, ending


async def test_g9_erased_content_is_gone_everywhere_and_the_chain_fits(empty: Project) -> None:
    """By record, by value, by user; with what is about it; what others use stays."""
    ledger = empty.ledger()
    salaries = LedgerItem("passage", '{"text": "Amelia earns 9000"}', "hr", "salaries.md")
    shared = LedgerItem("passage", '{"text": "bags"}', "docs", "bags.md")
    one = await ledger.append(entry(1, items=[salaries, shared], owner=Principal("bob")))
    two = await ledger.append(
        entry(2, items=[shared], owner=Principal("bob"), content={"text": "b"})
    )
    said = NewEntry(
        "feedback", new_id("feedback"), Microseconds(5), {"rating": -1},
        {"comment": "wrong"}, Principal("eve"), about=one, once="k",
    )  # fmt: skip
    comment = await ledger.append(said)
    mention = await ledger.append(entry(3, items=[shared], content={"text": 'is "Zoë" here'}))
    asked = await ledger.append(entry(4, items=[], content={"text": "x"}, owner=Principal("zoe")))
    by_record = await ledger.forget(Told(records=[("hr", "salaries.md")]), Microseconds(9))
    assert (by_record.entries, by_record.items) == (2, 1)
    by_value = await ledger.forget(Told(values=['"zoë"'], user="zoe"), Microseconds(9))
    assert by_value.entries == 2
    states = {}
    for name in (one, two, comment, mention, asked):
        kept = await ledger.find(name)
        assert kept is not None
        states[name] = kept.state
    assert states == {
        one: "redacted", two: "kept", comment: "redacted", mention: "redacted", asked: "redacted",
    }  # fmt: skip
    async with empty.pool.connection() as connection:
        for table in ("entries", "contents", "items", "once"):
            cursor = await connection.execute(
                # Whole words: ids and digests hold any two letters and four digits by chance.
                f"SELECT count(*) FROM penstock.ledger_{table} t "
                r"WHERE t::text ~* '\m(amelia|9000|zo[eë]|wrong)\M'".encode()
            )
            assert await cursor.fetchone() == (0,), table
    whole = await audit(empty)
    assert (whole.sound, whole.redacted) == (True, 4)
    found = await ledger.find(one)
    assert found is not None
    with pytest.raises(ConfigError, match="its content was erased"):
        pinned(found)
    nothing = await ledger.forget(Told(records=[("hr", "salaries.md")]), Microseconds(9))
    assert nothing.entry is None


async def test_g8_what_is_too_old_ends_at_a_checkpoint(empty: Project) -> None:
    """The rest is verified from there; an entry of the chain says what ended; items that nothing
    uses any more are gone."""
    ledger = empty.ledger()
    names = [await ledger.append(entry(number)) for number in range(10)]
    head = (await audit(empty)).head
    removed = await ledger.trim(Microseconds(1_000_006), Microseconds(2_000_000))
    assert removed == 6
    assert await ledger.find(names[5]) is None
    assert await ledger.find(names[6]) is not None
    said = await audit(empty, head)
    assert (said.sound, said.first, said.entries) == (True, 7, 5)
    assert await count(empty, "ledger_items") == 3
    await ledger.trim(Microseconds(1_000_009), Microseconds(2_000_000))
    assert await count(empty, "ledger_items") == 1
    assert (await audit(empty)).sound
    assert await ledger.trim(Microseconds(1_000_000), Microseconds(2_000_000)) == 0


# --------------------------------------------------------------------------- what is kept


async def test_hashed_content_is_not_there_and_still_chained(
    database_url: str, tmp_path: Path
) -> None:
    policy = {"ledger": {"content": "hashed"}}
    async with open_project(settings=settings(database_url, tmp_path, **policy)) as project:
        name = await project.ledger().append(entry(1))
        kept = await project.ledger().find(name)
        assert kept is not None
        assert (kept.state, kept.content) == ("hashed", None)
        assert kept.facts["generator"] == "test"
        assert await count(project, "ledger_items") == 0
        assert (await audit(project)).sound
        with pytest.raises(ConfigError, match="only hashes were kept"):
            pinned(kept)


async def test_nothing_is_kept_where_the_ledger_is_off(database_url: str, tmp_path: Path) -> None:
    chosen = settings(
        database_url, tmp_path, ledger={"content": "off"}, knowledge={"embedder": "constant"}
    )
    async with open_project(settings=chosen) as project:
        answer = await project.answer("Anything?")
        assert answer.id is None
        assert await count(project, "ledger_entries") == 0
        assert (await audit(project)).sound


async def test_a_key_is_for_one_body(empty: Project) -> None:
    """The same twice is one entry; another body under the same key is refused; another owner's key
    is another one."""
    ledger = empty.ledger()
    first = entry(1, content={"text": "a"}, once="k")
    name = await ledger.append(first)
    again = await asyncio.gather(
        *(ledger.append(entry(1, content={"text": "a"}, once="k")) for _ in range(5))
    )
    assert set(again) == {name}
    with pytest.raises(OtherBodyError, match="expected an idempotency key for one body"):
        await ledger.append(entry(1, content={"text": "b"}, once="k"))
    other = await ledger.append(entry(1, content={"text": "b"}, once="k", owner=Principal("bob")))
    assert other != name
    assert (await audit(empty)).entries == 2


async def test_another_tenants_ledger_is_another_chain(empty: Project) -> None:
    other = PostgresLedger(empty.pool, tenant="other")
    name = await other.append(entry(1))
    assert await empty.ledger().find(name) is None
    assert (await Auditor(empty.pool, "other").verify()).entries == 1
    assert (await audit(empty)).entries == 0
    assert await other.key() != await empty.ledger().key()


async def test_an_entry_that_cannot_be_kept_does_not_take_others_with_it(empty: Project) -> None:
    """In one group: the one is refused, its neighbours are in the chain."""
    ledger = empty.ledger()
    bad = entry(3, at=Microseconds(2**70))
    results = await asyncio.gather(
        *(ledger.append(one) for one in (entry(1), entry(2), bad, entry(4))), return_exceptions=True
    )
    assert [isinstance(result, BadRecordError) for result in results] == [
        False, False, True, False,
    ]  # fmt: skip
    assert (await audit(empty)).entries == 3
