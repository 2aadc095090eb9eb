"""Every two faults that can be together come together; what cannot be says why."""

from __future__ import annotations

import random

import pytest

from penstock.errors import ConfigError
from penstock.torture.kinds import COMMANDED, MEANINGS, Fault, Setting, why_not
from penstock.torture.pairs import WIDTH, can_be_together, cover, pairs_of
from penstock.torture.plan import make_plan

SETTINGS = (
    Setting(),
    Setting(workers=3, partitions=4),
    Setting(log="kafka"),
    Setting(source="mariadb"),
    Setting(source="mariadb", log="kafka", workers=2, partitions=8),
)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(s.words()) or "default")
def test_every_pair_that_can_be_together_is_in_the_plan(setting: Setting) -> None:
    """In rows of a few; by the same seed again, the same plan."""
    kinds = [fault for fault in Fault if why_not(fault, setting) is None]
    plan = make_plan(3, 30, setting=setting, pairs=True)
    assert plan == make_plan(3, 30, setting=setting, pairs=True)
    rows = [what.faults for what in plan if what.also]
    assert all(len(set(row)) == len(row) <= WIDTH for row in rows)
    assert set().union(*map(pairs_of, rows)) == pairs_of(kinds)
    assert all(can_be_together(one, other) for row in rows for one in row for other in row[1:]
               if one is not other)  # fmt: skip
    # Three pairs in each row would be the least.
    assert len(rows) < len(pairs_of(kinds)) / 2


def test_rows_follow_from_chance() -> None:
    """And two chances differ."""
    kinds = list(Fault)
    assert cover(kinds, random.Random(1)) == cover(kinds, random.Random(1))
    assert cover(kinds, random.Random(1)) != cover(kinds, random.Random(2))


def test_what_cannot_be_together() -> None:
    """Two commands, a command to a database that is full, two manners of one wire."""
    assert not can_be_together(*list(COMMANDED)[:2])
    assert not can_be_together(Fault.REPLAYED, Fault.DISK_FULL)
    assert not can_be_together(Fault.SLOW_SOURCE, Fault.BYTEWISE_SOURCE)
    assert can_be_together(Fault.SLOW_SOURCE, Fault.SLOW_DATABASE)
    assert can_be_together(Fault.KILL, Fault.KILL_DATABASE)


def test_faults_that_a_setting_does_not_have_say_why() -> None:
    """Each fault is possible somewhere."""
    for fault in Fault:
        assert fault in MEANINGS
        reasons = [why_not(fault, setting) for setting in SETTINGS]
        assert None in reasons
        assert all(reason is None or "--" in reason for reason in reasons)
    given = Setting(log="kafka://127.0.0.1:9092")
    assert "not ours to break" in str(why_not(Fault.KILL_BROKER, given))
    for wrong in (Setting(source="oracle"), Setting(log="pulsar")):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="expected --"):
            wrong.check()
