"""Slots that grow, are lost, or move to a standby: on servers of the tests' own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from penstock.errors import FatalError
from penstock.operate.resync import resync
from penstock.operate.status import status
from penstock.operate.verify import verify
from penstock.project import Project
from penstock.serving.api.metrics import render
from penstock.settings import Settings
from penstock.sources.postgres.source import PostgresSource
from penstock.testing.own_server import OwnServer

DEADLINE_S = 25.0
NAMED_WITHIN_S = 10.0
SLOT = "penstock_health_shop"


@pytest.fixture
def server(programs_18: Path) -> Iterator[OwnServer]:
    """A server that keeps little WAL."""
    found = OwnServer(
        programs_18,
        {"max_slot_wal_keep_size": "32MB", "min_wal_size": "32MB", "max_wal_size": "32MB"},
    )
    try:
        found.create()
        found.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text)",
            "INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 50) n",
            "CREATE TABLE noise (v text)",
            "CREATE DATABASE other",
        )
        yield found
    finally:
        found.close()


def settings_for(server: OwnServer, database: str, folder: Path, **more: object) -> Settings:
    return Settings.model_validate(
        {
            "project": "health",
            "database": database,
            "data": str(folder),
            "knowledge": {"embedder": "constant"},
            "sources": {
                "shop": {
                    "type": "postgres",
                    "dsn": server.dsn(),
                    "heartbeat": 0.2,
                    "tables": ["t"],
                    **more,
                }
            },
        }
    )


@pytest.fixture
async def project(server: OwnServer, database_url: str, tmp_path: Path) -> AsyncIterator[Project]:
    project = Project(settings_for(server, database_url, tmp_path, retained_wal="24 MB"))
    try:
        await project.start()
        yield project
    finally:
        await project.close()


async def load(project: Project) -> None:
    """Copy everything, then stop."""
    async with project.running():
        await project.caught_up(limit_s=DEADLINE_S)
    project.meters.sources.clear()


async def differences(project: Project) -> list[str]:
    project.meters.sources.clear()
    report = await verify(project)
    return [f"{part.what} {name}" for part in report.sources for name in part.named]


def write_wal(
    server: OwnServer, megabytes: int, database: str = "postgres", *, switch: bool = True
) -> None:
    """WAL that has nothing to do with our tables."""
    noise = "SELECT pg_logical_emit_message(false, 'noise', repeat('x', 1000000))"
    server.execute(*[noise] * megabytes, database=database)
    if switch:
        server.execute("SELECT pg_switch_wal()", "CHECKPOINT", database=database)


async def until(condition: object, limit_s: float = DEADLINE_S) -> None:
    """Wait for a condition that is asked again and again."""
    assert callable(condition)
    async with asyncio.timeout(limit_s):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_g12_half_of_the_budget_warns_and_all_of_it_alerts(
    project: Project, server: OwnServer
) -> None:
    """What is kept for a stopped project shows in status and check: a warning at half of the
    budget, an error above it; running again lets go of it."""
    await load(project)
    source = project.source("shop")
    assert isinstance(source, PostgresSource)

    async def level() -> tuple[str, str]:
        health = await source.health()
        assert health is not None
        return health.level, health.message

    async def grown_to(wanted: str) -> str:
        found = await level()
        for _ in range(40):
            if found[0] == wanted:
                break
            write_wal(server, 1, switch=False)
            found = await level()
        assert found[0] == wanted
        (finding,) = [f for f in await source.check() if f.subject.endswith(": slot")]
        report = (await status(project))["sources"][0]
        assert finding.level == report["health"]["level"] == wanted
        assert report["retained_wal_bytes"] > 0
        return found[1]

    assert (await level())[0] == "ok"
    assert "half" in await grown_to("warning")
    assert "budget" in await grown_to("error")
    async with project.running():
        await project.caught_up(limit_s=DEADLINE_S)
        await until(lambda: _is_ok(source))


async def _is_ok(source: PostgresSource) -> bool:
    health = await source.health()
    return health is not None and health.level == "ok"


async def test_g12_the_slot_moves_when_only_other_databases_write(
    project: Project, server: OwnServer
) -> None:
    """While we run, WAL of other databases and tables is not kept for us."""
    async with project.running():
        await project.caught_up(limit_s=DEADLINE_S)
        write_wal(server, 6, database="other")
        (end,) = server.execute("SELECT pg_current_wal_lsn()::text")[0]

        async def moved() -> bool:
            rows = server.execute(
                f"SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots"
            )
            return rows == [(True,)]

        await until(moved)


async def test_g2_a_slot_that_the_server_gave_up(project: Project, server: OwnServer) -> None:
    """A slot that max_slot_wal_keep_size has cost us is named within 10 s, shows as failed and as
    an error of health, and is repaired by comparison."""
    await load(project)
    write_wal(server, 80)
    server.execute("UPDATE t SET v = 'missed' WHERE id <= 3", "DELETE FROM t WHERE id = 50")
    assert server.execute("SELECT wal_status FROM pg_replication_slots") == [("lost",)]
    begin = time.monotonic()
    with pytest.raises(FatalError, match="penstock resync"):
        async with project.running():
            await project.caught_up(limit_s=DEADLINE_S)
    assert time.monotonic() - begin < NAMED_WITHIN_S
    meter = project.meters.sources["shop"]
    assert meter.state == "failed"
    assert b'penstock_source_failed{source="shop"} 1.0' in render(project.meters)
    health = (await status(project))["sources"][0]["health"]
    assert health["level"] == "error"
    assert health["wal_status"] == "lost"
    findings = await project.source("shop").check()  # type: ignore[attr-defined] # a PostgresSource
    assert [f.level for f in findings if f.subject.endswith(": slot")] == ["error"]
    result = await resync(project, "shop")
    assert result.differences == 4
    assert await differences(project) == []
    await load(project)
    assert await differences(project) == []


async def test_g2_a_slot_lost_while_streaming(project: Project, server: OwnServer) -> None:
    """A slot that is dropped under a running project is named within 10 s, and the alert is in the
    meters; nothing is read from then on."""

    async def lose() -> None:
        async with project.running():
            await project.caught_up(limit_s=DEADLINE_S)
            server.execute(
                "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots",
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots",
                "UPDATE t SET v = 'missed' WHERE id = 1",
            )
            async with asyncio.timeout(NAMED_WITHIN_S):
                await asyncio.Event().wait()

    with pytest.raises(FatalError, match="is gone"):
        await lose()
    assert project.meters.sources["shop"].state == "failed"


async def test_g2_a_standby_takes_over(
    programs_18: Path, database_url: str, tmp_path: Path
) -> None:
    """With ``failover: true`` the slot is kept on a standby; when that is promoted the source goes
    on there without loss, on another timeline."""
    primary, standby = OwnServer(programs_18), OwnServer(programs_18)
    project = None
    try:
        primary.create()
        primary.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text)",
            "INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 50) n",
        )
        standby.copy_of(
            primary,
            "standby",
            sync_replication_slots="on",
            hot_standby_feedback="on",
            primary_slot_name="standby",
        )
        primary.execute(
            "ALTER SYSTEM SET synchronized_standby_slots = 'standby'", "SELECT pg_reload_conf()"
        )
        settings = settings_for(primary, database_url, tmp_path, failover=True)
        project = Project(settings)
        await project.start()
        async with project.running():
            await project.caught_up(limit_s=DEADLINE_S)
            primary.execute("UPDATE t SET v = 'before' WHERE id <= 10")
            await project.caught_up(limit_s=DEADLINE_S)

            async def synced() -> bool:
                # The copy of a slot is kept once the slot has moved past what the standby has.
                primary.execute(
                    "UPDATE t SET v = v WHERE id = 1", "SELECT pg_log_standby_snapshot()"
                )
                rows = standby.execute(
                    "SELECT synced AND NOT temporary AND failover FROM pg_replication_slots "
                    f"WHERE slot_name = '{SLOT}'"
                )
                return rows == [(True,)]

            await until(synced, limit_s=45)  # its worker naps for up to 30 s
        findings = await project.source("shop").check()  # type: ignore[attr-defined] # a PostgresSource
        assert [f.level for f in findings if f.subject.endswith(": failover")] == ["ok"]
        primary.execute("DELETE FROM t WHERE id = 20", "UPDATE t SET v = 'last' WHERE id = 21")
        (end,) = primary.execute("SELECT pg_current_wal_lsn()::text")[0]

        async def replayed() -> bool:
            rows = standby.execute(f"SELECT pg_last_wal_replay_lsn() >= '{end}'")
            return rows == [(True,)]

        await until(replayed)
        primary.stop("immediate")
        standby.promote()
        standby.execute("INSERT INTO t VALUES (1000, 'after the failover')")
        await project.close()
        project = Project(settings_for(standby, database_url, tmp_path, failover=True))
        await project.start()
        await load(project)
        assert await differences(project) == []
        async with project.pool.connection() as connection:
            cursor = await connection.execute("SELECT count(*) FROM shop.t WHERE id IN (20, 1000)")
            assert await cursor.fetchone() == (1,)
            cursor = await connection.execute(
                "SELECT value FROM penstock.producer_state WHERE name = 'timeline'"
            )
            assert await cursor.fetchone() == ("2",)
    finally:
        if project is not None:
            await project.close()
        standby.close()
        primary.close()


async def test_g2_a_standby_without_the_slot(
    programs_18: Path, database_url: str, tmp_path: Path
) -> None:
    """A standby that took over from behind, and has no slot, is named; a repair takes back what its
    history does not have, though positions there are older than ours."""
    primary, standby = OwnServer(programs_18), OwnServer(programs_18)
    project = None
    try:
        primary.create()
        primary.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text)",
            "INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 50) n",
        )
        standby.copy_of(primary, "standby", primary_slot_name="standby")
        standby.stop()
        project = Project(settings_for(primary, database_url, tmp_path))
        await project.start()
        await load(project)
        primary.execute(
            "UPDATE t SET v = 'lost with the primary' WHERE id <= 10", "DELETE FROM t WHERE id > 45"
        )
        await load(project)
        primary.stop("immediate")
        standby.start()
        standby.promote()
        await project.close()
        project = Project(settings_for(standby, database_url, tmp_path))
        await project.start()
        with pytest.raises(FatalError, match="timeline"):
            await load(project)
        result = await resync(project, "shop")
        assert result.differences == 15
        assert await differences(project) == []
        standby.execute("UPDATE t SET v = 'on the new history' WHERE id = 5")
        await load(project)
        assert await differences(project) == []
    finally:
        if project is not None:
            await project.close()
        standby.close()
        primary.close()
