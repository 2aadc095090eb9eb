"""What the scripts of bench/peers.py share: the corpus's files, the embedders, the clock.

Each is run as ``python bench/peer_NAME.py FOLDER DSN MODEL`` by an environment that has the peer;
MODEL is ``constant`` or a folder of sentence-transformers. Prints JSON on its last line.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

FOLDER, DSN, MODEL = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
REAL = MODEL != "constant"
SIZE, OVERLAP, BATCH = 500, 50, 32

TABLE = np.random.default_rng(0).standard_normal((4096, 384)).astype(np.float32)
LISTS = TABLE.tolist()


def number(text: str) -> int:
    """Which of the table's vectors a text has."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=2).digest(), "big") & 4095


def constant(texts: list[str]) -> list[list[float]]:
    """Vectors in constant time, as lists."""
    return [LISTS[number(text)] for text in texts]


def constant_arrays(texts: list[str]) -> list[Any]:
    """Vectors in constant time, as arrays."""
    return list(TABLE[[number(text) for text in texts]])


def files() -> list[Path]:
    """The documents."""
    return sorted(FOLDER.rglob("*.md"))


class Timed:
    """Wall clock and this process's processor time."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def tell(self, documents: int, chunks: int) -> None:
        """The result, for who started this process."""
        found = {
            "documents": documents,
            "chunks": chunks,
            "seconds": time.perf_counter() - self._wall,
            "cpu_s": time.process_time() - self._cpu,
        }
        print(json.dumps(found), flush=True)
