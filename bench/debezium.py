"""How quick Debezium's JSON becomes changes, beside what JSON parsers alone do in the same run.

    uv run python bench/debezium.py [--events N] [--quick]

The events are a customers table of four columns in an envelope of about 490 bytes, keys included;
with the schema in each message about 2.3 kB. Each figure is the best of several rounds, in turn, so
that what else runs on the machine hits all alike. ``limit`` is msgspec with a type that is made for
these events (and throws them away), the quickest that a parser does here; orjson is shown beside.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import orjson

from penstock.bench.report import Report
from penstock.records import Change
from penstock.sources.topics.base import Slice
from penstock.sources.topics.fast import DebeziumDecoder
from penstock.sources.topics.messages import Wanted
from penstock.sources.topics.positions import place_records
from penstock.sources.topics.shapes import Shapes

RESULTS = Path(__file__).with_name("results")
AT_ONCE = 256
SOURCE = {
    "version": "3.0.0.Final", "connector": "mysql", "name": "mysql-server-1",
    "ts_ms": 1_465_491_411_815, "snapshot": False, "db": "inventory", "table": "customers",
    "server_id": 0, "gtid": None, "file": "mysql-bin.000003", "pos": 154, "row": 0, "thread": 7,
    "query": "INSERT INTO customers (first_name, last_name, email) VALUES "
    "('Anne', 'Kretchmar', 'annek@noanswer.org')",
}  # fmt: skip
ROW = [
    {"type": "int32", "optional": False, "field": "id"},
    {"type": "string", "optional": False, "field": "first_name"},
    {"type": "string", "optional": False, "field": "last_name"},
    {"type": "string", "optional": False, "field": "email"},
]
STRUCT = {"type": "struct", "optional": True, "name": "mysql-server-1.inventory.customers.Value"}
SCHEMA = {
    "type": "struct",
    "fields": [
        {**STRUCT, "fields": ROW, "field": "before"},
        {**STRUCT, "fields": ROW, "field": "after"},
        {
            "type": "struct",
            "fields": [{"type": "string", "optional": True, "field": name} for name in SOURCE],
            "optional": False,
            "name": "io.debezium.connector.mysql.Source",
            "field": "source",
        },
        {"type": "string", "optional": False, "field": "op"},
        {"type": "int64", "optional": True, "field": "ts_ms"},
    ],
    "optional": False,
    "name": "mysql-server-1.inventory.customers.Envelope",
}


class Row(msgspec.Struct, gc=False):
    id: int
    first_name: str
    last_name: str
    email: str


class Source(msgspec.Struct, gc=False):
    db: str
    table: str
    ts_ms: int


class Envelope(msgspec.Struct, gc=False):
    op: Literal["c", "u", "d", "r"]
    source: Source
    before: Row | None = None
    after: Row | None = None


class Wrapped(msgspec.Struct, gc=False):
    payload: Envelope


def events(count: int, *, schemas: bool) -> list[bytes]:
    found = []
    for number in range(count):
        after = {
            "id": number, "first_name": "Anne", "last_name": "Kretchmar",
            "email": f"annek{number}@noanswer.org",
        }  # fmt: skip
        payload = {
            "before": None, "after": after, "source": SOURCE, "op": "c", "ts_ms": 1_465_491_411_815,
        }  # fmt: skip
        found.append(orjson.dumps({"schema": SCHEMA, "payload": payload} if schemas else payload))
    return found


def slices(values: Sequence[bytes]) -> list[Slice]:
    return [
        Slice(
            "mysql-server-1.inventory.customers",
            0,
            [f"{i:012x}" for i in range(start, min(start + AT_ONCE, len(values)))],
            [1_700_000_000_000 + start] * len(values[start : start + AT_ONCE]),
            [b'{"id":%d}' % i for i in range(start, min(start + AT_ONCE, len(values)))],
            list(values[start : start + AT_ONCE]),
        )
        for start in range(0, len(values), AT_ONCE)
    ]


def decode(decoder: DebeziumDecoder, found: Sequence[Slice]) -> Change:
    """As a running source does: positions and changes, slice by slice."""
    place = None
    changes: list[Change] = []
    for part in found:
        placed = place_records(part, place)
        place = placed.place
        changes = decoder.decode(part, placed.positions)
        assert len(changes) == len(part.offsets)
    return changes[-1]


def each(parse: Callable[[bytes], Any], values: Sequence[bytes]) -> None:
    for value in values:
        parse(value)


def best(rounds: int, count: int, *works: Callable[[], object]) -> list[float]:
    """Events a second of each work, its best round; rounds go in turn."""
    shortest = [float("inf")] * len(works)
    for _ in range(rounds):
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            shortest[i] = min(shortest[i], time.perf_counter() - start)
    return [count / seconds for seconds in shortest]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    count, rounds = (500, 20) if chosen.quick else (chosen.events, 300)
    report = Report("debezium")
    for schemas in (False, True):
        values = events(count, schemas=schemas)
        found = slices(values)
        decoder = DebeziumDecoder(Shapes("bench"), Wanted(["*"]))
        last = decode(decoder, found)
        assert last.after == (str(count - 1), "Anne", "Kretchmar", f"annek{count - 1}@noanswer.org")
        typed = msgspec.json.Decoder(Wrapped if schemas else Envelope).decode
        gc.collect()
        gc.freeze()
        ours, msgspec_alone, orjson_alone = best(
            rounds,
            count,
            lambda decoder=decoder, found=found: decode(decoder, found),  # type: ignore[misc]
            lambda typed=typed, values=values: each(typed, values),  # type: ignore[misc]
            lambda values=values: each(orjson.loads, values),  # type: ignore[misc]
        )
        what = "with schema" if schemas else "without schema"
        report.add(f"Debezium JSON {what}", ours, "events/s", limit=msgspec_alone)
        report.add(f"orjson alone, {what}", orjson_alone, "events/s", limit=msgspec_alone)
    text = orjson.dumps(report.to_dict(), option=orjson.OPT_INDENT_2).decode()
    print(text)
    if not chosen.quick:
        (RESULTS / "debezium.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
