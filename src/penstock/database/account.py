"""Which account of the operating system runs the embedded PostgreSQL, and what it can reach.

PostgreSQL refuses to run as root. When we are root its processes get an unprivileged account that
exists already, and only its own data directory is given to it. A folder above that the account may
not enter (``/root`` in most containers) keeps its mode: the server is handed an open descriptor.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from penstock.errors import ConfigError

_CANDIDATES = ("nobody", "postgres", "daemon")


@dataclass(frozen=True, slots=True)
class Account:
    """A user and group of the operating system. ``switch`` says that we must become it."""

    uid: int
    gid: int
    switch: bool

    @property
    def name(self) -> str:
        """The user's name, or its number when it has none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)


def account_for(data: Path) -> Account:
    """The account that owns the data directory, or that shall own it when it does not exist yet."""
    ours, group = os.geteuid(), os.getegid()
    owner = data.stat() if data.exists() else None
    if ours != 0:
        if owner is not None and owner.st_uid != ours:
            account = Account(owner.st_uid, owner.st_gid, switch=False)
            raise ConfigError(
                f"the database in {data} belongs to the user {account.name!r}: expected "
                f"{Account(ours, group, switch=False).name!r}; run as that user or choose another "
                "folder",
                path=str(data),
            )
        return Account(ours, group, switch=False)
    if owner is not None and owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid, switch=True)
    return unprivileged_account()


def unprivileged_account() -> Account:
    """An account without rights that exists on this machine; initdb wants one with a name."""
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid, switch=True)
    raise ConfigError(
        "expected an unprivileged user to run PostgreSQL with, because it refuses to run as root; "
        f"none of {', '.join(_CANDIDATES)} exists: add one or run Penstock as an ordinary user"
    )


def identity(account: Account) -> dict[str, Any]:
    """The arguments of `subprocess.Popen` that make a child run as the account."""
    if not account.switch:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def can_enter(account: Account, folder: Path) -> bool:
    """Whether the account may pass through every folder on the way to (and into) ``folder``."""
    if not account.switch:
        return True
    resolved = folder.resolve()
    return all(_may_search(account, parent) for parent in (resolved, *resolved.parents))


def _may_search(account: Account, folder: Path) -> bool:
    facts = folder.stat()
    if facts.st_uid == account.uid:
        return bool(facts.st_mode & stat.S_IXUSR)
    if facts.st_gid == account.gid:
        return bool(facts.st_mode & stat.S_IXGRP)
    return bool(facts.st_mode & stat.S_IXOTH)


class Handed:
    """Paths as the account can use them; descriptors stay open until ``close``.

    A path below a folder that the account may not enter is named through an open descriptor
    (``/proc/self/fd/N``), which the kernel follows without asking the folders above.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._descriptors: list[int] = []

    @property
    def descriptors(self) -> Sequence[int]:
        """What a child must inherit."""
        return tuple(self._descriptors)

    def path(self, path: Path) -> str:
        """``path``, or another name of it that the account can open."""
        if can_enter(self._account, path.parent):
            return str(path)
        if not sys.platform.startswith("linux"):
            raise ConfigError(
                f"the user {self._account.name!r}, which runs PostgreSQL because we are root, "
                f"cannot enter {path.parent}: choose a data directory outside of it",
                path=str(path),
            )
        descriptor = os.open(path, os.O_RDONLY)
        self._descriptors.append(descriptor)
        return f"/proc/self/fd/{descriptor}"

    def close(self) -> None:
        """Close the descriptors on our side."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
