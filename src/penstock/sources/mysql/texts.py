"""How values are written: as the text that PostgreSQL prints for the same value. Pure.

Live tables are PostgreSQL tables, and ``verify`` compares texts: a value that came by the first
load, by the binlog and out of the live table is the same text all three times.
"""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Final

import numpy as np

SYMBOL_FOR_NULL: Final = "\u2400"
"""Stands for the character U+0000, which no text of PostgreSQL can hold."""

ZERO_KEY: Final = "-infinity"
"""Stands for a date with a zero in it where NULL cannot: in a key."""


def text(value: str) -> str:
    """A text that PostgreSQL can hold."""
    return value.replace("\0", SYMBOL_FOR_NULL) if "\0" in value else value


def binary(value: bytes) -> str:
    """As ``bytea_output = hex`` prints it."""
    return "\\x" + value.hex()


def bits(value: bytes, width: int) -> str:
    """As a ``bit(width)`` is printed."""
    return f"{int.from_bytes(value, 'big'):0{width}b}"[-width:]


def double(value: float) -> str:
    """As a ``double precision`` is printed: the shortest text that gives the same number."""
    return _scientific(repr(value), 15)


def real(value: float) -> str:
    """As a ``real`` is printed."""
    return _scientific(str(np.float32(value)), 6)


def real_of_double(value: float) -> str:
    """As a ``real`` is printed, of a number that was widened."""
    return real(struct.unpack("<f", struct.pack("<f", value))[0])


def _scientific(shortest: str, digits: int) -> str:
    if shortest[-1] in "fn":  # inf, nan
        return {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}[shortest]
    sign, figures, exponent = Decimal(shortest).as_tuple()
    assert isinstance(exponent, int)
    number = "".join(map(str, figures)).rstrip("0")
    exponent += len(figures) - 1
    minus = "-" if sign else ""
    if not number:
        return minus + "0"
    if not -4 <= exponent < digits:
        rest = f".{number[1:]}" if number[1:] else ""
        return f"{minus}{number[0]}{rest}e{exponent:+03d}"
    if exponent < 0:
        return f"{minus}0.{'0' * (-exponent - 1)}{number}"
    number = number.ljust(exponent + 1, "0")
    rest = f".{number[exponent + 1 :]}" if number[exponent + 1 :] else ""
    return f"{minus}{number[: exponent + 1]}{rest}"


def fraction(microseconds: int) -> str:
    """Of a second, without zeros at the end."""
    return f".{microseconds:06d}".rstrip("0") if microseconds else ""


def date(year: int, month: int, day: int) -> str | None:
    """None when it is none (MySQL takes years, months and days of zero)."""
    if not (year and month and day):
        return None
    return f"{year:04d}-{month:02d}-{day:02d}"


def interval(
    negative: bool,  # noqa: FBT001 - the sign of a time, beside its parts
    hours: int,
    minutes: int,
    seconds: int,
    microseconds: int,
) -> str:
    """As ``intervalstyle = postgres`` prints a time of any length."""
    minus = "-" if negative and (hours or minutes or seconds or microseconds) else ""
    return f"{minus}{hours:02d}:{minutes:02d}:{seconds:02d}{fraction(microseconds)}"


def numeric(value: str) -> str:
    """A decimal as PostgreSQL prints it: no zeros before, no negative zero."""
    minus, digits = ("-", value[1:]) if value[:1] == "-" else ("", value)
    whole, dot, rest = digits.partition(".")
    whole = whole.lstrip("0") or "0"
    if minus and not (whole + rest).strip("0"):
        minus = ""
    return f"{minus}{whole}{dot}{rest}"
