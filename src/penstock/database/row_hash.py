"""One hash of a row that a source and a live table compute alike."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql


def hash_expression(columns: Sequence[str]) -> sql.Composed:
    """An SQL expression for the MD5 of a row's values as text, NULL told from all of them.

    Each value is preceded by its length, so that no two different rows give the same text. Both
    sides must print values alike: give the columns in the same order, and set datestyle,
    intervalstyle, extra_float_digits, timezone, bytea_output and lc_monetary alike.
    """
    value = sql.SQL(
        "coalesce(octet_length({column}::text)::text || ':' || {column}::text, 'null') || ','"
    )
    parts = [value.format(column=sql.Identifier(column)) for column in columns]
    return sql.SQL("md5({})").format(sql.SQL(" || ").join(parts))
