"""Live tables that the stream alone cannot make right are read again, by themselves.

The store marks them, with the reason, and takes the mark away in the transaction that empties the
table for its copy. So the wish outlives any process; what is remembered here only saves asking
twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from penstock.errors import PenstockError
from penstock.sources.base import RereadableSource, Source

if TYPE_CHECKING:
    from penstock.stores.postgres.live_tables import LiveTable
    from penstock.stores.postgres.store import PostgresStore

logger = structlog.get_logger("penstock.rereading")


class Rereading:
    """Asks the running sources for the tables that are marked; `ask` is a chore."""

    def __init__(self, store: PostgresStore, sources: Sequence[Source]) -> None:
        self._store = store
        self._sources = {s.name: s for s in sources}
        self._asked: dict[tuple[str, str], tuple[str | None, str | None]] = {}

    async def ask(self) -> None:
        """Ask for each marked table, once for each mark."""
        marked = [table for table in await self._store.live_tables() if table.reread]
        names = {(table.source, table.stream) for table in marked}
        self._asked = {name: mark for name, mark in self._asked.items() if name in names}
        for table in marked:
            await self._ask_for(table)

    async def _ask_for(self, table: LiveTable) -> None:
        source = self._sources.get(table.source)
        name, mark = (table.source, table.stream), (table.columns_at, table.reread)
        if source is None or self._asked.get(name) == mark:
            return
        self._asked[name] = mark
        if not isinstance(source, RereadableSource):
            logger.warning(
                "table.in_doubt",
                source=table.source,
                table=table.stream,
                reason=table.reread,
                mend="have its producer send the table again (Debezium: an incremental snapshot)",
            )
            return
        logger.info("table.rereading", source=table.source, table=table.stream, reason=table.reread)
        try:
            await source.reread_streams([table.stream])
        except PenstockError:
            del self._asked[name]
            raise
