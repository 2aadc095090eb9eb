"""L5: the changes of one key are in one partition."""

from __future__ import annotations

from penstock.log.base import Log
from penstock.records import Key, Op
from penstock.testing.logs.instances import Instances
from penstock.testing.logs.sample import change, changes_of, keys


class KeySuite(Instances):
    """Which partition has which change."""

    async def test_l5_a_key_stays_in_one_partition(self, log: Log, other: Log) -> None:
        """Whichever instance appends, in the order of appending, and keys are spread."""
        await log.create_topic("t", 4)
        for instance, name in ((log, "a"), (other, "b"), (log, "c")):
            producer = await instance.open_producer(name)
            await producer.append("t", [change(i, name) for i in range(40)])
        where: dict[str, set[int]] = {}
        for partition in range(4):
            found = await changes_of(other, "t", partition)
            assert found
            for key in set(keys(found)):
                where.setdefault(key, set()).add(partition)
                names = [each.value("name") for each in found if each.key == (key,)]
                assert names == ["a", "b", "c"]
        assert len(where) == 40
        assert all(len(partitions) == 1 for partitions in where.values())

    async def test_l5_a_truncate_is_in_all_partitions(self, log: Log, other: Log) -> None:
        """In each of them after what was appended before it."""
        await log.create_topic("t", 3)
        producer = await log.open_producer("p")
        batch = [*(change(i) for i in range(20)), change(None, op=Op.TRUNCATE), change(99)]
        await producer.append("t", batch)
        for partition in range(3):
            ops = [each.op for each in await changes_of(other, "t", partition)]
            assert ops.count(Op.TRUNCATE) == 1
            assert Op.TRUNCATE in ops[-2:]

    async def test_l5_a_moved_key_is_in_the_partitions_of_both(self, log: Log) -> None:
        """So the reader of either key sees the move among its changes."""
        await log.create_topic("t", 8)
        producer = await log.open_producer("p")
        await producer.append("t", [change(i) for i in range(50)])
        moves = [change(i + 1)._replace(op=Op.UPDATE, old_key=(str(i),)) for i in range(0, 50, 2)]
        await producer.append("t", moves)
        touched: dict[Key, list[Op]] = {}
        for partition in range(8):
            found = await changes_of(log, "t", partition)
            own = {each.key for each in found if each.op is Op.CREATE}
            for each in found:
                for key in {each.key, each.old_key or each.key} & own:
                    touched.setdefault(key, []).append(each.op)
        assert len(touched) == 50
        assert all(ops == [Op.CREATE, Op.UPDATE] for ops in touched.values())
