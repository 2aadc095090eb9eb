"""Records of the identity graph as rows, and back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from penstock.identity.components import Refusal
from penstock.identity.evidence import Decision, Identifier, RecordKey
from penstock.identity.graph import Document, Stored
from penstock.identity.ids import Place, Turn
from penstock.identity.reading import record_from
from penstock.identity.reasons import Reason, said
from penstock.identity.rules import Rules
from penstock.records import Microseconds

NAMED: Final = 1000
"""Records that an event names; it counts the others."""


def stored_of(row: Sequence[Any], rules: Rules) -> Stored:
    """From what `penstock.profile_records` has, in the order of its columns here."""
    source, stream, key, profile, origin, identifiers, columns, position, committed_at, said_at = (
        row
    )
    values = None if columns is None else orjson.loads(columns)
    record = record_from(
        RecordKey(source, stream, key),
        tuple(identifier_of(text) for text in identifiers),
        values or {},
        rules,
        position=position,
        at=said_at,
    )
    place = None if profile is None else Place(profile, origin)
    return Stored(position, committed_at, values, record, place)


def identifier_of(text: str) -> Identifier:
    """``kind:value``, as it is stored."""
    kind, _, value = text.partition(":")
    return Identifier(kind, value)


def json_text(value: Any) -> str:
    """As JSON."""
    return orjson.dumps(value).decode()


def traits_text(document: Document) -> str:
    """The traits of a profile as its column holds them."""
    return json_text(
        {
            name: [[one.value, *one.record, one.at] for one in found]
            for name, found in document.traits.items()
        }
    )


def detail_text(turn: Turn, reason: Reason) -> str:
    """What an event tells beside the names of profiles."""
    detail: dict[str, Any] = {"records": [str(key) for key in turn.records[:NAMED]]}
    if len(turn.records) > NAMED:
        detail["more"] = len(turn.records) - NAMED
    if reason.ties:
        detail["ties"] = [[str(t.left), str(t.right), said(t.via)] for t in reason.ties]
    if reason.refusals:
        detail["refused"] = [refusal_texts(refusal) for refusal in reason.refusals]
    if reason.causes:
        detail["causes"] = [[str(key), cause] for key, cause in reason.causes]
    return json_text(detail)


def refusal_texts(refusal: Refusal) -> list[str]:
    """A refusal in words: the records, what ties them, and why not."""
    return [
        str(refusal.left),
        str(refusal.right),
        said(refusal.via),
        refusal.why,
        refusal.detail,
    ]


def decision_of(row: Sequence[Any]) -> Decision:
    """From number, verb, identifier, who, reason, time, and the records that it names."""
    number, verb, identifier, by, reason, at, named = row
    sides: dict[str, list[RecordKey]] = {"left": [], "right": []}
    for side, source, stream, key in orjson.loads(named or b"[]"):
        sides[side].append(RecordKey(source, stream, key))
    return Decision(
        number,
        verb,
        tuple(sorted(sides["left"])),
        tuple(sorted(sides["right"])),
        None if identifier is None else identifier_of(identifier),
        by,
        reason,
        Microseconds(at),
    )
