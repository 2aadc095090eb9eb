"""What the statement that appends is given, and what its answer says was refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from psycopg.types.numeric import Int8

from penstock.errors import FatalError
from penstock.log.codec import Encoded
from penstock.log.group_commit import Append, Refused
from penstock.log.refusals import fenced, no_topic
from penstock.records import Change, Microseconds


class Part(NamedTuple):
    """What a transaction puts into one partition."""

    topic: str
    partition: int
    changes: Sequence[Change]
    encoded: Encoded
    as_of: Microseconds | None


class Merged(NamedTuple):
    """The changes of some appends to one partition, in their order, and the latest time of them."""

    changes: Sequence[Change]
    as_of: Microseconds | None


def merged(appends: Sequence[Append]) -> Mapping[tuple[str, int], Merged]:
    """What some appends put into each partition, ordered by topic and partition."""
    found: dict[tuple[str, int], Merged] = {}
    joined: dict[tuple[str, int], list[Change]] = {}
    for append in appends:
        for partition, changes in append.parts.items():
            place = (append.topic, partition)
            known = found.get(place)
            if known is None:
                found[place] = Merged(changes, append.as_of)
                continue
            together = joined.get(place)
            if together is None:
                together = joined[place] = list(known.changes)
            together.extend(changes)
            times = [time for time in (known.as_of, append.as_of) if time is not None]
            found[place] = Merged(together, max(times, default=None))
    return dict(sorted(found.items()))


def values_of(
    appends: Sequence[Append], parts: Sequence[Part], now: Microseconds
) -> dict[str, object]:
    """The parameters of the statement ``append``.

    Arrays are written here: for the driver each is a search for the type of its elements, which
    takes longer than the database needs to store the row.
    """
    states = [(a.producer, name, value) for a in appends for name, value in a.state.items()]
    kept = [entry for entry in states if entry[2] is not None]
    gone = [entry for entry in states if entry[2] is None]
    return {
        "producers": texts(append.producer for append in appends),
        "epochs": numbers(append.epoch for append in appends),
        "topics": texts(part.topic for part in parts),
        "partitions": numbers(part.partition for part in parts),
        "changes": numbers(len(part.changes) for part in parts),
        "streams": texts(texts(part.encoded.streams) for part in parts),
        "times": numbers(part.as_of for part in parts),
        "sizes": numbers(len(part.encoded.payload) for part in parts),
        "payloads": b"".join(part.encoded.payload for part in parts),
        "now": Int8(now),
        "keepers": texts(producer for producer, _, _ in kept),
        "names": texts(name for _, name, _ in kept),
        "values": texts(value or "" for _, _, value in kept),
        "droppers": texts(producer for producer, _, _ in gone),
        "gone": texts(name for _, name, _ in gone),
    }


def refused(
    appends: Sequence[Append], parts: Sequence[Part], mine: Collection[int], there: Collection[int]
) -> Refused:
    """Which of some appends were refused: ``mine`` and ``there`` number, from 1, the producers that
    are still the only ones and the partitions that exist."""
    reasons: dict[Append, FatalError] = {
        append: fenced(append.producer)
        for number, append in enumerate(appends, 1)
        if number not in mine
    }
    if not reasons:
        absent = {
            (part.topic, part.partition)
            for number, part in enumerate(parts, 1)
            if number not in there
        }
        reasons = {
            append: no_topic(append.topic)
            for append in appends
            if any((append.topic, partition) in absent for partition in append.parts)
        }
    return Refused(reasons)


def texts(values: Iterable[str]) -> str:
    """An array of texts as PostgreSQL writes it. (One of such arrays keeps them apart, where an
    array of arrays must be rectangular.)"""
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in quoted) + "}"


def numbers(values: Iterable[int | None]) -> str:
    """An array of numbers as PostgreSQL writes it."""
    return "{" + ",".join("NULL" if value is None else str(value) for value in values) + "}"
