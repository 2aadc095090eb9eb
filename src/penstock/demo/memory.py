"""The peak memory of the demo: this process and the servers that it started."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType
from typing import Self

import psutil


def _share(process: psutil.Process) -> int:
    """Bytes of one process; memory shared with others counts in part (PSS) where known."""
    with contextlib.suppress(psutil.Error, OSError):
        full = process.memory_full_info()
        return int(getattr(full, "pss", 0) or full.rss)
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


class PeakMemory:
    """Looks twice a second, as a context manager; ``peak_mb`` is the most that was seen."""

    def __init__(self, every_s: float = 0.5) -> None:
        self._every_s = every_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, name="peak memory", daemon=True)
        self._peak = 0

    @property
    def peak_mb(self) -> float:
        """In megabytes of a million bytes."""
        return round(self._peak / 1e6, 1)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        me = psutil.Process()
        while not self._stopped.wait(self._every_s):
            with contextlib.suppress(psutil.Error):
                family = [me, *me.children(recursive=True)]
                self._peak = max(self._peak, sum(_share(process) for process in family))
