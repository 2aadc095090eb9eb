"""How the columns of a live table follow those of its source. Pure.

A stream says which columns it has, in order, but not which of them are the same as before. Same
name is the same column. A column that is new at the place, and with the type, of one that is gone
is that column renamed: databases add columns at the end only, so where columns known from before
follow it there is no other reading. At the end there is: drop the last, add another. Then the
values are kept and the table is said to need reading again, as whenever the source may hold values
that no change has carried (defaults of added columns, values converted by an expression).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from penstock.records import Column

_INTEGERS: Final = ("smallint", "integer", "bigint", "numeric")
_LIMITED: Final = re.compile(r"(character varying|numeric)\((\d+)(?:,(-?\d+))?\)")


@dataclass(frozen=True, slots=True)
class Evolution:
    """What to do, in this order; ``doubts`` are sentences about values that may differ."""

    drop: Sequence[str] = ()
    rename: Sequence[tuple[str, str]] = ()
    retype: Sequence[Column] = ()
    add: Sequence[Column] = ()
    new_key: bool = False
    doubts: Sequence[str] = field(default_factory=tuple)


def evolution(old: Sequence[Column], new: Sequence[Column]) -> Evolution:
    """The steps from one list of columns to another."""
    pairs, drop, add, doubts = _align(old, new)
    retype: list[Column] = []
    for before, now in pairs:
        if before.type != now.type:
            retype.append(now)
            if not keeps_values(before.type, now.type):
                doubts.append(f"{now.name!r} changed from {before.type} to {now.type}")
    doubts.extend(f"{column.name!r} was added" for column in add)
    keys = [now.name for _, now in pairs if now.key] + [c.name for c in add if c.key]
    renamed = {before.name: now.name for before, now in pairs}
    was = [renamed.get(column.name) for column in old if column.key]
    return Evolution(
        drop=[column.name for column in drop],
        rename=[(before.name, now.name) for before, now in pairs if before.name != now.name],
        retype=retype,
        add=add,
        new_key=set(keys) != set(was),
        doubts=doubts,
    )


def _align(
    old: Sequence[Column], new: Sequence[Column]
) -> tuple[list[tuple[Column, Column]], list[Column], list[Column], list[str]]:
    """Which column is which: pairs, dropped, added, and doubts about renaming."""
    was = {column.name: column for column in old}
    names = {column.name for column in new}
    pairs: list[tuple[Column, Column]] = []
    drop: list[Column] = []
    add: list[Column] = []
    open_renames: list[tuple[Column, Column]] = []
    rest = [column for column in old if column.name in names]
    doubts: list[str] = []
    if [column.name for column in rest] != [c.name for c in new if c.name in was]:
        doubts.append("columns changed their order, so some may have traded names")
    i = 0
    for now in new:
        while i < len(old) and old[i].name not in names and now.name in was:
            drop.append(old[i])
            i += 1
        if now.name in was:
            pairs.append((was[now.name], now))
            open_renames.clear()  # a known column follows: they were renamed, without doubt
            i += 1
            continue
        while i < len(old) and old[i].name not in names and old[i].type != now.type:
            drop.append(old[i])
            i += 1
        if i < len(old) and old[i].name not in names:
            pairs.append((old[i], now))
            open_renames.append((old[i], now))
            i += 1
        else:
            add.append(now)
    drop.extend(column for column in old[i:] if column.name not in names)
    doubts.extend(
        f"{before.name!r} became {now.name!r}, or was dropped and {now.name!r} added"
        for before, now in open_renames
    )
    return pairs, drop, add, doubts


def keeps_values(before: str, now: str) -> bool:
    """Whether changing the type leaves every value as it is (so that no expression was needed)."""
    if before in _INTEGERS and now in _INTEGERS:
        return _INTEGERS.index(before) < _INTEGERS.index(now)
    limit = _LIMITED.fullmatch(before)
    kind = limit[1] if limit else before
    if kind == "character varying" and now in {"text", "character varying"}:
        return True
    if limit is None:
        return False
    if now == kind:
        return True
    wider = _LIMITED.fullmatch(now)
    return (
        wider is not None
        and wider[1] == kind
        and int(wider[2]) >= int(limit[2])
        and wider[3] == limit[3]
    )
