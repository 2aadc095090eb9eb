"""Which partition a change belongs to."""

from __future__ import annotations

from penstock.log.partitions import parted, partitions_of
from penstock.records import Microseconds, Op
from penstock.testing.logs import change


def test_l5_partitions_never_move() -> None:
    """These are stored: another number for a key would break the order of its changes."""
    places = [list(partitions_of(change(key), 16)) for key in ("1", "2", "a longer key", "é", "")]
    assert places == [[5], [15], [0], [5], [15]]
    absent = change("1")._replace(key=(None, "\udcff"))
    assert list(partitions_of(absent, 16)) == [6]


def test_streams_do_not_share_the_place_of_a_key() -> None:
    """Tables with the same keys are spread too."""
    places = {partitions_of(change("1", stream=f"s{i}"), 8)[0] for i in range(50)}
    assert len(places) == 8


def test_one_partition_gets_everything() -> None:
    """Without looking at keys, and nothing when there is neither change nor time."""
    changes = [change(1), change(None, op=Op.TRUNCATE), change(2)]
    assert parted(changes, None, 1) == {0: changes}
    assert parted([], None, 1) == {}
    assert parted([], Microseconds(1), 1) == {0: []}
    assert list(parted([change(1)], Microseconds(1), 3)) == [0, 1, 2]
