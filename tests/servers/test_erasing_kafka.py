"""Erasing where the log is on Apache Kafka: suppressed as it is read, or trimmed."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.acceptance.test_erasure import (
    carried,
    everything,
    fill,
    opened,
    settings,
    systems,
)

from penstock.errors import ConfigError
from penstock.operate.erasing import erase
from penstock.settings import Settings

__all__ = ["systems"]

pytestmark = pytest.mark.servers


@pytest.mark.timeout(150)  # it may be the first to ask for a broker
async def test_g9_a_log_in_kafka_is_trimmed_when_it_is_asked_for(
    tmp_path: Path,
    database_url: str,
    source_url: str,
    systems: psycopg.AsyncConnection,
    kafka_broker: Any,
) -> None:
    """Nobody can read what was erased, and what comes later goes on from there."""
    await fill(systems)
    base = settings(tmp_path, database_url, source_url).model_dump(mode="python")
    for source in ("crm", "shop"):
        base["sources"][source]["dsn"] = source_url
    base["log"] = {
        "type": "kafka",
        "bootstrap_servers": kafka_broker.bootstrap_servers,
        "prefix": f"e{uuid.uuid4().hex[:8]}.",
    }
    chosen = Settings.model_validate(base)
    async with carried(chosen) as project:
        assert "canarynotes" in await everything(project)
    async with opened(chosen) as project:
        outcome = await erase(project, ["email:ada@example.org"], reason="request 1", trim_log=True)
        left = outcome.receipt["left_to_the_operator"]
        assert any("were removed from the log in Kafka" in one for one in left)
        assert "canarynotes" not in await everything(project)
    await systems.execute(
        "UPDATE contacts SET notes = 'another seat' WHERE id = 2;"
        "UPDATE contacts SET notes = 'canarynew' WHERE id = 1"
    )
    async with carried(chosen) as project:
        async with asyncio.timeout(30):
            while "another seat" not in (left_of := await everything(project)):
                await project.caught_up(limit_s=30)
        assert "canary" not in left_of


async def test_a_log_in_the_database_needs_no_trimming(
    tmp_path: Path, database_url: str, source_url: str, systems: psycopg.AsyncConnection
) -> None:
    await fill(systems)
    async with opened(settings(tmp_path, database_url, source_url)) as project:
        with pytest.raises(ConfigError, match="expected --trim-log with a log in Kafka"):
            await erase(project, ["crm/contacts/1"], reason="r", trim_log=True)
