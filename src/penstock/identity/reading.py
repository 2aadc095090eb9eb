"""From a row's values to the record that it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Final

from penstock.identity.evidence import Identifier, Record, RecordKey
from penstock.identity.identifiers import canonical
from penstock.identity.moments import moment
from penstock.identity.rules import Rules, TableRule, filled
from penstock.records import Key, Microseconds, Position, Schema

_LONGEST_TRAIT: Final = 2_000
_LONGEST_KEY: Final = 400
_NO_TABLE: Final = TableRule()


def record_key(schema: Schema, key: Key) -> RecordKey:
    """The name of a row: its key, as it is where that is one value. A long one goes by its digest,
    which an index has room for."""
    alone = len(key) == 1 and key[0] is not None
    name = str(key[0]) if alone else json.dumps(key, ensure_ascii=False)
    if len(name) > _LONGEST_KEY:
        name = "sha256:" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return RecordKey(schema.source, schema.stream, name)


def crowd_key(source: str, table: str, identifiers: Sequence[Identifier]) -> RecordKey:
    """The name of the one record that all events with the same identifiers are: a digest, since a
    name is shown where identifiers may not be."""
    said = json.dumps(sorted(map(str, identifiers)), ensure_ascii=False)
    digest = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
    return RecordKey(source, table, f"events:{digest[:32]}")


def identifiers_in(
    key: RecordKey, values: Mapping[str, str | None], rules: Rules
) -> tuple[Identifier, ...]:
    """What a row bears, by the rules for its table: distinct, in order."""
    table = rules.tables.get((key.source, key.table), _NO_TABLE)
    found: set[Identifier] = set()
    for kind, said in table.identifiers:
        value = canonical(filled(said, values), rules.kinds[kind])
        if value is not None:
            found.add(Identifier(kind, value))
    return tuple(sorted(found))


def record_of(
    key: RecordKey,
    values: Mapping[str, str | None],
    rules: Rules,
    *,
    position: Position,
    committed_at: Microseconds,
) -> Record:
    """What a row says, by the rules for its table."""
    table = rules.tables.get((key.source, key.table), _NO_TABLE)
    at = _time(values.get(table.at) if table.at else None, committed_at)
    return Record(
        key,
        identifiers_in(key, values, rules),
        _texts(table.fields, values),
        _texts(table.traits, values),
        position,
        at,
    )


def record_from(
    key: RecordKey,
    identifiers: tuple[Identifier, ...],
    values: Mapping[str, str | None],
    rules: Rules,
    *,
    position: Position,
    at: Microseconds,
) -> Record:
    """A record whose identifiers and time were found before."""
    table = rules.tables.get((key.source, key.table), _NO_TABLE)
    fields, traits = _texts(table.fields, values), _texts(table.traits, values)
    return Record(key, identifiers, fields, traits, position, at)


def fields_from(wanted: Mapping[str, str], values: Mapping[str, str | None]) -> dict[str, str]:
    """What a record is compared by: `TableRule.fields`, filled with a row's values."""
    return _texts(wanted, values)


def _texts(wanted: Mapping[str, str], values: Mapping[str, str | None]) -> dict[str, str]:
    found = {}
    for name, said in wanted.items():
        value = values.get(said) if "{" not in said else filled(said, values)
        if value is not None and (stripped := value.strip()):
            found[name] = stripped[:_LONGEST_TRAIT]
    return found


def _time(said: str | None, committed_at: Microseconds) -> Microseconds:
    """When a row says that it was said. What lies after its commit cannot be, and what cannot be
    read says nothing: both count as said when they were committed."""
    at = moment(said)
    if at is None:
        return committed_at
    return Microseconds(min(at, committed_at)) if committed_at else at
