"""What a document says itself about who may see it, as an entry about its own place. Pure.

Names stand in it as in files beside documents, with commas or blanks between. What is not exactly
that closes the document, as does nothing at all: unknown means no.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from penstock.errors import BadRecordError
from penstock.principals import listed_name
from penstock.records import LISTED_COLUMNS, Change
from penstock.stores.base import OWN_ENTRY, PermissionEntry

_COLUMN: Final = LISTED_COLUMNS[-1].name


def own_entry(change: Change) -> PermissionEntry:
    """What a change of a document says of who may see it."""
    key = change.key[0] or ""
    entry = PermissionEntry(
        change.schema.source, key, OWN_ENTRY, change.position, change.committed_at, allow=()
    )
    if change.after is None:
        return replace(entry, allow=None, gone=True)
    try:
        said = _said(change)
        allow, deny = (_names(said, name) for name in ("allow", "deny"))
    except BadRecordError as error:
        return replace(entry, problem=error.reason)
    return replace(entry, allow=allow, deny=deny)


def _said(change: Change) -> Mapping[str, Any]:
    """Nothing, for a change that is older than the setting: its document is told of again."""
    written = change.value(_COLUMN) if _COLUMN in change.schema.names else None
    if not isinstance(written, str):
        return {}
    try:
        said = orjson.loads(written)
    except ValueError as error:
        raise BadRecordError(f"the permissions are expected to be JSON, but {error}") from error
    if not isinstance(said, dict):
        raise BadRecordError("the permissions are expected to be a JSON object, they are another")
    if said.get("problem") is not None:
        raise BadRecordError(str(said["problem"]))
    return said


def _names(said: Mapping[str, Any], of: str) -> list[str]:
    written = said.get(of)
    try:
        if isinstance(written, list):  # as an application writes it
            names = [str(name) for name in written]
        else:
            names = [] if written is None else str(written).replace(",", " ").split()
        return [listed_name(name) for name in names]
    except BadRecordError as error:
        raise BadRecordError(f"{error.reason} (in the metadata for {of})") from error
