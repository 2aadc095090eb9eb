"""The codec's parts that a round trip does not show."""

from __future__ import annotations

import struct
import sys
import tracemalloc
import zlib

import pytest

from penstock.errors import DamagedError, FatalError
from penstock.log.codec import VERSION, ZLIB, ZSTANDARD, Codec
from penstock.records import UNCHANGED, Change, Column, Microseconds, Op, Position, Row, Schema

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COLUMNS = (Column("id", "bigint", key=True), Column("name", "text"))


def create(schema: Schema, *row: str) -> Change:
    return Change(schema, Op.CREATE, (row[0],), Position("p"), Microseconds(1), row)


def framed(body: bytes, version: int = VERSION, flags: int = 0) -> bytes:
    check = zlib.crc32(body, zlib.crc32(bytes((version, flags))))
    return struct.pack(">BBI", version, flags, check) + body


def test_equal_schemas_are_one_object() -> None:
    """Of all batches that one codec decodes or encodes."""
    codec = Codec()
    first = codec.encode([create(Schema("s", "t", COLUMNS), "1", "a")]).payload
    second = Codec().encode([create(Schema("s", "t", COLUMNS), "2", "b")]).payload
    (one,), (two,) = codec.decode(first).changes, codec.decode(second).changes
    assert one.schema is two.schema


def test_remembered_schemas_are_bounded() -> None:
    """Many shapes of many tables do not fill the memory, and the latest are still shared."""
    codec = Codec()
    for i in range(5000):
        codec.encode([create(Schema("s", f"t{i}", COLUMNS), "1", "a")])
    assert len(codec._schemas) <= 4096
    payload = codec.encode([create(Schema("s", "t4999", COLUMNS), "1", "a")]).payload
    assert codec.decode(payload).changes[0].schema is codec.decode(payload).changes[0].schema


def test_a_key_that_the_row_says_is_stored_once() -> None:
    """Most keys are; they cost nothing."""
    schema = Schema("s", "t", COLUMNS)
    payload = Codec().encode([create(schema, "a-long-and-rare-key", "x")]).payload
    assert payload.count(b"a-long-and-rare-key") == 1


def test_large_batches_are_compressed_when_it_pays() -> None:
    """Not small ones, and not what does not become smaller."""
    schema = Schema("s", "t", COLUMNS)
    codec = Codec(compress_from=1000)
    large = codec.encode([create(schema, str(i), "the same again") for i in range(100)])
    assert len(large.payload) < large.size / 2
    small = codec.encode([create(schema, "1", "short")])
    assert len(small.payload) > small.size


@pytest.mark.parametrize("row", [("1",), ("1", "a", "b"), ()])
def test_rows_that_do_not_fit_their_schema_are_refused(row: Row) -> None:
    """Columns must not move or be lost silently."""
    good = create(Schema("s", "t", COLUMNS), "1", "a")
    with pytest.raises(FatalError, match="expected 2 values"):
        Codec().encode([good, good._replace(after=row)])


def test_values_that_are_no_text_are_refused() -> None:
    """A number would come back as another type."""
    good = create(Schema("s", "t", COLUMNS), "1", "a")
    with pytest.raises(FatalError, match=r"got \['int'\]"):
        Codec().encode([good._replace(after=("1", 2))])  # type: ignore[arg-type]
    with pytest.raises(FatalError, match=r"got \['Unchanged'\]"):
        Codec().encode([good._replace(key=(UNCHANGED,))])  # type: ignore[arg-type]


def test_a_newer_format_says_what_to_do() -> None:
    """An old program does not guess at what a new one wrote."""
    with pytest.raises(FatalError, match="upgrade"):
        Codec().decode(framed(b"{}", version=2))
    with pytest.raises(FatalError, match="upgrade"):
        Codec().decode(framed(b"{}", flags=64))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\x00\x0a[[],[],[0]]",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x04null",
        b'\x00\x00\x00\x1a[["[1,2,[]]"],[[5,1,2]],0]{}',
    ],
)
def test_a_valid_checksum_does_not_make_a_batch(body: bytes) -> None:
    """Content of another shape is the same one error."""
    with pytest.raises(FatalError, match="damaged"):
        Codec().decode(framed(body))


@pytest.mark.parametrize("flag", [ZLIB, ZSTANDARD])
def test_g12_a_bomb_in_a_batch_is_named_and_takes_no_more_than_the_bound(flag: int) -> None:
    """A kilobyte that would become 64 MB: refused at a megabyte, whatever the checksum says."""
    large = bytes(64 * 2**20)
    bomb = zlib.compress(large, 9) if flag == ZLIB else zstd.compress(large)
    assert len(bomb) < 100_000
    payload = framed(bomb, flags=flag)
    del large
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError, match="more than 1048576 bytes when it is decompressed"):
            Codec(most_bytes=2**20).decode(payload)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("flag", [ZLIB, ZSTANDARD])
def test_a_compressed_body_without_its_end_is_damaged(flag: int) -> None:
    """What was cut off is not taken for a shorter batch; nor is what follows it ignored."""
    body = zlib.compress(b"x" * 1000) if flag == ZLIB else zstd.compress(b"x" * 1000)
    for wrong in (body[:-3], body + b"more"):
        with pytest.raises(DamagedError, match="decompressed"):
            Codec().decode(framed(wrong, flags=flag))
