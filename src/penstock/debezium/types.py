"""PostgreSQL's types and texts as Kafka Connect's, with Debezium's logical types. Pure.

What a type becomes is what Debezium's PostgreSQL connector makes of it with its default settings,
except that numbers of exact size are texts (its ``decimal.handling.mode: string``), and that types
without a counterpart (arrays, ranges, intervals) are their text.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from penstock.errors import BadRecordError

Encode: TypeAlias = Callable[[str], Any]

_DAY_US: Final = 86_400_000_000
_POSITIVE_US, _NEGATIVE_US = 9_223_371_331_200_000_000, -9_223_372_036_832_400_000
_POSITIVE_DAY, _NEGATIVE_DAY = 2_147_483_647, -2_147_483_648
_TYPE: Final = re.compile(r"([^(\[]+?)(?:\((\d+)(?:,-?\d+)?\))?( with(?:out)? time zone)?")
_DATE: Final = re.compile(r"(\d{4,7})-(\d\d)-(\d\d)")
_TIME: Final = re.compile(r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?")
_ZONE: Final = re.compile(r"([+-])(\d\d)(?::?(\d\d))?(?::?(\d\d))?")
_FINITE: Final = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


class WireType(NamedTuple):
    """What a column is on the wire: a type of Connect's, the name of its meaning, and the value."""

    type: str
    name: str | None
    encode: Encode

    def schema(self, field: str) -> dict[str, Any]:
        """The field as Connect's JSON converter writes it."""
        found: dict[str, Any] = {"type": self.type, "optional": True, "field": field}
        if self.name is not None:
            found |= {"name": self.name, "version": 1}
        return found


def wire_type(column: str) -> WireType:
    """The wire type of a column with this type of PostgreSQL's."""
    match = _TYPE.fullmatch(column)
    if match is None:
        return _TEXT
    base = f"{match[1]}{match[3] or ''}"
    limited = match[2] is not None and int(match[2]) <= 3
    return (_LIMITED.get(base) if limited else None) or _WIRE.get(base, _TEXT)


# --------------------------------------------------------------------------- values


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise _bad("a whole number", text) from error


def _float(text: str) -> float | str:
    return float(text) if _FINITE.fullmatch(text) else text


def _boolean(text: str) -> bool:
    found = {"t": True, "true": True, "f": False, "false": False}.get(text)
    if found is None:
        raise _bad("t or f", text)
    return found


def _bytes(text: str) -> str:
    if not text.startswith("\\x"):
        raise _bad("bytes in hexadecimal", text)
    try:
        return b64encode(bytes.fromhex(text[2:])).decode("ascii")
    except ValueError as error:
        raise _bad("bytes in hexadecimal", text) from error


def days_of(text: str) -> int:
    """Days since 1970-01-01 of a date as PostgreSQL prints it."""
    if text in {"infinity", "-infinity"}:
        return _POSITIVE_DAY if text == "infinity" else _NEGATIVE_DAY
    day, before = (text[:-3], True) if text.endswith(" BC") else (text, False)
    match = _DATE.fullmatch(day)
    if match is None:
        raise _bad("a date", text)
    return _days(int(match[1]), int(match[2]), int(match[3]), before_christ=before)


def _days(year: int, month: int, day: int, *, before_christ: bool) -> int:
    """Hinnant's ``days_from_civil``: Python's dates end at the years 1 and 9999."""
    year = 1 - year if before_christ else year
    year -= month <= 2
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return (
        era * 146_097
        + year_of_era * 365
        + year_of_era // 4
        - year_of_era // 100
        + day_of_year
        - 719_468
    )


def micros_of_day(text: str) -> int:
    """Microseconds since midnight."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise _bad("a time of day", text)
    hour, minute, second, fraction = match.groups()
    seconds = int(hour) * 3600 + int(minute) * 60 + int(second or 0)
    return seconds * 1_000_000 + int((fraction or "0").ljust(6, "0"))


def micros_of(text: str) -> int:
    """Microseconds since 1970-01-01 of a time stamp without a zone."""
    if text in {"infinity", "-infinity"}:
        return _POSITIVE_US if text == "infinity" else _NEGATIVE_US
    shown, before = (text[:-3], " BC") if text.endswith(" BC") else (text, "")
    day, _, time = shown.replace("T", " ").partition(" ")
    return days_of(day + before) * _DAY_US + micros_of_day(time)


def _zoned(text: str) -> str:
    """A time stamp with a zone, in UTC as ISO 8601."""
    if text in {"infinity", "-infinity"}:
        return text
    shown, before = (text[:-3], " BC") if text.endswith(" BC") else (text, "")
    match = re.fullmatch(r"(.*?)(Z|[+-]\d\d(?::?\d\d){0,2})", shown)
    if match is None:
        raise _bad("a time stamp with its zone", text)
    micros = micros_of(match[1] + before) - _offset_us(match[2])
    days, rest = divmod(micros, _DAY_US)
    seconds, fraction = divmod(rest, 1_000_000)
    time = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{fraction:06d}Z"
    if date.min.toordinal() <= days + _EPOCH <= date.max.toordinal():
        return f"{date.fromordinal(days + _EPOCH).isoformat()}T{time}"
    return f"{_wide_year(text)}T{time}"


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC).toordinal()


def _wide_year(text: str) -> str:
    day = text.partition(" ")[0]
    year, _, rest = day.partition("-")
    return f"-{int(year) - 1:04d}-{rest}" if text.endswith(" BC") else f"+{year}-{rest}"


def _offset_us(zone: str) -> int:
    match = _ZONE.fullmatch(zone)
    if match is None:
        return 0
    sign, hour, minute, second = match.groups()
    seconds = int(hour) * 3600 + int(minute or 0) * 60 + int(second or 0)
    return (-seconds if sign == "-" else seconds) * 1_000_000


def _zoned_time(text: str) -> str:
    match = re.fullmatch(r"([\d:.]+)([+-]\d\d(?::?\d\d)?)", text)
    if match is None:
        raise _bad("a time with its zone", text)
    zone = match[2]
    return match[1] + (
        "Z" if zone in {"+00", "+00:00"} else zone if len(zone) > 3 else f"{zone}:00"
    )


def _bad(expected: str, text: str) -> BadRecordError:
    return BadRecordError(f"expected {expected} to put into Debezium's envelope, got {text!r:.100}")


# --------------------------------------------------------------------------- the table

_TEXT: Final = WireType("string", None, str)
_STAMP: Final = "timestamp without time zone"
_CLOCK: Final = "time without time zone"

_WIRE: Final[Mapping[str, WireType]] = MappingProxyType(
    {
        "smallint": WireType("int16", None, _whole),
        "integer": WireType("int32", None, _whole),
        "bigint": WireType("int64", None, _whole),
        "oid": WireType("int64", None, _whole),
        "real": WireType("float", None, _float),
        "double precision": WireType("double", None, _float),
        "boolean": WireType("boolean", None, _boolean),
        "bytea": WireType("bytes", None, _bytes),
        "date": WireType("int32", "io.debezium.time.Date", days_of),
        _CLOCK: WireType("int64", "io.debezium.time.MicroTime", micros_of_day),
        "time with time zone": WireType("string", "io.debezium.time.ZonedTime", _zoned_time),
        _STAMP: WireType("int64", "io.debezium.time.MicroTimestamp", micros_of),
        "timestamp with time zone": WireType("string", "io.debezium.time.ZonedTimestamp", _zoned),
        "json": WireType("string", "io.debezium.data.Json", str),
        "jsonb": WireType("string", "io.debezium.data.Json", str),
        "uuid": WireType("string", "io.debezium.data.Uuid", str),
        "xml": WireType("string", "io.debezium.data.Xml", str),
    }
)
_LIMITED: Final[Mapping[str, WireType]] = MappingProxyType(
    {
        _CLOCK: WireType(
            "int32", "io.debezium.time.Time", lambda text: micros_of_day(text) // 1000
        ),
        _STAMP: WireType(
            "int64", "io.debezium.time.Timestamp", lambda text: micros_of(text) // 1000
        ),
    }
)
