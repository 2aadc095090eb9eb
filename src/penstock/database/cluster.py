"""The files of an embedded PostgreSQL: its folder, its password, its making by ``initdb``.

DATA_DIR/
pgdata/      the cluster, owned by the account that runs the server
password     of the superuser, for its owner only
port         the port of last time
server.log   what the server said
start.lock, users.lock
programs/    a copy of PostgreSQL, only where the wheel's own cannot be run (see installation)
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from penstock.database.account import Account, Handed, identity
from penstock.database.installation import MAJOR_VERSION, Installation
from penstock.errors import ConfigError

SUPERUSER = "postgres"
_FREE_BYTES_NEEDED = 256 * 1024 * 1024


class Cluster:
    """The folder ``data_dir`` and what is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "pgdata"
        self.log = folder / "server.log"
        self._password_file = folder / "password"
        self._port_file = folder / "port"

    def password(self) -> str:
        """The password of the superuser."""
        path = self._password_file
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            raise ConfigError(
                f"the password of the database is gone: expected it in {path}; put it back from a "
                f"copy, or remove {self.folder} to begin anew",
                path=str(path),
            ) from None
        except PermissionError:
            raise ConfigError(
                f"cannot read {path}: it belongs to another user; run as that user",
                path=str(path),
            ) from None

    def kept_port(self) -> int | None:
        """The port that the server had last time."""
        try:
            return int(self._port_file.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def keep_port(self, port: int) -> None:
        """Remember the port, so that those who noted it find the server again."""
        if self.kept_port() != port:
            self._port_file.write_text(f"{port}\n", encoding="ascii")

    def make(self, installation: Installation, account: Account, *, sync: bool) -> None:
        """Make the cluster, wholly or not at all, unless there is one of our version."""
        if self._is_made():
            return
        self._expect_room()
        for left in self.folder.glob("making-*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()
        making = self.folder / f"making-{secrets.token_hex(4)}"
        try:
            making.mkdir(mode=0o700)
            self._run_initdb(installation, account, making, sync=sync)
            if self.data.exists():
                self.data.rmdir()
            making.rename(self.data)
        except OSError as error:
            raise ConfigError(
                f"cannot make a database in {self.data}: {error.strerror or error}; choose another "
                "folder",
                path=str(self.data),
            ) from error
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def _is_made(self) -> bool:
        try:
            found = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            if self.data.exists() and any(self.data.iterdir()):
                raise ConfigError(
                    f"expected a PostgreSQL cluster or an empty folder in {self.data}, found other "
                    "files: choose another folder",
                    path=str(self.data),
                ) from None
            return False
        if found != str(MAJOR_VERSION):
            raise ConfigError(
                f"the database in {self.data} was made by PostgreSQL {found}, this Penstock brings "
                f"PostgreSQL {MAJOR_VERSION}: dump it with PostgreSQL {found} and restore it, or "
                "choose another folder and load anew",
                path=str(self.data),
                found=found,
            )
        return True

    def _expect_room(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < _FREE_BYTES_NEEDED:
            raise ConfigError(
                f"expected at least {_FREE_BYTES_NEEDED >> 20} MB free in {self.folder} for a new "
                f"database, found {free >> 20} MB: make room or choose another folder",
                free_bytes=free,
            )

    def _run_initdb(
        self, installation: Installation, account: Account, making: Path, *, sync: bool
    ) -> None:
        password_file = making.with_suffix(".password")
        descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(self._new_password())
            if account.switch:
                os.chown(making, account.uid, account.gid)
                os.chown(password_file, account.uid, account.gid)
            with Handed(account) as handed:
                done = subprocess.run(
                    [
                        str(installation.program("initdb")),
                        f"--pgdata={handed.path(making)}",
                        f"--pwfile={handed.path(password_file)}",
                        *_initdb_options(sync=sync),
                    ],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    check=False,
                    cwd="/",
                    env=environment(),
                    umask=0o077,
                    pass_fds=handed.descriptors,
                    **identity(account),
                )
        finally:
            password_file.unlink()
        if done.returncode != 0:
            raise self._initdb_failed(done.stdout + done.stderr)

    def _initdb_failed(self, said: str) -> ConfigError:
        lines = [line for line in said.splitlines() if "error" in line or "FATAL" in line]
        mend = "choose another folder"
        if "could not look up effective user ID" in said:
            mend = "give this user an entry in /etc/passwd, or set `database:` to a DSN"
        elif "No space left on device" in said:
            mend = "make room"
        return ConfigError(
            f"cannot make a database in {self.data}, initdb said {' / '.join(lines[-3:])!r}: "
            f"{mend}",
            path=str(self.data),
        )

    def _new_password(self) -> str:
        """The password, written durably before the cluster that will ask for it."""
        path = self._password_file
        if not path.exists():
            new = path.with_suffix(".new")
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(24) + "\n")
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        return self.password()


def _initdb_options(*, sync: bool) -> Sequence[str]:
    options = [
        f"--username={SUPERUSER}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--locale=C",
        "--data-checksums",
        # The password is random and long: stretching it would only slow connecting.
        "--set=scram_iterations=1",
    ]
    if not sync:
        options.append("--no-sync")
    elif sys.platform.startswith("linux"):
        options.append("--sync-method=syncfs")  # one call instead of one for each of 1,000 files
    return options


def environment() -> dict[str, str]:
    """Only what the programs need: PGPORT, PGOPTIONS and their like must not reach them."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}
