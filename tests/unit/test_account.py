from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.database.account import Account, Handed, account_for, can_enter, identity
from penstock.errors import ConfigError

STRANGER = Account(54321, 54321, switch=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that only its owner may enter."""
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    return folder


def test_a_private_folder_cannot_be_entered_by_a_stranger(folder: Path) -> None:
    """What the modes say decides, for each folder on the way."""
    (folder / "open").mkdir(mode=0o755)
    assert not can_enter(STRANGER, folder / "open")
    assert can_enter(Account(os.geteuid(), os.getegid(), switch=False), folder / "open")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_what_lies_in_a_private_folder_is_handed_over_open(folder: Path) -> None:
    """The path that a stranger gets leads to the same thing without passing the folder."""
    data = folder / "data"
    data.mkdir()
    (data / "file").write_text("here")
    with Handed(STRANGER) as handed:
        path = handed.path(data)
        assert str(folder) not in path
        assert (Path(path) / "file").read_text() == "here"
        assert len(handed.descriptors) == 1
    assert handed.descriptors == ()


def test_whose_data_it_is_decides_who_runs_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody but root runs a server over the data of another user."""
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ConfigError, match="belongs to the user"):
        account_for(tmp_path)
    ours = account_for(tmp_path / "new")
    assert not ours.switch
    assert identity(ours) == {}


def test_root_never_runs_the_server_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root becomes an existing account without rights."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    account = account_for(tmp_path / "new")
    assert account.switch
    assert account.uid != 0
    assert identity(account)["extra_groups"] == []
