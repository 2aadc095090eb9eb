"""The client protocol of MySQL and MariaDB as far as reading needs it, from bytes to values. Pure.

What the server sends is cut into packets; a result is described by packets of columns and given as
packets of rows whose values are text. Whatever is not well formed raises `ProtocolError`, however
it was broken.

The format is described in MySQL's source documentation, "Client/Server Protocol".
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is an exception, so it is named as one
from typing import Final, NamedTuple, TypeAlias

from penstock.errors import SourceError

LARGEST: Final = 0xFFFFFF
"""A packet of this length goes on in the next one."""

OK: Final = 0x00
EOF: Final = 0xFE
ERR: Final = 0xFF
_NULL: Final = 0xFB

_uint16 = Struct("<H").unpack_from
_column_tail = Struct("<HIBHB").unpack_from

BROKEN: Final = (IndexError, StructError, ValueError, OverflowError, UnicodeError)
"""What reading past the end, or of nonsense, raises here and in the modules beside."""

Converter: TypeAlias = Callable[[bytes], str | None]
"""From the bytes of one value, as a result holds them, to its text."""


class ProtocolError(SourceError):
    """The server, or something between, sent what cannot be understood."""


def broken(what: str, data: bytes | memoryview) -> ProtocolError:
    """The error for bytes that are not ``what``."""
    return ProtocolError(
        f"expected {what}, got {bytes(data[:24])!r} ({len(data)} bytes): the connection or a proxy "
        "between damaged it, or the server speaks another version"
    )


class Refusal(NamedTuple):
    """The server's error: its number, SQL state and words."""

    number: int
    state: str
    message: str


class ResultColumn(NamedTuple):
    """A column of a result."""

    name: str
    charset: int
    length: int
    type: int
    flags: int
    decimals: int


class Framer:
    """Cuts what arrives into packets, and puts those together that were too large for one."""

    def __init__(self) -> None:
        self._rest = b""
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The packets that are complete now, without their headers."""
        if self._rest:
            data = self._rest + data
        packets: list[bytes] = []
        at, end = 0, len(data)
        while end - at >= 4:
            length = data[at] | data[at + 1] << 8 | data[at + 2] << 16
            stop = at + 4 + length
            if stop > end:
                break
            piece = data[at + 4 : stop]
            at = stop
            if length == LARGEST:
                self._parts.append(piece)
            elif self._parts:
                packets.append(b"".join((*self._parts, piece)))
                self._parts = []
            else:
                packets.append(piece)
        self._rest = data[at:]
        return packets

    @property
    def held(self) -> int:
        """How many bytes wait for the rest of their packet."""
        return len(self._rest) + sum(map(len, self._parts))


def length_encoded(data: bytes, at: int) -> tuple[int, int]:
    """A number of 1 to 9 bytes, and where it ends."""
    first = data[at]
    if first < _NULL:
        return first, at + 1
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}[first] if first in (0xFC, 0xFD, 0xFE) else 0
    if not size or at + 1 + size > len(data):
        raise ValueError(first)
    return int.from_bytes(data[at + 1 : at + 1 + size], "little"), at + 1 + size


def length_encoded_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    """Bytes behind their length, and where they end."""
    length, at = length_encoded(data, at)
    if at + length > len(data):
        raise ValueError(length)
    return data[at : at + length], at + length


def encode_length(number: int) -> bytes:
    """The shortest form of a number of 1 to 9 bytes."""
    if number < _NULL:
        return bytes([number])
    for first, size in ((0xFC, 2), (0xFD, 3)):
        if number < 1 << 8 * size:
            return bytes([first]) + number.to_bytes(size, "little")
    return b"\xfe" + number.to_bytes(8, "little")


def is_end(packet: bytes) -> bool:
    """Whether the packet ends columns or rows (and is no row that begins with a large value)."""
    return len(packet) < 9 and packet[:1] == b"\xfe"


def decode_refusal(packet: bytes) -> Refusal:
    """The error in a packet that begins with `ERR`.

    Raises:
        ProtocolError: it is none.
    """
    try:
        if packet[0] != ERR:
            raise ValueError(packet[0])
        (number,) = _uint16(packet, 1)
        words = packet[3:]
        state = "HY000"
        if words[:1] == b"#":
            state, words = words[1:6].decode("ascii"), words[6:]
        return Refusal(number, state, words.decode("utf-8", "replace"))
    except BROKEN as error:
        raise broken("an error packet", packet) from error


def decode_column_count(packet: bytes) -> int:
    """How many columns the result has: the first packet of an answer with rows."""
    try:
        count, end = length_encoded(packet, 0)
        if end != len(packet) or not count:
            raise ValueError(count)
        return count
    except BROKEN as error:
        raise broken("the number of columns of a result", packet) from error


def decode_result_column(packet: bytes) -> ResultColumn:
    """The description of a column."""
    try:
        at = 0
        for _ in range(4):
            _, at = length_encoded_bytes(packet, at)
        name, at = length_encoded_bytes(packet, at)
        _, at = length_encoded_bytes(packet, at)
        _, at = length_encoded(packet, at)
        charset, length, kind, flags, decimals = _column_tail(packet, at)
        return ResultColumn(name.decode(), charset, length, kind, flags, decimals)
    except BROKEN as error:
        raise broken("the description of a column", packet) from error


def decode_text_row(
    packet: bytes, converters: tuple[Converter | None, ...]
) -> tuple[str | None, ...]:
    """The values of a row of a result; those without converter are UTF-8 text. The hot loop of the
    first load."""
    values: list[str | None] = []
    append = values.append
    at = 0
    try:
        for convert in converters:
            length = packet[at]
            begin = at + 1
            if length >= _NULL:
                if length == _NULL:
                    append(None)
                    at = begin
                    continue
                length, begin = length_encoded(packet, at)
            at = begin + length
            append(packet[begin:at].decode() if convert is None else convert(packet[begin:at]))
        # A slice never complains about a missing end, so the last place is compared once.
        if at != len(packet):
            raise ValueError(at)
    except BROKEN as error:
        raise broken(f"a row of {len(converters)} values", packet) from error
    return tuple(values)


def encode_text_row(values: tuple[bytes | None, ...]) -> bytes:
    """A row of a result as a server sends it."""
    return b"".join(
        b"\xfb" if value is None else encode_length(len(value)) + value for value in values
    )
