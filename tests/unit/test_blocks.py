"""Money that is put aside for several calls: how much, and whose."""

from __future__ import annotations

from penstock.models.gateway.blocks import Blocks

ADA, BOB = ("acme", "ada"), ("acme", "bob")


def test_a_block_is_taken_from_on_its_day_only() -> None:
    blocks = Blocks()
    assert not blocks.take(ADA, "2026-01-01", 1, 0.0)
    assert blocks.put(ADA, "2026-01-01", 10, 0.0) is None
    assert blocks.take(ADA, "2026-01-01", 6, 0.5)
    assert not blocks.take(ADA, "2026-01-01", 6, 0.5)
    assert not blocks.take(BOB, "2026-01-01", 1, 0.5)
    assert not blocks.take(ADA, "2026-01-02", 1, 0.5)
    assert blocks.put(ADA, "2026-01-02", 3, 0.6) == ("2026-01-01", 4)
    assert list(blocks.idle(1.5)) == []
    assert list(blocks.idle(1.6)) == [(ADA, "2026-01-02", 3)]
    assert not blocks


def test_blocks_are_a_small_part_of_a_budget() -> None:
    """Of one key a hundredth, of a tenant's keys together about a twentieth: then call by call."""
    blocks = Blocks()
    assert blocks.size("acme", 10, (None, None)) == 10
    assert blocks.size("acme", 10, (100_000, 500)) == 10
    assert blocks.size("acme", 10, (10_000, None)) == 100
    assert blocks.size("acme", 10, (10**9, None)) == 160
    for number in range(6):
        blocks.put(("acme", str(number)), "d", 100, 0.0)
    assert blocks.size("acme", 10, (10_000, None)) == 10
    assert blocks.size("other", 10, (10_000, None)) == 100
