"""Inside the process under test: end (or stop) at a named boundary when the campaign says so.

The order is one line in a file, ``append.before 3 kill``: at the third time that the boundary is
reached, the process kills itself. The file is looked at each time a boundary is passed, so that an
order can be given while the process runs.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from penstock.boundaries import Boundary, Point, Side, listen

Action: TypeAlias = Literal["kill", "stop"]


class Order(NamedTuple):
    """What shall happen where, and at which time that the place is reached."""

    point: Point
    times: int
    action: Action

    def write(self, file: Path) -> None:
        """Give the order to whoever looks at the file."""
        beside = file.with_suffix(".new")
        beside.write_text(f"{self.point} {self.times} {self.action}\n", encoding="ascii")
        beside.replace(file)

    @classmethod
    def read(cls, text: str) -> Order:
        """As it was written."""
        place, times, action = text.split()
        boundary, _, side = place.partition(".")
        return cls(
            Point(Boundary(boundary), "before" if side == "before" else "after"),
            int(times),
            "stop" if action == "stop" else "kill",
        )


class Trap:
    """Counts how often the ordered place is reached, and acts."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._text = ""
        self._left = 0

    def __call__(self, boundary: Boundary, side: Side) -> None:
        try:
            text = self._file.read_text(encoding="ascii")
        except FileNotFoundError:
            return
        order = Order.read(text)
        if text != self._text:
            self._text, self._left = text, order.times
        if order.point != (boundary, side):
            return
        self._left -= 1
        if self._left > 0:
            return
        self._text = ""
        taken = self._file.with_suffix(f".{os.getpid()}")
        try:
            self._file.rename(taken)  # of several processes that are here at once, one obeys
        except FileNotFoundError:
            return
        taken.unlink()
        os.kill(os.getpid(), signal.SIGKILL if order.action == "kill" else signal.SIGSTOP)


def set_trap(file: Path) -> None:
    """Obey the orders in this file from now on."""
    listen(Trap(file))
