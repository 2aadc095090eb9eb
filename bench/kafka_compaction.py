"""What one record per row would cost, beside a batch per append: bytes, and the codec's time.

A compacted topic needs a record for each key; our log has one for each append. The same changes are
encoded and decoded in both ways, in one run. `python bench/kafka_compaction.py` stores the result.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from penstock.bench.report import machine
from penstock.log.codec import Codec
from penstock.records import Change, Column, Microseconds, Op, Position, Schema

ROWS = 20_000
RESULT = Path(__file__).parent / "results" / "kafka_compaction.json"
HEAD_BYTES = 70
"""What Kafka adds to a record at least (lengths, deltas, offsets) and we do (`frames`)."""


def changes() -> list[Change]:
    names = ("id", "customer", "note", "total", "placed", "status")
    schema = Schema("shop", "public.orders", tuple(Column(n, "text", n == "id") for n in names))
    return [
        Change(
            schema,
            Op.UPDATE,
            (str(i),),
            Position(f"0000000001A2B3C4/{i:08X}"),
            Microseconds(1_790_000_000_000_000 + i),
            (
                str(i),
                f"Customer {i}",
                "A note of some words.",
                f"{i}.00",
                "2026-11-25 10:00",
                "open",
            ),
            None,
            None,
            "4711",
        )
        for i in range(ROWS)
    ]


def timed(batches: list[list[Change]]) -> tuple[int, float, float]:
    """Bytes, and changes per second encoded and decoded."""
    codec = Codec()
    began = time.perf_counter()
    payloads = [codec.encode(batch).payload for batch in batches]
    encoded = time.perf_counter()
    for payload in payloads:
        codec.decode(payload)
    decoded = time.perf_counter()
    size = sum(len(payload) + HEAD_BYTES for payload in payloads)
    return size, ROWS / (encoded - began), ROWS / (decoded - encoded)


def main() -> None:
    rows = changes()
    timed([rows])
    together = timed([rows[i : i + 5000] for i in range(0, ROWS, 5000)])
    apart = timed([[row] for row in rows])
    found = {
        "rows": ROWS,
        "bytes_per_change": {"batches": together[0] / ROWS, "records": apart[0] / ROWS},
        "encoded_per_s": {"batches": round(together[1]), "records": round(apart[1])},
        "decoded_per_s": {"batches": round(together[2]), "records": round(apart[2])},
        "ratio": {
            "bytes": round(apart[0] / together[0], 1),
            "encode": round(apart[1] / together[1], 3),
            "decode": round(apart[2] / together[2], 3),
        },
        "machine": machine(),
    }
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
