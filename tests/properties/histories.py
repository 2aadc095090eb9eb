"""How many histories a property tries: some each time, and as many as `bench/histories.py` asks."""

from __future__ import annotations

import os


def examples(usual: int) -> int:
    """So many, or what the variable PENSTOCK_HISTORIES says."""
    return int(os.environ.get("PENSTOCK_HISTORIES", usual))
