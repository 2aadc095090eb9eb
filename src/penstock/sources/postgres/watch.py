"""What the heartbeat looks for beside time: publications and keys that somebody took away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, LiteralString

import psycopg

from penstock.errors import RetryableError
from penstock.sources.postgres.catalogue import fetch
from penstock.sources.postgres.parking import fetch_capturable
from penstock.sources.postgres.publication import check_publication

_LIVES: Final[LiteralString] = "SELECT count(*) FROM pg_publication WHERE pubname = %s"


async def look_around(
    connection: psycopg.AsyncConnection,
    what: str,
    publication: str,
    streams: Iterable[str],
    parked: Sequence[str],
) -> list[str]:
    """The streams that can no longer be captured.

    Raises `DoubtError` when the publication leaves kinds of changes out, `RetryableError` when it
    is gone, or when a table that was left out can be captured again: begin anew.
    """
    if (await fetch(connection, what, _LIVES, (publication,)))[0][0] == 0:
        raise RetryableError(
            f"publication {publication!r} of {what} is gone: it is made again, and its tables are "
            "copied anew, because changes may be missing"
        )
    await check_publication(connection, what, publication)
    able = await fetch_capturable(connection, what, [*streams, *parked])
    mended = [stream for stream in parked if able.get(stream)]
    if mended:
        raise RetryableError(f"table {mended[0]!r} of {what} can be captured again: it is copied")
    return [stream for stream in streams if able.get(stream) is False]
