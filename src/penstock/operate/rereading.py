"""Live tables that the stream alone cannot make right are read again, by themselves.

The store marks them, with the reason, and takes the mark away in the transaction that empties the
table for its copy. So the wish outlives any process; what is remembered here only saves asking
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from penstock.sources.base import RereadableSource, Source

if TYPE_CHECKING:
    from penstock.stores.postgres.live_tables import LiveTable
    from penstock.stores.postgres.store import PostgresStore

logger = structlog.get_logger("penstock.rereading")


class Rereading:
    """Asks the running sources for the tables that are marked; `ask` is a chore."""

    def __init__(self, store: PostgresStore, sources: Callable[[], Sequence[Source]]) -> None:
        self._store = store
        self._sources = sources
        self._running: dict[str, Source] = {}
        self._asked: dict[tuple[str, str], tuple[str | None, str | None]] = {}

    async def ask(self) -> None:
        """Ask for each marked table, once for each mark."""
        marked = [table for table in await self._store.live_tables() if table.reread]
        names = {(table.source, table.stream) for table in marked}
        self._asked = {name: mark for name, mark in self._asked.items() if name in names}
        running = {source.name: source for source in self._sources()}
        for name in [name for name in self._asked if running.get(name[0]) is not self._known(name)]:
            del self._asked[name]  # it was begun anew since, and has forgotten
        self._running = running
        for table in marked:
            await self._ask_for(table)

    def _known(self, name: tuple[str, str]) -> Source | None:
        return self._running.get(name[0])

    async def _ask_for(self, table: LiveTable) -> None:
        source = self._running.get(table.source)
        name, mark = (table.source, table.stream), (table.columns_at, table.reread)
        if source is None or self._asked.get(name) == mark:
            return
        if not isinstance(source, RereadableSource):
            self._asked[name] = mark
            logger.warning(
                "table.in_doubt",
                source=table.source,
                table=table.stream,
                reason=table.reread,
                mend="have its producer send the table again (Debezium: an incremental snapshot)",
            )
            return
        logger.info("table.rereading", source=table.source, table=table.stream, reason=table.reread)
        await source.reread_streams([table.stream])
        self._asked[name] = mark
