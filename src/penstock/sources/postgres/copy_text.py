"""Rows of COPY's text format. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from penstock.errors import SourceError
from penstock.records import Row

_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_MEANING: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def parse_copy_row(line: bytes) -> Row:
    r"""The values of one line (with or without its end): ``\N`` is None, escapes are resolved.

    Raises:
        SourceError: the line is not UTF-8.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise SourceError(
            f"expected UTF-8, got {line[:60]!r}: the database says that its encoding can be "
            "converted, but this row cannot; mend the row or the database's encoding"
        ) from error
    fields = text.removesuffix("\n").split("\t")
    if "\\" not in text:
        return tuple(fields)
    return tuple(_unescape(field) if "\\" in field else field for field in fields)


def _unescape(field: str) -> str | None:
    if field == "\\N":
        return None
    return _ESCAPE.sub(lambda match: _MEANING.get(match[1], match[1]), field)


def parse_copy_rows(lines: Sequence[bytes]) -> list[Row]:
    """`parse_copy_row` of each line; each has its end. Many at once take a third less time."""
    whole = b"".join(lines)
    if b"\\" in whole:
        return [parse_copy_row(line) for line in lines]
    try:
        texts = whole.decode().split("\n")
    except UnicodeDecodeError:
        return [parse_copy_row(line) for line in lines]
    del texts[-1]
    return [tuple(text.split("\t")) for text in texts]
