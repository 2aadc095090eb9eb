"""Columns of texts as PostgreSQL array literals, built by whole-string operations. Pure.

One parameter per column carries a whole batch: ``unnest`` makes rows of it in the statement that
stores them. That is quicker than COPY into a staging table and needs no table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from penstock.errors import BadRecordError

# Between values, while they are joined: no value can hold it, because PostgreSQL's text cannot.
_SEPARATOR = "\x00"
# Half of a surrogate pair cannot be sent as UTF-8: a value that holds one is refused.
_NULL = "\ud800"


def array_literal(values: Sequence[str | None]) -> str:
    """``{"a","b",NULL}``; raises `BadRecordError` for texts that PostgreSQL cannot hold."""
    if not values:
        return "{}"
    joined = _SEPARATOR.join([_NULL if value is None else value for value in values])
    if joined.count(_SEPARATOR) != len(values) - 1:
        raise BadRecordError(
            "expected text without the character NUL (U+0000), which PostgreSQL cannot store; "
            "remove it at the source"
        )
    nulls = joined.count(_NULL)
    if nulls and nulls != values.count(None):
        raise _not_utf8(_NULL)
    if "\\" in joined:
        joined = joined.replace("\\", "\\\\")
    if '"' in joined:
        joined = joined.replace('"', '\\"')
    literal = '{"' + joined.replace(_SEPARATOR, '","') + '"}'
    if nulls:
        literal = literal.replace(f'"{_NULL}"', "NULL")
    if not literal.isascii():
        _expect_utf8(literal)
    return literal


def _expect_utf8(literal: str) -> None:
    try:
        literal.encode()
    except UnicodeEncodeError as error:
        raise _not_utf8(error.object[error.start]) from error


def _not_utf8(half: str) -> BadRecordError:
    return BadRecordError(
        f"expected text that can be written as UTF-8, got {half!r} (half of a character); mend "
        "the text at the source"
    )


def numbers_literal(values: Iterable[int]) -> str:
    """``{1,2,3}``."""
    return f"{{{','.join(map(str, values))}}}"


def bytes_literal(values: Iterable[bytes]) -> str:
    """Bytes in hexadecimal, as the type ``bytea[]`` reads them."""
    quoted = ['"\\\\x' + value.hex() + '"' for value in values]
    return f"{{{','.join(quoted)}}}"
