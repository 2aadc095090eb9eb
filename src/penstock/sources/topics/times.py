"""Numbers that stand for times, as PostgreSQL prints them. Pure, and for any year.

Dates are counted with the algorithm ``civil_from_days`` (Howard Hinnant, "chrono-Compatible
Low-Level Date Algorithms"): Python's own dates end at the years 1 and 9999.
"""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache
from typing import Final

from penstock.errors import BadRecordError

_DAY_US: Final = 86_400_000_000
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
_LATEST_US: Final = 9_223_371_331_199_999_999  # what Debezium sends for infinity is later
_EARLIEST_DAY: Final = -2_440_588 - 38  # 4714-11-24 BC
_LATEST_DAY: Final = 2_145_031_948  # 5874897-12-31, where its dates end
_ISO: Final = re.compile(r"([+-]?\d{4,9})-(\d\d-\d\d)(?:T(\d\d:\d\d(?::\d\d(?:\.\d+)?)?)(.*))?")


@lru_cache(maxsize=4096)
def date_text(days: int) -> str:
    """Days since 1970-01-01."""
    ordinal = days + _EPOCH_ORDINAL
    if 1 <= ordinal <= date.max.toordinal():
        return date.fromordinal(ordinal).isoformat()
    if days > _LATEST_DAY:
        return "infinity"
    if days < _EARLIEST_DAY:
        return "-infinity"
    shifted = days + 719_468
    era, day_of_era = divmod(shifted, 146_097)
    year_of_era = (
        day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted_month + 2) // 5 + 1
    month = shifted_month + 3 if shifted_month < 10 else shifted_month - 9
    year = year_of_era + era * 400 + (month <= 2)
    if year > 0:
        return f"{year:04d}-{month:02d}-{day:02d}"
    return f"{1 - year:04d}-{month:02d}-{day:02d} BC"


def time_text(us: int) -> str:
    """Microseconds since midnight; more than a day, or less than none, as a time span is."""
    sign = "-" if us < 0 else ""
    seconds, fraction = divmod(abs(us), 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    text = f"{sign}{hour:02d}:{minute:02d}:{second:02d}"
    return f"{text}.{fraction:06d}".rstrip("0") if fraction else text


def timestamp_text(us: int) -> str:
    """Microseconds since 1970-01-01, without a time zone."""
    if us > _LATEST_US:
        return "infinity"
    days, rest = divmod(us, _DAY_US)
    day = date_text(days)
    if day == "-infinity":
        return day
    if day.endswith(" BC"):
        return f"{day[:-3]} {time_text(rest)} BC"
    return f"{day} {time_text(rest)}"


def iso_text(text: str) -> str:
    """An ISO 8601 date or time stamp, any year, with its zone if it has one."""
    if text in {"infinity", "-infinity"}:
        return text
    match = _ISO.fullmatch(text)
    if match is None:
        raise BadRecordError(f"expected an ISO 8601 date or time stamp, got {text!r}")
    year, day, time, zone = int(match[1]), match[2], match[3], match[4]
    if year >= 294_247:
        return "infinity"
    if year < -4713:
        return "-infinity"
    shown = f"{year:04d}-{day}" if year > 0 else f"{1 - year:04d}-{day}"
    if time:
        shown += f" {time}{'+00' if zone == 'Z' else zone}"
    return shown if year > 0 else f"{shown} BC"


def zoned_time_text(text: str) -> str:
    """A time of day with its zone."""
    return f"{text[:-1]}+00" if text.endswith("Z") else text
