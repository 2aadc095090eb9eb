"""How results are shown: JSON for programs, tables and colour for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

from rich.console import Console
from rich.table import Table

console = Console(highlight=False)
_LONGEST_WORD: Final = 32


def print_json(value: object, *, indent: bool = True) -> None:
    """One JSON value on standard output."""
    import orjson

    option = orjson.OPT_INDENT_2 if indent else 0
    data = orjson.dumps(value, default=_plain, option=option | orjson.OPT_NON_STR_KEYS)
    sys.stdout.write(data.decode() + "\n")
    sys.stdout.flush()


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return str(value)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> Table:
    """A table whose numbers stand to the right. Single words (ids, names) are not broken, so that
    they can be copied."""
    listed = [list(row) for row in rows]
    result = Table(title=title or None, title_justify="left", header_style="bold", box=None)
    for i, column in enumerate(columns):
        number = bool(listed) and all(isinstance(row[i], int | float) for row in listed)
        whole = all(_is_word(shown(row[i])) for row in listed)
        side: Literal["left", "right"] = "right" if number else "left"
        result.add_column(column, justify=side, overflow="fold", no_wrap=whole)
    for row in listed:
        result.add_row(*(shown(value) for value in row))
    return result


def _is_word(text: str) -> bool:
    return len(text) <= _LONGEST_WORD and " " not in text


def shown(value: object) -> str:
    """A value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def counted(number: int, what: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def age(milliseconds: float | None) -> str:
    """How old something is, in the unit that a person would choose."""
    if milliseconds is None:
        return "unknown"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    for unit, size in (("s", 60.0), ("min", 60.0), ("h", 24.0)):
        if seconds < size:
            return f"{seconds:.1f} {unit}"
        seconds /= size
    return f"{seconds:.1f} d"


def moment(microseconds: int | None) -> str:
    """A stored time, in UTC."""
    if microseconds is None:
        return "-"
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
