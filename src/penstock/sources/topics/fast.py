"""Debezium's envelopes in JSON, many at a time. Gives what `debezium.DebeziumFormat` would.

Messages of one topic look alike. Once one was read the slow way, a `Route` knows its stream, its
columns and their JSON types, and reads others of that form with a decoder made for them (msgspec),
a few hundred at a time, their values column by column. A schema in front of a payload is compared
as bytes, not read. Whatever differs in any way - another table, a new column, a value of another
kind, a broken message - makes the decoder refuse, and then these records are read the slow way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from penstock.errors import BadRecordError
from penstock.records import Change, Op, Position
from penstock.sources.topics.base import Slice, unreadable
from penstock.sources.topics.debezium import DebeziumFormat
from penstock.sources.topics.making import make_route
from penstock.sources.topics.messages import MessageDecoder, Wanted, record_at
from penstock.sources.topics.route import REFUSED, Route
from penstock.sources.topics.shapes import Shapes

AT_ONCE: Final = 256
ONE_BY_ONE: Final = 8
_PATIENCE: Final = 4
_MOST_ROUTES: Final = 10_000


class DebeziumDecoder(MessageDecoder):
    """The decoder of Debezium's JSON (`penstock.sources.topics.base.Decoder`)."""

    def __init__(self, shapes: Shapes, wanted: Wanted) -> None:
        super().__init__(DebeziumFormat(), shapes, wanted)
        self._routes: dict[str, Route] = {}

    def decode(self, records: Slice, positions: Sequence[Position]) -> list[Change]:
        changes: list[Change] = []
        for start in range(0, len(positions), AT_ONCE):
            end = start + AT_ONCE
            changes += self._piece(records.cut(start, end), positions[start:end])
        return changes

    def _piece(self, records: Slice, positions: Sequence[Position]) -> list[Change]:
        route = self._routes.get(records.name)
        if route is not None and self._shapes.known_plan(route.stream) is route.plan:
            try:
                changes = self._by_route(route, records, positions)
            except REFUSED:
                # These records are not all alike: those that are, are found by halving.
                if len(positions) > ONE_BY_ONE:
                    return self._halves(records, positions, len(positions) // 2)
            else:
                route.refusals = 0
                return changes
        elif len(positions) > ONE_BY_ONE:
            return self._halves(records, positions, ONE_BY_ONE)
        changes, sample = self._one_by_one(records, positions)
        if sample is not None and self._may_learn(route):
            route = make_route(record_at(records, sample), self._shapes)
            if route is not None:
                self._routes[records.name] = route
        return changes

    def _may_learn(self, route: Route | None) -> bool:
        """Whether a new route is due: one costs as much as reading a dozen records."""
        if route is None or self._shapes.known_plan(route.stream) is not route.plan:
            return len(self._routes) < _MOST_ROUTES
        route.refusals += 1
        return route.refusals >= _PATIENCE

    def _halves(self, records: Slice, positions: Sequence[Position], middle: int) -> list[Change]:
        first = self._piece(records.cut(0, middle), positions[:middle])
        rest = self._piece(records.cut(middle, len(positions)), positions[middle:])
        return first + rest

    def _one_by_one(
        self, records: Slice, positions: Sequence[Position]
    ) -> tuple[list[Change], int | None]:
        """The changes of each record, and a record that others may resemble."""
        changes: list[Change] = []
        sample = None
        for i, position in enumerate(positions):
            if _follows_its_delete(records, i, changes):
                continue
            try:
                found = self._changes(record_at(records, i), position)
            except BadRecordError as error:
                found = [unreadable(self._shapes.source, records, i, position, error.reason)]
            else:
                if found and found[-1].after is not None:
                    sample = i
            changes += found
        return changes, sample

    def _by_route(
        self, route: Route, records: Slice, positions: Sequence[Position]
    ) -> list[Change]:
        """All records by the route; raises one of `REFUSED` when one does not fit."""
        if None not in records.values:
            return route.changes(cast("Sequence[bytes]", records.values), records.keys, positions)
        full = [i for i, value in enumerate(records.values) if value is not None]
        found = route.changes(
            [cast("bytes", records.values[i]) for i in full],
            [records.keys[i] for i in full],
            [positions[i] for i in full],
        )
        rows = dict(zip(full, found, strict=True))
        changes: list[Change] = []
        for i, position in enumerate(positions):
            if i in rows:
                changes.append(rows[i])
            elif not _follows_its_delete(records, i, changes):
                changes += self._changes(record_at(records, i), position)
        return changes


def _follows_its_delete(records: Slice, i: int, changes: Sequence[Change]) -> bool:
    """Whether this is the tombstone right after the delete of its key, and so says nothing new."""
    return (
        records.values[i] is None
        and i > 0
        and records.values[i - 1] is not None
        and records.keys[i] == records.keys[i - 1]
        and bool(changes)
        and changes[-1].op is Op.DELETE
    )
