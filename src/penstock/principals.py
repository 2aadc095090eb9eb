"""Who asks, and the names that lists of permissions hold. Standard library only.

A list names users (``user:ada``), groups (``group:staff``) and ``everyone``. The kind is part of
the name, so that a user called like a group is not that group. Names are compared exactly, in
Unicode's composed form: ``Ada`` and ``ada`` are two users, as ``ß`` and ``ss`` are two names.
Whoever folds case in one place and not in another gives one user's documents to the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal
from unicodedata import normalize

from penstock.errors import BadRecordError, ConfigError

DEFAULT_TENANT: Final = "default"
EVERYONE: Final = "everyone"
"""The name that everybody has, also who asks without a name."""

LONGEST_NAME: Final = 400
# As penstock.principal() in the database has it.
_NO_NAME: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

Kind = Literal["user", "group"]


def name_of(kind: Kind, name: str) -> str:
    """A user's or group's name as lists hold it. `BadRecordError` when it is none."""
    if not name or len(name) > LONGEST_NAME or _NO_NAME.search(name) or name.strip() != name:
        raise BadRecordError(
            f"expected the name of a {kind} of 1 to {LONGEST_NAME} characters, without control "
            f"characters and without blanks around it, got {name[:60]!r}"
        )
    return f"{kind}:{normalize('NFC', name)}"


def listed_name(written: str) -> str:
    """A name of a list: with its kind in front, or ``everyone``. `BadRecordError` for another."""
    if written == EVERYONE:
        return EVERYONE
    kind, colon, name = written.partition(":")
    if colon and kind == "user":
        return name_of("user", name)
    if colon and kind == "group":
        return name_of("group", name)
    raise BadRecordError(
        f"expected user:NAME, group:NAME or {EVERYONE}, got {written[:60]!r}: write which it is"
    )


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a user, groups that the caller vouches for beside those of the project's tables,
    and whose data are asked. ``Principal()`` is nobody in particular, and sees what everybody may.

    Raises `ConfigError` for what is no name.
    """

    user: str | None = None
    groups: tuple[str, ...] = ()
    tenant: str = DEFAULT_TENANT

    def __post_init__(self) -> None:
        _ = self.names
        if "\x00" in self.tenant:
            raise ConfigError(f"expected a tenant without the character NUL, got {self.tenant!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the caller gives, as lists hold them; not yet the groups of groups."""
        try:
            users = () if self.user is None else (name_of("user", self.user),)
            return (*users, *(name_of("group", group) for group in self.groups))
        except BadRecordError as error:
            raise ConfigError(error.reason) from error


def principal(written: Iterable[str], tenant: str = DEFAULT_TENANT) -> Principal:
    """Of names as a command line has them: ``user:ada`` or ``ada``, ``group:staff``."""
    user: str | None = None
    groups: list[str] = []
    for name in written:
        kind, colon, rest = name.partition(":")
        if colon and kind == "group":
            groups.append(rest)
        elif user is not None:
            raise ConfigError(
                f"expected one user, got {user!r} and {name!r}: write group:NAME for a group"
            )
        else:
            user = rest if colon and kind == "user" else name
    return Principal(user, tuple(groups), tenant)


_SIDECARS: Final = (".acl.yaml", ".acl.yml", ".acl.json")


def sidecar_place(key: str) -> str | None:
    """What a file is about that lies beside a document or a folder and says who may see it:
    ``hr.acl.yaml`` is about ``hr`` and all in it. None: it is no such file."""
    lower = key[-len(_SIDECARS[0]) :].lower()
    for suffix in _SIDECARS:
        if lower.endswith(suffix):
            place = key[: -len(suffix)]
            return place if place and not place.endswith("/") else None
    return None
