"""Any sequence of writes and restarts ends with the documents that the folder holds."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.records import Op
from penstock.sources.files import FilesSource

PATHS = ("a.md", "b.md", "x/a.md", "x/y/b.md", "x/.hidden.md", "z/a.md")
FOLDERS = ("x", "x/y", "z", "new")
Action: TypeAlias = tuple[str, str, str]
ACTION = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(PATHS), st.sampled_from(["1", "22", "333"])),
    st.tuples(st.just("save"), st.sampled_from(PATHS), st.sampled_from(["1", "22", "333"])),
    st.tuples(st.just("touch"), st.sampled_from(PATHS), st.just("")),
    st.tuples(st.just("delete"), st.sampled_from(PATHS), st.just("")),
    st.tuples(st.just("rename"), st.sampled_from(PATHS), st.sampled_from(PATHS)),
    st.tuples(st.just("move"), st.sampled_from(FOLDERS), st.sampled_from(FOLDERS)),
    st.tuples(st.just("remove"), st.sampled_from(FOLDERS), st.just("")),
    st.tuples(st.just("restart"), st.just(""), st.just("")),
    st.tuples(st.just("yield"), st.just(""), st.just("")),
)


def act(root: Path, action: Action) -> None:
    """One thing that somebody does to the folder, if it can be done."""
    what, name, other = action
    path = root / name
    try:
        if what in {"write", "save"}:
            path.parent.mkdir(parents=True, exist_ok=True)
            target = path.with_name(f".{path.name}.tmp") if what == "save" else path
            target.write_text(other)
            target.replace(path)
        elif what == "touch" and path.exists():
            path.touch()
        elif what == "delete":
            path.unlink()
        elif what in {"rename", "move"}:
            path.rename(root / other)
        elif what == "remove":
            shutil.rmtree(path)
    except OSError:
        pass  # not possible now: nothing happened


def contents(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*.md")
        if path.is_file() and not path.name.startswith(".")
    }


class Follower:
    """What a reader knows, over restarts."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.state: dict[str, str] = {}
        self.documents: dict[str, tuple[str, str]] = {}
        self._gone: dict[str, str] = {}

    async def read(self, actions: list[Action], *, to_the_end: bool) -> None:
        """Read while the folder is written to; stop at once, or when in step."""
        source = FilesSource("docs", self._root, heartbeat_s=0.02)
        batches: Any = source.read(dict(self.state))
        end = 0
        async for batch in batches:
            self._take(batch)
            for action in actions[:2]:
                act(self._root, action)
            del actions[:2]
            if not actions and not to_the_end:
                break
            if not actions:
                end = end or source._clock.now()
                if batch.as_of is not None and batch.as_of > end:
                    break
        await batches.aclose()
        await source.close()

    def _take(self, batch: Any) -> None:
        for change in batch.changes:
            key = change.key[0]
            position = change.position
            if position <= max(self._gone.get(key, ""), self.documents.get(key, ("", ""))[1]):
                continue
            if change.op is Op.DELETE:
                self.documents.pop(key, None)
                self._gone[key] = position
            else:
                self.documents[key] = (change.value("content_hash"), position)
        for name, value in batch.state.items():
            if value is None:
                self.state.pop(name, None)
            else:
                self.state[name] = value


async def follow(root: Path, actions: list[Action]) -> None:
    follower = Follower(root)
    part: list[Action] = []
    for action in actions:
        if action[0] == "restart":
            await follower.read(part, to_the_end=False)
            part = []
        else:
            part.append(action)
    await follower.read(part, to_the_end=True)
    found = {key: digest for key, (digest, _) in follower.documents.items()}
    assert found == contents(root)
    assert {name[5:] for name in follower.state if name.startswith("file:")} == set(found)


@pytest.mark.timeout(120)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ACTION, max_size=30))
def test_g2_the_documents_are_those_of_the_folder(actions: list[Action]) -> None:
    """Creates, changes, renames of files and folders, deletes and restarts in any order."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(follow(Path(folder), actions))
