"""How the processes of a project share its work, from settings."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from penstock.log.base import Group, Item, Log, Share
from penstock.settings import KafkaLogSettings, Settings


class SplitGroup:
    """Items of some kinds are shared through one group, the others through another."""

    def __init__(self, groups: Mapping[str, Group]) -> None:
        self._groups = groups
        self._each = list(dict.fromkeys(groups.values()))
        self.every_s = min(group.every_s for group in self._each)

    async def join(self, items: Sequence[Item]) -> None:
        """See `Group.join`."""
        for group in self._each:
            await group.join([item for item in items if self._groups[item.kind] is group])

    async def beat(self) -> Share:
        """See `Group.beat`."""
        shares = [await group.beat() for group in self._each]
        return Share(
            frozenset().union(*(share.mine for share in shares)),
            frozenset().union(*(share.shed for share in shares)),
        )

    async def release(self, items: Collection[Item]) -> None:
        """See `Group.release`."""
        for group in self._each:
            await group.release([item for item in items if self._groups[item.kind] is group])

    async def leave(self) -> None:
        """See `Group.leave`."""
        await asyncio.gather(*(group.leave() for group in self._each))


def group(settings: Settings, dsn: str, log: Log, worker: str) -> Group:
    """Leases in the project's database; with Kafka, its consumer groups share the partitions."""
    from penstock.log.leases import LeaseGroup

    lease_s = settings.run.lease
    leases = LeaseGroup(dsn, project=settings.project, worker=worker, lease_s=lease_s)
    if isinstance(settings.log, KafkaLogSettings):
        from penstock.log.kafka.group import SESSION_S
        from penstock.log.kafka.log import KafkaLog

        assert isinstance(log, KafkaLog)
        return SplitGroup(
            {"source": leases, "upkeep": leases, "partition": log.group(min(lease_s, SESSION_S))}
        )
    return leases
