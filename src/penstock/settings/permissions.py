"""What a project file may say about who may see what."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from penstock.errors import BadRecordError
from penstock.principals import listed_name
from penstock.settings.base import Section, typed


def _listed(name: str) -> str:
    try:
        return listed_name(name)
    except BadRecordError as error:
        raise ValueError(error.reason) from error


Listed = Annotated[str, AfterValidator(_listed)]
"""``user:NAME``, ``group:NAME`` or ``everyone``."""


def _metadata_key(key: str) -> str:
    if not _HEADER.fullmatch(key) or key.lower().startswith("x-amz-"):
        raise ValueError(
            f"expected a key of metadata as penstock-allow, without x-amz-meta-, got {key[:60]!r}"
        )
    return key


_HEADER: Final = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]{1,200}")
MetadataKey = Annotated[str, AfterValidator(_metadata_key)]
"""The name of a header without its ``x-amz-meta-``."""


class ListsSettings(Section):
    """Lists that hold for all documents of a source, beside those of each."""

    allow: tuple[Listed, ...] | None = None
    """Who may see documents for which nothing nearer says it: ``user:NAME``, ``group:NAME`` or
    ``everyone``. Default: nobody."""
    deny: tuple[Listed, ...] = ()
    """Who may see none of them, whatever else is said."""


class OpenPermissions(Section):
    """Everybody may see it."""

    type: Literal["open"]


class ClosedPermissions(Section):
    """Nobody may see it."""

    type: Literal["closed"]


class SidecarPermissions(ListsSettings):
    """Files beside documents and folders say it: ``hr.acl.yaml`` is about ``hr``, and all in it."""

    type: Literal["sidecars"]


class MetadataPermissions(Section):
    """The metadata of each object say it: names with commas or blanks between."""

    type: Literal["metadata"]
    allow: MetadataKey = "penstock-allow"
    """The key of the metadata that says who may see the object (of ``x-amz-meta-KEY``, the KEY).
    An object without it: nobody."""
    deny: MetadataKey = "penstock-deny"
    """The key that says who may not, whatever else is said."""

    @model_validator(mode="after")
    def _keys_are_two(self) -> MetadataPermissions:
        if self.allow.lower() == self.deny.lower():
            raise ValueError(f"expected two keys of metadata, got {self.allow!r} for both lists")
        return self


class PushedPermissions(Section):
    """What is pushed says it: ``allow`` and ``deny`` of each document. One that says nothing:
    nobody."""

    type: Literal["pushed"]


class TablePermissions(ListsSettings):
    """A captured table says it: one row for each document (or folder) and one who may see it."""

    type: Literal["table"]
    source: str
    """The source that captures the table."""
    table: str
    """The table, as that source's ``tables`` name it."""
    document: str
    """The column with the document's key or the folder's ('' is all)."""
    user: str | None = None
    """The column with a user's name."""
    group: str | None = None
    """The column with a group's name."""
    principal: str | None = None
    """The column with ``user:NAME``, ``group:NAME`` or ``everyone``."""
    effect: str | None = None
    """The column with ``allow`` or ``deny``. Default: all rows allow."""

    @model_validator(mode="after")
    def _somebody_is_named(self) -> TablePermissions:
        if not (self.user or self.group or self.principal):
            raise ValueError("expected a column in user, group or principal, got none")
        return self


class ColumnPermissions(Section):
    """Columns of a row say who may see it."""

    type: Literal["columns"]
    allow: tuple[str, ...] = ()
    """Columns with names such as ``user:NAME`` or ``group:NAME``: an array, a JSON array, or names
    with commas between."""
    users: tuple[str, ...] = ()
    """Columns with the names of users."""
    groups: tuple[str, ...] = ()
    """Columns with the names of groups."""
    deny: tuple[str, ...] = ()
    """As ``allow``: who may not, whatever else is said."""
    deny_users: tuple[str, ...] = ()
    """As ``users``: who may not."""
    deny_groups: tuple[str, ...] = ()
    """As ``groups``: who may not."""
    always: tuple[Listed, ...] = ()
    """Who may see all rows, unless a row denies it: ``group:support``."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are named."""
        named = (*self.allow, *self.users, *self.groups)
        return tuple(dict.fromkeys((*named, *self.deny, *self.deny_users, *self.deny_groups)))


class GroupTableSettings(Section):
    """A captured table that says who belongs to which group: one row for each member."""

    source: str
    """The source that captures it."""
    table: str
    """The table, as that source's ``tables`` name it."""
    group: str
    """The column with the group's name."""
    user: str | None = None
    """The column with the name of a user who belongs to it."""
    subgroup: str | None = None
    """The column with the name of a group whose members belong to it."""

    @model_validator(mode="after")
    def _members_are_named(self) -> GroupTableSettings:
        if not (self.user or self.subgroup):
            raise ValueError("expected a column in user or subgroup, got none")
        return self


DocumentPermissions: TypeAlias = Annotated[
    Annotated[
        OpenPermissions | ClosedPermissions | SidecarPermissions | TablePermissions,
        Field(discriminator="type"),
    ]
    | None,
    BeforeValidator(typed),
]
ObjectPermissions: TypeAlias = Annotated[
    Annotated[
        OpenPermissions
        | ClosedPermissions
        | SidecarPermissions
        | MetadataPermissions
        | TablePermissions,
        Field(discriminator="type"),
    ]
    | None,
    BeforeValidator(typed),
]
RowPermissions: TypeAlias = Annotated[
    Annotated[OpenPermissions | ClosedPermissions | ColumnPermissions, Field(discriminator="type")]
    | None,
    BeforeValidator(typed),
]
