"""Maxwell's, Canal's and plain rows; Avro with a registry that answers over HTTP."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

import fastavro
import orjson
import pytest

from penstock.errors import SourceError, UnavailableError
from penstock.records import UNCHANGED, UNREADABLE, Change, Op
from penstock.sources.topics.avro import AvroDecoder
from penstock.sources.topics.base import Slice
from penstock.sources.topics.canal import canal_events
from penstock.sources.topics.debezium import DebeziumFormat
from penstock.sources.topics.maxwell import maxwell_events
from penstock.sources.topics.messages import MessageDecoder, MessageFormat, Wanted
from penstock.sources.topics.positions import place_records
from penstock.sources.topics.registry import SchemaRegistry
from penstock.sources.topics.rows import RowFormat
from penstock.sources.topics.shapes import Shapes
from penstock.testing.debezium import envelope


def records(*pairs: tuple[bytes | None, bytes | None], topic: str = "orders") -> Slice:
    count = len(pairs)
    return Slice(
        topic,
        0,
        [f"{i:012x}" for i in range(count)],
        [1_700_000_000_000] * count,
        [key for key, _ in pairs],
        [value for _, value in pairs],
    )


def decode(
    format_: MessageFormat,
    *pairs: tuple[bytes | None, bytes | None],
    keys: Mapping[str, list[str]] | None = None,
) -> list[Change]:
    found = records(*pairs)
    decoder = MessageDecoder(format_, Shapes("shop", keys=keys or {}), Wanted(["*"]))
    return decoder.decode(found, place_records(found, None).positions)


def maxwell(kind: str, data: Any, **more: Any) -> bytes:
    return orjson.dumps(
        {"database": "test", "table": "e", "type": kind, "ts": 1_477_053_217, "xid": 23_396,
         "data": data, **more}
    )  # fmt: skip


def test_maxwell() -> None:
    """Insert, update with the old values, delete, bootstrap; what is no row is passed over."""
    key = b'{"database":"test","table":"e","pk.id":1}'
    changes = decode(
        maxwell_events,
        (key, maxwell("insert", {"id": 1, "m": 4.5, "c": None})),
        (key, maxwell("update", {"id": 1, "m": 5.5, "c": "x"}, old={"m": 4.5, "c": None})),
        (key, maxwell("delete", {"id": 1, "m": 5.5, "c": "x"})),
        (key, None),
        (key, maxwell("bootstrap-start", {})),
        (key, maxwell("bootstrap-insert", {"id": 2, "m": 1.5, "c": "y"})),
        (key, maxwell("table-alter", None)),
        (key, maxwell("strange", {"id": 2})),
        (key, b'{"type":"insert","data":{}}'),
    )
    assert [c.op for c in changes[:4]] == [Op.CREATE, Op.UPDATE, Op.DELETE, Op.READ]
    create, update, delete, read = changes[:4]
    assert create.schema.stream == "test.e"
    assert (create.after, create.key, create.transaction) == (("1", "4.5", None), ("1",), "23396")
    assert update.before == ("1", "4.5", None)
    assert (delete.before, delete.key, read.key) == (("1", "5.5", "x"), ("1",), ("2",))
    assert [c.schema.stream for c in changes[4:]] == [UNREADABLE, UNREADABLE]


def canal(kind: str, rows: Any, **more: Any) -> bytes:
    return orjson.dumps(
        {"data": rows, "database": "test", "table": "e", "es": 1_589_373_560_000, "isDdl": False,
         "mysqlType": {"id": "bigint(20) unsigned", "on": "tinyint(1)", "raw": "varbinary(9)",
                       "at": "datetime", "price": "decimal(10,2)"},
         "pkNames": ["id"], "type": kind, **more}
    )  # fmt: skip


def test_canal() -> None:
    """Several rows in a message, at positions that increase; texts by MySQL's types."""
    row = {"id": "1", "on": "1", "raw": "\xde\xad", "at": "2020-05-13 20:39:20", "price": "9.50"}
    changes = decode(
        canal_events,
        (None, canal("INSERT", [row, {**row, "id": "2", "price": None}])),
        (None, canal("UPDATE", [{**row, "price": "8.00"}], old=[{"price": "9.50"}])),
        (None, canal("DELETE", [row])),
        (None, canal("ALTER", None, isDdl=True)),
        (None, canal("TRUNCATE", None, isDdl=True)),
        (None, canal("INSERT", [{**row, "at": "0000-00-00 00:00:00"}])),
        (None, canal("INSERT", {"id": 1})),
    )
    assert [c.op for c in changes[:5]] == [
        Op.CREATE, Op.CREATE, Op.UPDATE, Op.DELETE, Op.TRUNCATE,
    ]  # fmt: skip
    assert changes[0].after == ("1", "t", "\\xdead", "2020-05-13 20:39:20", "9.50")
    assert [c.type for c in changes[0].schema.columns] == [
        "numeric(20,0)",
        "boolean",
        "bytea",
        "timestamp(0) without time zone",
        "numeric(10,2)",
    ]
    assert changes[2].before == ("1", "t", "\\xdead", "2020-05-13 20:39:20", "9.50")
    positions = [c.position for c in changes]
    assert positions == sorted(set(positions))
    assert "PostgreSQL has no such date" in str(changes[5].value("error"))
    assert "expected an array of rows" in str(changes[6].value("error"))


def test_plain_rows() -> None:
    """The key comes from the message or from the project; no value is a delete; columns stay."""
    keyed = decode(
        RowFormat(),
        (b'{"id":1}', b'{"price":1.5}'),
        (b'{"id":1}', b'{"price":2,"name":"x"}'),
        (b'{"id":1}', None),
    )
    assert [c.op for c in keyed] == [Op.UPDATE, Op.UPDATE, Op.DELETE]
    assert keyed[1].after == ("1", "2.0", "x")
    assert keyed[2].key == ("1",)
    named = decode(
        RowFormat(),
        (b"not json", b'{"id":1,"a":true}'),
        (None, b'{"id":2}'),
        (None, None),
        keys={"public.orders": ["id"]},
    )
    assert [c.after for c in named[:2]] == [("1", "t"), ("2", None)]
    assert named[2].schema.stream == UNREADABLE
    (nameless,) = decode(RowFormat(), (None, b'{"id":1}'))
    assert "name its columns in the project file (`key`)" in str(nameless.value("error"))


# --------------------------------------------------------------------------- Avro

VALUE = {
    "type": "record",
    "name": "Envelope",
    "namespace": "srv.public.items",
    "connect.name": "srv.public.items.Envelope",
    "fields": [
        {
            "name": "before",
            "type": [
                "null",
                {
                    "type": "record",
                    "name": "Value",
                    "fields": [
                        {"name": "id", "type": "int"},
                        {"name": "name", "type": ["null", "string"]},
                        {
                            "name": "price",
                            "type": [
                                "null",
                                {
                                    "type": "bytes",
                                    "scale": 2,
                                    "precision": 10,
                                    "connect.version": 1,
                                    "connect.parameters": {
                                        "scale": "2",
                                        "connect.decimal.precision": "10",
                                    },
                                    "connect.name": "org.apache.kafka.connect.data.Decimal",
                                    "logicalType": "decimal",
                                },
                            ],
                        },
                        {
                            "name": "day",
                            "type": [
                                "null",
                                {"type": "int", "connect.name": "io.debezium.time.Date"},
                            ],
                        },
                        {"name": "short", "type": {"type": "int", "connect.type": "int16"}},
                        {"name": "tags", "type": {"type": "array", "items": ["null", "string"]}},
                    ],
                    "connect.name": "srv.public.items.Value",
                },
            ],
        },
        {"name": "after", "type": ["null", "Value"]},
        {
            "name": "source",
            "type": {
                "type": "record",
                "name": "Source",
                "fields": [
                    {"name": "schema", "type": "string"},
                    {"name": "table", "type": "string"},
                    {"name": "ts_ms", "type": "long"},
                    {"name": "txId", "type": ["null", "long"]},
                ],
            },
        },
        {"name": "op", "type": "string"},
    ],
}
KEY = {"type": "record", "name": "Key", "fields": [{"name": "id", "type": "int"}]}


def wire(number: int, schema: Any, value: Any) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(plain(schema)), value)
    return struct.pack(">bI", 0, number) + out.getvalue()


def plain(schema: Any) -> Any:
    text = json.dumps(schema).replace('"logicalType": "decimal"', '"note": "decimal"')
    return json.loads(text)


class Registry:
    """A small HTTP server with the one path of a schema registry that is read."""

    def __init__(self) -> None:
        self.schemas: dict[int, Any] = {1: KEY, 2: VALUE}
        self.asked: list[str] = []
        self.status = 200
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        path = request.split()[1].decode()
        self.asked.append(path)
        found = self.schemas.get(int(path.rpartition("/")[2]))
        status = self.status if self.status != 200 or found else 404
        body = orjson.dumps({"schema": json.dumps(found)}) if found else b'{"error_code":40403}'
        writer.write(
            b"HTTP/1.1 %d x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
            % (status, len(body), body)
        )
        await writer.drain()
        writer.close()


@asynccontextmanager
async def registry() -> AsyncIterator[Registry]:
    found = Registry()
    server = await asyncio.start_server(found.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    found.url = f"http://127.0.0.1:{port}"
    try:
        yield found
    finally:
        server.close()
        await server.wait_closed()


def avro(url: str) -> AvroDecoder:
    return AvroDecoder(DebeziumFormat(), SchemaRegistry(url), Shapes("shop"), Wanted(["*"]))


def event(op: str, after: Any, before: Any = None) -> dict[str, Any]:
    source = {"schema": "public", "table": "items", "ts_ms": 5, "txId": 9}
    return {"before": before, "after": after, "source": source, "op": op}


async def run(decoder: AvroDecoder, found: Slice) -> list[Change]:
    await decoder.prepare(found)
    return decoder.decode(found, place_records(found, None).positions)


async def test_debezium_in_avro() -> None:
    """Connect's names of types are heeded; each schema is fetched once."""
    row = {
        "id": 1,
        "name": "__debezium_unavailable_value",
        "price": (1990).to_bytes(2, "big"),
        "day": 19_782,
        "short": -1,
        "tags": ["a", None],
    }
    key = wire(1, KEY, {"id": 1})
    async with registry() as server:
        decoder = avro(server.url)
        found = records((key, wire(2, VALUE, event("u", row))), (key, None))
        update, delete = await run(decoder, found)
        await run(decoder, found)
        await decoder.close()
        assert sorted(server.asked) == ["/schemas/ids/1", "/schemas/ids/2"]
    assert [c.type for c in update.schema.columns] == [
        "integer", "text", "numeric(10,2)", "date", "smallint", "text[]",
    ]  # fmt: skip
    assert update.after == ("1", UNCHANGED, "19.90", "2024-02-29", "-1", '{"a",NULL}')
    assert (update.op, update.key, update.transaction) == (Op.UPDATE, ("1",), "9")
    assert (delete.op, delete.key) == (Op.DELETE, ("1",))


async def test_g13_a_schema_that_is_missing_makes_a_dead_letter() -> None:
    """And so do bytes that are no Avro; both can be read again later."""
    key = wire(1, KEY, {"id": 1})
    row: dict[str, Any] = {
        "id": 1, "name": None, "price": None, "day": None, "short": 0, "tags": [],
    }  # fmt: skip
    async with registry() as server:
        del server.schemas[2]
        decoder = avro(server.url)
        good = wire(2, VALUE, event("c", row))
        missing, json_, torn, longer = await run(
            decoder,
            records(
                (key, good),
                (key, orjson.dumps(envelope("c"))),
                (key[:-1], good),
                (key + b"x", good),
            ),
        )
        await decoder.close()
        server.schemas[2] = VALUE
        again = avro(server.url)
        (change,) = await run(again, records((key, good)))
        await again.close()
    assert "expected schema 2 in the registry" in str(missing.value("error"))
    assert "with a schema's number in front" in str(json_.value("error"))
    assert "expected the key in Avro with schema 1" in str(torn.value("error"))
    assert "got 1 more bytes" in str(longer.value("error"))
    assert change.op is Op.CREATE


@pytest.mark.parametrize(
    ("status", "error"), [(500, UnavailableError), (401, SourceError), (302, UnavailableError)]
)
async def test_a_registry_that_does_not_help_is_a_named_error(
    status: int, error: type[Exception]
) -> None:
    """It is waited for, or a person is asked; no record is lost for it."""
    async with registry() as server:
        server.status = status
        decoder = avro(server.url)
        with pytest.raises(error, match="the schema registry at"):
            await decoder.prepare(records((wire(1, KEY, {"id": 1}), None)))
        await decoder.close()


async def test_a_registry_that_is_not_there_is_unavailable() -> None:
    """As any server."""
    decoder = avro("http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="expected the schema registry"):
        await decoder.prepare(records((wire(1, KEY, {"id": 1}), None)))
    await decoder.close()
