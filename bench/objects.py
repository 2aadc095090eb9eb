"""What a listing of a million objects takes, beside what is known of them.

`python bench/objects.py [NUMBER]` writes bench/results/objects.json. The store is in memory, so
that the source itself is measured: pages of 1,000 as S3 gives them, all objects known but for one
that is new, and one that is gone.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import psutil

from penstock.bench.report import machine
from penstock.sources.objects import ObjectsSource, Place
from penstock.sources.objects.bucket import Listed

RESULTS = Path(__file__).parent / "results" / "objects.json"
PAGE = 1000


def listed(number: int) -> Listed:
    key = f"{number % 997:03d}/report-{number:08d}.md"
    return Listed(key, f"{number:032x}", 100 + number % 900, 1_790_000_000_000_000_000)


class Many:
    """``number`` objects; the first is gone, and there is one more."""

    def __init__(self, number: int) -> None:
        self.number = number

    async def pages(self) -> AsyncGenerator[Sequence[Listed]]:
        for start in range(1, self.number + 1, PAGE):
            await asyncio.sleep(0)
            yield [listed(n) for n in range(start, min(start + PAGE, self.number + 1))]

    async def look(self, key: str) -> Listed | None:
        number = int(key[-11:-3])
        return None if number == 0 else listed(number)

    async def get(self, version: Listed) -> bytes:
        return b"x" * version.size

    async def close(self) -> None:
        pass


def rss() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


async def main(number: int) -> None:
    begin = rss()
    state = {
        f"file:{one.key}": f"{one.signature}{n:064x}" for n in range(number) for one in [listed(n)]
    }
    state |= {"loaded": "1", "sequence": str(number), "extraction": "1"}
    held = rss()
    source = ObjectsSource("docs", Place("b"), open_bucket=lambda: Many(number), relist_s=3600)
    started = time.perf_counter()
    changes = 0
    peak = held
    async for batch in source.read(state):
        changes += len(batch.changes)
        peak = max(peak, psutil.Process().memory_info().rss)
        if batch.as_of is not None:
            break
    elapsed = time.perf_counter() - started
    found = {
        "name": "objects",
        "objects": number,
        "changes": changes,
        "state_mb": round((held - begin) / 1e6),
        "listing_adds_mb": round((peak - held) / 1e6),
        "listing_adds_bytes_per_object": round((peak - held) / number),
        "objects_compared_per_s": round(number / elapsed),
        "limit": "state_mb: what the log holds of the source, which every source loads",
        "machine": machine(),
    }
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    assert changes == 2, changes


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
