"""Who takes what, and what several workers report together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.log.base import Item
from penstock.log.leases import plan
from penstock.operate.status import merged

PARTITIONS = [Item("partition", "shop", number) for number in range(8)]


def test_one_alone_takes_everything() -> None:
    assert plan(dict.fromkeys(PARTITIONS), "a", 1).take == PARTITIONS


def test_who_has_more_than_a_share_gives_it_back() -> None:
    """And the newcomer takes only what is free."""
    held: dict[Item, str | None] = dict.fromkeys(PARTITIONS, "a")
    assert plan(held, "a", 2).shed == PARTITIONS[4:]
    assert plan(held, "b", 2) == ([], [])


@given(st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=1, max_size=20))
def test_after_a_few_turns_everything_is_held_and_shared_equally(first: list[str | None]) -> None:
    """Whatever it began with: nothing stays free, and nobody has two more than another."""
    holders = {Item("partition", "t", i): who for i, who in enumerate(first)}
    for _ in range(2):
        for worker in ("a", "b", "c"):
            chosen = plan(holders, worker, 3)
            holders |= dict.fromkeys(chosen.take, worker)
            holders |= dict.fromkeys(chosen.shed)
    counts = [sum(who == worker for who in holders.values()) for worker in ("a", "b", "c")]
    assert None not in holders.values()
    assert max(counts) <= -(-len(first) // 3)


def report(pid: int, state: str, changes: int) -> dict[str, object]:
    part = {
        "pipeline": "tables",
        "topic": "shop",
        "state": state,
        "changes": changes,
        "errors": 0,
        "last_error": None,
        "embedded": 0,
        "reused": 0,
        "dead_letters": 0,
        "freshness_ms": {"samples": changes, "p50": 1.0, "p95": 2.0, "p99": 3.0},
    }
    return {"pid": pid, "host": "here", "sources": [], "pipelines": [part]}


def test_reports_of_workers_are_added_up() -> None:
    """Sums of what was done, and the state that somebody should look at."""
    found = merged([report(1, "running", 3), report(2, "waiting", 4)])
    [pipeline] = found["pipelines"]
    assert (pipeline["changes"], pipeline["state"]) == (7, "waiting")
    assert found["workers"] == ["pid 1 on here", "pid 2 on here"]
