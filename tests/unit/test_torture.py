"""What judges the campaigns is judged: the plan, the ledger, the orders, the proxy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from penstock import boundaries
from penstock.boundaries import POINTS, Boundary, Point
from penstock.records import Change, Column, Microseconds, Op, Position, Row, Schema
from penstock.torture import people
from penstock.torture.kinds import DEFAULT, KILLS, Fault, why_not
from penstock.torture.ledger import Judge
from penstock.torture.plan import make_plan
from penstock.torture.proxy import Proxy, rewritten_frontend
from penstock.torture.trap import Order, Trap

ORDERS = Schema(
    "shop",
    "public.orders",
    (Column("id", "integer", key=True), Column("version", "bigint"), Column("note", "text")),
)


def change(
    op: Op,
    key: str,
    at: int,
    version: int | None = None,
    *,
    old_key: str | None = None,
    before: Row | None = None,
    copy: bool = False,
) -> Change:
    """One change of one row."""
    return Change(
        ORDERS,
        op,
        () if op is Op.TRUNCATE else (key,),
        Position(f"{at:04}"),
        Microseconds(at),
        None if version is None else (key, str(version), "note"),
        before,
        None if old_key is None else (old_key,),
        None if copy or op is Op.READ else "7",
    )


def judged(*changes: Change) -> tuple[int, int, int]:
    judge = Judge()
    judge.copying("public.orders", begins=False)
    judge.judge(changes)
    return judge.lost, judge.duplicated, judge.out_of_order


HISTORY = (
    change(Op.CREATE, "1", 1, 1),
    change(Op.UPDATE, "1", 2, 2),
    change(Op.UPDATE, "2", 3, 1, old_key="1"),
    change(Op.CREATE, "1", 4, 3),
    change(Op.DELETE, "1", 5),
    change(Op.CREATE, "1", 6, 4),
    change(Op.TRUNCATE, "", 7),
    change(Op.CREATE, "2", 8, 2),
)


def test_a_history_without_fault_is_not_accused() -> None:
    """Created, moved, deleted, truncated, created again."""
    assert judged(*HISTORY) == (0, 0, 0)


@pytest.mark.parametrize("place", [1, 2, 3, 4, 6])
def test_g2_a_missing_change_is_seen(place: int) -> None:
    """Whichever it is: an update, a move, a delete, a truncate."""
    lost, _, _ = judged(*HISTORY[:place], *HISTORY[place + 1 :])
    assert lost > 0


def test_g2_a_repeated_change_is_seen() -> None:
    """At its own position, and as a new one."""
    assert judged(*HISTORY[:2], HISTORY[1])[1] == 1
    assert judged(*HISTORY[:2], change(Op.UPDATE, "1", 3, 2))[2] == 1


def test_g1_a_step_back_is_seen() -> None:
    """Two changes of one key change places."""
    assert judged(HISTORY[0], change(Op.UPDATE, "1", 2, 3), change(Op.UPDATE, "1", 3, 2))[2] == 1


def test_a_copy_may_jump_ahead_and_not_back() -> None:
    """What happened between the log and the copy is in the copy; what was not copied is gone."""
    judge = Judge()
    judge.copying("public.orders", begins=False)
    judge.judge(HISTORY[:2])
    judge.copying("public.orders", begins=True)
    judge.judge([change(Op.UPDATE, "9", 3, 4), change(Op.READ, "1", 4, 9)])
    judge.judge([change(Op.TRUNCATE, "", 3, copy=True)])
    judge.copying("public.orders", begins=False)
    judge.judge([change(Op.UPDATE, "1", 7, 10), change(Op.CREATE, "2", 8, 5)])
    assert (judge.lost, judge.duplicated, judge.out_of_order) == (0, 0, 0)
    judge.judge([change(Op.UPDATE, "1", 9, 12)])
    assert judge.lost == 1
    assert judged(*HISTORY[:2], change(Op.READ, "1", 6, 1))[2] == 1


def test_a_row_of_a_copy_that_is_not_complete_may_jump_too() -> None:
    """An update that leaves values out is put off until the row is read by its key; after the copy
    there is no such excuse, and a step back has none at any time."""
    judge = Judge()
    judge.judge([change(Op.READ, "1", 1, 1), change(Op.UPDATE, "1", 2, 3)])
    assert (judge.lost, judge.out_of_order) == (0, 0)
    judge.judge([change(Op.UPDATE, "1", 3, 3)])
    assert judge.out_of_order == 1
    judge.copying("public.orders", begins=False)
    judge.judge([change(Op.UPDATE, "1", 4, 5)])
    assert judge.lost == 1


def test_rows_that_trade_keys_are_told_apart() -> None:
    """By the version that the source sends of the row that leaves."""
    assert judged(
        change(Op.CREATE, "1", 1, 1),
        change(Op.CREATE, "2", 2, 1),
        change(Op.UPDATE, "2", 3, 2, old_key="1", before=("1", "1", "note")),
        change(Op.UPDATE, "1", 4, 2, old_key="2", before=("2", "1", "note")),
        change(Op.UPDATE, "1", 5, 3),
        change(Op.UPDATE, "2", 6, 3),
    ) == (0, 0, 0)


def test_g2_the_end_of_the_log_is_compared_with_the_ledger() -> None:
    """The last changes of a key leave no gap behind them."""
    judge = Judge()
    judge.judge(HISTORY[:2])
    judge.compare({("public.orders", ("1",)): 4})
    assert judge.lost == 2
    judge.compare({("public.orders", ("1",)): 1})
    assert judge.duplicated == 1


def test_a_plan_follows_from_its_seed() -> None:
    """And has every fault and every boundary, before and after."""
    plan = make_plan(5, 40)
    assert plan == make_plan(5, 40)
    assert plan != make_plan(6, 40)
    assert {what.fault for what in plan} == {f for f in Fault if why_not(f, DEFAULT) is None}
    assert {what.point for what in plan if what.fault is Fault.KILL_AT} >= set(POINTS)
    assert 40 <= sum(KILLS.get(what.fault, 0) for what in plan) < 46


def test_an_order_is_obeyed_at_its_place_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not earlier, not elsewhere, and once."""
    ended: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, number: ended.append(number))
    file = tmp_path / "orders"
    boundaries.listen(Trap(file))
    try:
        Order(Point(Boundary.APPEND, "after"), 2, "kill").write(file)
        for side in ("before", "after", "before"):
            boundaries.reach(Boundary.APPEND, "after" if side == "after" else "before")
        assert not ended
        boundaries.reach(Boundary.APPEND, "after")
        boundaries.reach(Boundary.APPEND, "after")
        assert ended == [9]
    finally:
        boundaries.listen(None)


def test_confirmations_are_held_back_and_the_stream_begins_again() -> None:
    """The proxy rewrites what a client tells PostgreSQL, however it is cut into packets."""
    proxy = Proxy(replication=True)
    proxy.hold_back()
    rewritten = rewritten_frontend(proxy)
    startup = (8).to_bytes(4) + (3 << 16).to_bytes(4)
    status = b"d" + (38).to_bytes(4) + b"r" + b"".join(n.to_bytes(8) for n in (5, 5, 5, 1)) + b"\0"
    later = b"d" + (38).to_bytes(4) + b"r" + b"".join(n.to_bytes(8) for n in (9, 9, 9, 1)) + b"\0"
    query = b"START_REPLICATION SLOT \"s\" LOGICAL 1A/2B3C (proto_version '1')\0"
    sent = startup + status + later + b"Q" + (len(query) + 4).to_bytes(4) + query
    got = b"".join(rewritten(sent[i : i + 7]) for i in range(0, len(sent), 7))
    begun = query.replace(b"1A/2B3C", b"0/0")
    assert got == startup + status + status + b"Q" + (len(begun) + 4).to_bytes(4) + begun


async def test_a_connection_is_slowed_cut_and_forgotten() -> None:
    """What goes in comes out, one byte at a time too; a cut ends it; a forgotten one is silent."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = Proxy()
    await proxy.open(server.sockets[0].getsockname()[1])
    try:
        for manner in ("through", "slow", "bytewise"):
            proxy.manner = manner
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"there and back")
            assert await reader.readexactly(14) == b"there and back"
            proxy.cut(reset=manner == "slow")
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.close()
        proxy.manner = "through"
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"x")
        await reader.readexactly(1)
        proxy.forget()
        writer.write(b"y")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(1), 0.3)
        writer.close()
    finally:
        await proxy.close()
        server.close()


def test_who_is_who_is_told_from_rows_alone() -> None:
    """Shared names and desks tie, what too many share does not."""
    orders = [(1, "Ada", 7), (2, "Ada", 8), (3, None, 8), (4, "Bo", 9)]
    crowd = [(n, "info", None) for n in range(10, 10 + people.SHARED_BY + 1)]
    found = people.parties({"o": [*orders, *crowd], "p": [("c1", "Bo"), ("c2", None)]})
    alone = {frozenset({("o", str(key))}) for key, *_ in crowd}
    assert found == {
        frozenset({("o", "1"), ("o", "2"), ("o", "3")}),
        frozenset({("o", "4"), ("p", "c1")}),
        frozenset({("p", "c2")}),
        *alone,
    }
    stored = [("x-1", "o", "1"), ("x-1", "o", "2"), (None, "p", "c2")]
    assert people.held(stored) - found == {
        frozenset({("o", "1"), ("o", "2")}),
        frozenset({("p", "c2"), ("", "")}),
    }
