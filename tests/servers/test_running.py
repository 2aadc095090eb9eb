"""A project at work, as a block of code."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import FatalError
from penstock.operate.running import Running
from penstock.project import Project
from penstock.settings import Settings


class Ending:
    """A runtime that fails when it is told to."""

    def __init__(self) -> None:
        self.told = asyncio.Event()

    async def run(self) -> None:
        await self.told.wait()
        raise FatalError("the runtime ended")


async def test_a_block_leaves_with_its_own_error_though_the_runtime_fails_meanwhile(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure that the block already leaves with is not replaced by a cancellation."""
    runtime = Ending()

    def made(_: Running, _screen: object) -> Any:
        return runtime

    monkeypatch.setattr(Running, "_runtime", made)
    settings = {
        "project": "p",
        "database": database_url,
        "data": str(tmp_path),
        "knowledge": {"embedder": "constant"},
        "sources": {"docs": {"type": "files", "path": str(tmp_path)}},
    }
    project = Project(Settings.model_validate(settings))

    async def leave() -> None:
        async with project.running():
            runtime.told.set()
            await asyncio.sleep(0)  # it has failed, and we have not heard of it yet
            raise FatalError("the source ended")

    async def stay() -> None:
        async with project.running():
            await asyncio.Event().wait()

    try:
        await project.start()
        with pytest.raises(FatalError, match="the source ended"):
            await leave()
        with pytest.raises(FatalError, match="the runtime ended"):
            await stay()
    finally:
        await project.close()
