"""Readers of dates and times in rows of the binlog. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Final

from penstock.sources.mysql import texts
from penstock.sources.mysql.forms import (
    DATE,
    DATETIME,
    DATETIME2,
    NEWDATE,
    TIME,
    TIME2,
    TIMESTAMP,
    TIMESTAMP2,
    ColumnForm,
    Reader,
)

_uint32 = Struct("<I").unpack_from
_big_uint32 = Struct(">I").unpack_from
_uint64 = Struct("<Q").unpack_from


def _read_date(data: bytes, at: int) -> tuple[str | None, int]:
    number = data[at] | data[at + 1] << 8 | data[at + 2] << 16
    return texts.date(number >> 9, number >> 5 & 15, number & 31), at + 3


_POWERS: Final = (1_000_000, 10_000, 100, 1)


def _microseconds(data: bytes, at: int, digits: int) -> int:
    size = (digits + 1) // 2
    if at + size > len(data):
        raise ValueError(at)
    return int.from_bytes(data[at : at + size], "big") * _POWERS[size]


def _datetime2(form: ColumnForm) -> Reader:
    digits, size = form.metadata, 5 + (form.metadata + 1) // 2

    def read(data: bytes, at: int) -> tuple[str | None, int]:
        packed = (data[at] << 32 | _big_uint32(data, at + 1)[0]) - 0x8000000000
        day, clock = packed >> 17, packed & 0x1FFFF
        months = day >> 5
        date = texts.date(months // 13, months % 13, day & 31)
        if date is None:
            return None, at + size
        rest = texts.fraction(_microseconds(data, at + 5, digits)) if digits else ""
        hour, minute, second = clock >> 12, clock >> 6 & 63, clock & 63
        return f"{date} {hour:02d}:{minute:02d}:{second:02d}{rest}", at + size

    return read


def _timestamp2(form: ColumnForm) -> Reader:
    digits, size = form.metadata, 4 + (form.metadata + 1) // 2
    known_day, known = -1, ""

    def read(data: bytes, at: int) -> tuple[str | None, int]:
        nonlocal known_day, known
        (seconds,) = _big_uint32(data, at)
        microseconds = _microseconds(data, at + 4, digits) if digits else 0
        if not seconds and not microseconds:
            return None, at + size  # 0000-00-00 00:00:00: the epoch itself cannot be stored
        day, rest = divmod(seconds, 86400)
        if day != known_day:  # nearly always that of the row before
            known_day, known = day, _day(day)
        minute, second = divmod(rest, 60)
        part = texts.fraction(microseconds) if microseconds else ""
        clock = f"{minute // 60:02d}:{minute % 60:02d}:{second:02d}{part}"
        return f"{known} {clock}+00", at + size

    return read


def _day(days: int) -> str:
    # After Howard Hinnant's "chrono-compatible low-level date algorithms".
    era, day_of_era = divmod(days + 719468, 146097)
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    year += era * 400 + (month >= 10)
    month += 3 if month < 10 else -9
    return f"{year:04d}-{month:02d}-{day:02d}"


def _time2(form: ColumnForm) -> Reader:
    digits, size = form.metadata, 3 + (form.metadata + 1) // 2
    width = (digits + 1) // 2

    def read(data: bytes, at: int) -> tuple[str | None, int]:
        if at + size > len(data):
            raise ValueError(at)
        # One number, so that the fraction of a negative time is negative with it.
        number = int.from_bytes(data[at : at + size], "big") - (0x800000 << 8 * width)
        negative = number < 0
        clock, part = divmod(abs(number), 1 << 8 * width)
        microseconds = part * 10 ** (6 - 2 * width)
        hours, minutes, seconds = clock >> 12 & 0x3FF, clock >> 6 & 63, clock & 63
        return texts.interval(negative, hours, minutes, seconds, microseconds), at + size

    return read


def _old_datetime(data: bytes, at: int) -> tuple[str | None, int]:
    (number,) = _uint64(data, at)
    day, clock = divmod(number, 1_000_000)
    date = texts.date(day // 10000, day // 100 % 100, day % 100)
    if date is None:
        return None, at + 8
    return f"{date} {clock // 10000:02d}:{clock // 100 % 100:02d}:{clock % 100:02d}", at + 8


def _old_timestamp(data: bytes, at: int) -> tuple[str | None, int]:
    (seconds,) = _uint32(data, at)
    day, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return (f"{_day(day)} {clock}+00" if seconds else None), at + 4


def _old_time(data: bytes, at: int) -> tuple[str | None, int]:
    number = data[at] | data[at + 1] << 8 | data[at + 2] << 16
    number = number - 0x1000000 if number & 0x800000 else number
    clock = abs(number)
    parts = clock // 10000, clock // 100 % 100, clock % 100
    return texts.interval(number < 0, *parts, 0), at + 3


def _dated(reader: Reader) -> Callable[[ColumnForm], Reader]:
    return lambda form: _never_null(reader) if form.in_key else reader


def _dated_made(make: Callable[[ColumnForm], Reader]) -> Callable[[ColumnForm], Reader]:
    return lambda form: _never_null(make(form)) if form.in_key else make(form)


def _never_null(reader: Reader) -> Reader:
    def read(data: bytes, at: int) -> tuple[str | None, int]:
        value, end = reader(data, at)
        return texts.ZERO_KEY if value is None else value, end

    return read


MOMENTS: Final[Mapping[int, Callable[[ColumnForm], Reader]]] = {
    DATE: _dated(_read_date),
    NEWDATE: _dated(_read_date),
    TIME: lambda _: _old_time,
    TIME2: _time2,
    DATETIME: _dated(_old_datetime),
    DATETIME2: _dated_made(_datetime2),
    TIMESTAMP: lambda _: _old_timestamp,
    TIMESTAMP2: _dated_made(_timestamp2),
}
"""What makes the reader of each type that is a date or a time."""
