"""Files that say who may see a document or a folder, as entries. Pure.

    allow: [group:hr, user:ada]
    deny: [user:mallory]

Whatever is not exactly that closes the place that it is about: a list that was not understood may
have held a denial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import yaml

from penstock.errors import BadRecordError
from penstock.principals import listed_name, sidecar_place
from penstock.records import Change
from penstock.stores.base import PermissionEntry

LONGEST: Final = 1_000_000
"""Characters of one file."""
_DEEPEST: Final = 4
_KEYS: Final = ("allow", "deny")


class Lists(NamedTuple):
    """What a file says; ``allow`` None: nothing about who may."""

    allow: Sequence[str] | None
    deny: Sequence[str]


def sidecar_entry(change: Change) -> PermissionEntry | None:
    """What a change of such a file says; None for another document's."""
    key = change.key[0] or ""
    place = sidecar_place(key)
    if place is None:
        return None
    entry = PermissionEntry(
        change.schema.source, place, key, change.position, change.committed_at, allow=()
    )
    if change.after is None:
        return replace(entry, allow=None, gone=True)
    error, text, digest = (change.value(name) for name in ("error", "text", "content_hash"))
    entry = replace(entry, content_hash=digest if isinstance(digest, str) else "")
    if error is not None:
        return replace(entry, problem=str(error))
    try:
        lists = read_lists(text if isinstance(text, str) else "")
    except BadRecordError as problem:
        return replace(entry, problem=problem.reason)
    return replace(entry, allow=lists.allow, deny=lists.deny)


def read_lists(text: str) -> Lists:
    """The lists of a file in YAML or JSON. `BadRecordError` says what is wrong with it."""
    if len(text) > LONGEST:
        raise BadRecordError(
            f"expected a list of permissions of at most {LONGEST:,} characters, got {len(text):,}: "
            "name groups instead of users"
        )
    node = _composed(text)
    if not isinstance(node, yaml.MappingNode):
        raise BadRecordError("expected allow and deny with lists of names, found neither: add them")
    found: dict[str, list[str]] = {}
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else "a list"
        if name not in _KEYS:
            raise BadRecordError(f"expected allow or deny, got {str(name)[:60]!r}{_line(key)}")
        if name in found:
            raise BadRecordError(f"expected {name} once, got it again{_line(key)}: join the lists")
        found[name] = _names(name, value)
    if not found:
        raise BadRecordError("expected allow and deny with lists of names, found neither: add them")
    return Lists(found.get("allow"), found.get("deny", []))


def _composed(text: str) -> yaml.Node | None:
    """The tree of a text. Aliases and depth are refused before they cost anything."""
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise BadRecordError("expected names, got an alias (*name): write the names")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > _DEEPEST:
                raise BadRecordError("expected a plain list of names, got lists within lists")
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        said = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadRecordError(f"expected YAML or JSON, but {said}") from error


def _names(of: str, node: yaml.Node) -> list[str]:
    if not isinstance(node, yaml.SequenceNode):
        raise BadRecordError(f"expected a list of names under {of}, got another{_line(node)}")
    names = []
    for item in node.value:
        if not isinstance(item, yaml.ScalarNode) or item.tag != "tag:yaml.org,2002:str":
            raise BadRecordError(f"expected a name such as group:staff under {of}{_line(item)}")
        try:
            names.append(listed_name(item.value))
        except BadRecordError as error:
            raise BadRecordError(f"{error.reason}{_line(item)}") from error
    return names


def _line(node: yaml.Node) -> str:
    return f" (line {node.start_mark.line + 1})"
