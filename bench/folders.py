"""How quick is the folder source alone? `python bench/folders.py 12000` prints JSON.

First load, nothing changed and run again, a write until its batch, and idle processor time.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from penstock.sources.files import FilesSource

WRITES = 200
IDLE_S = 5.0


async def until_in_step(root: Path, state: dict[str, str]) -> tuple[float, int]:
    """Read until the source says that it has seen everything: seconds and changes."""
    source = FilesSource("docs", root)
    began, changes = time.perf_counter(), 0
    async for batch in source.read(dict(state)):
        changes += len(batch.changes)
        state.update({name: value for name, value in batch.state.items() if value is not None})
        if batch.as_of is not None:
            break
    took = time.perf_counter() - began
    await source.close()
    return took, changes


async def write_to_batch(root: Path, state: dict[str, str], names: list[str]) -> list[float]:
    """Milliseconds from before a write to the batch that carries it; then a while of nothing."""
    seen: asyncio.Queue[tuple[str, float]] = asyncio.Queue()

    async def follow() -> None:
        async for batch in FilesSource("docs", root).read(dict(state)):
            for change in batch.changes:
                seen.put_nowait((str(change.key[0]), time.perf_counter()))

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.5)
    taken = []
    for number in range(WRITES):
        name = names[number % len(names)]
        began = time.perf_counter()
        (root / name).write_text(f"changed {number}")
        while (found := await seen.get())[0] != name:
            pass
        taken.append((found[1] - began) * 1000)
        await asyncio.sleep(0.005)
    used, began = time.process_time(), time.perf_counter()
    await asyncio.sleep(IDLE_S)
    idle = (time.process_time() - used) / (time.perf_counter() - began) * 100
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return [*statistics.quantiles(taken, n=20)[9::9], idle]


async def main(files: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = [f"{number // 100}/{number}.md" for number in range(files)]
        for number, name in enumerate(names):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(f"# Title {number}\n\n" + f"some words here {number}. " * 40)
        await asyncio.sleep(0.1)
        state: dict[str, str] = {}
        load_s, changes = await until_in_step(root, state)
        again_s = statistics.median([(await until_in_step(root, state))[0] for _ in range(5)])
        p50, p95, idle = await write_to_batch(root, state, names)
    result = {
        "files": files,
        "first_load_files_per_s": round(changes / load_s),
        "nothing_changed_s": round(again_s, 4),
        "write_to_batch_ms": {"p50": round(p50, 2), "p95": round(p95, 2)},
        "idle_cpu_percent": round(idle, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1200))
