"""The pipeline that publishes changes: Debezium's messages of each, for a broker.

Publishing is an effect like any other: computed here, done inside the transaction that moves the
position. The broker is no part of that transaction, so after a crash messages may come again:
at least once, in order per key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

from penstock.debezium.messages import Message, MessageEncoder
from penstock.errors import BadRecordError
from penstock.pipelines.base import Outcome, Rejected, Tools
from penstock.records import DOCUMENTS, UNREADABLE, Change, Op
from penstock.stores.base import Publish

PREFIX = "publish_"
"""What the names of such pipelines begin with: a context's age does not wait for them."""


@dataclass(frozen=True)
class PublishPipeline:
    """Publishes changes of the streams that ``tables`` (names and globs) means."""

    name: str
    topics: tuple[str, ...]
    destination: str
    tables: tuple[str, ...]
    prefix: str
    version: str
    schemas: bool = False
    tombstones: bool = True
    truncates: bool = False
    streams: frozenset[str] | None = None

    @cached_property
    def _encoder(self) -> MessageEncoder:
        return MessageEncoder(
            self.prefix, version=self.version, schemas=self.schemas, tombstones=self.tombstones
        )

    async def compute(self, changes: Sequence[Change], tools: Tools) -> Outcome:  # noqa: ARG002 - a pipeline may ask; this one need not
        """See `publish`."""
        return self.publish(changes)

    def publish(self, changes: Sequence[Change]) -> Outcome:
        """One effect with the messages of all changes, in order."""
        messages: list[Message] = []
        rejected: list[Rejected] = []
        for change in changes:
            if not self._takes(change.schema.stream):
                continue
            if change.op is Op.TRUNCATE and (not self.truncates or _sweeps(change)):
                continue
            try:
                messages += self._encoder.messages(change)
            except BadRecordError as error:
                rejected.append(Rejected(change, error.reason))
        return Outcome((Publish(self.destination, messages),) if messages else (), rejected)

    def _takes(self, stream: str) -> bool:
        if stream in {DOCUMENTS, UNREADABLE}:
            return False
        return any(stream == name or fnmatchcase(stream, name) for name in self.tables)


def _sweeps(change: Change) -> bool:
    """Whether a truncate ends a copy, or begins a repair, of ours: it takes only what is older than
    its position, and consumers, who know no positions, would be left with nothing."""
    return change.transaction is None
