"""How many changed deliveries are taken (none may be), and how many honest ones a second.

`python bench/webhooks.py [NUMBER]` writes bench/results/webhooks.json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from penstock.bench.report import machine
from penstock.sources.webhook.signatures import Signed, secret_bytes, verify
from penstock.testing.webhooks import SECRET, mutated, signed_headers

RESULTS = Path(__file__).parent / "results" / "webhooks.json"
NOW_S = 1_790_000_000.0


def main(number: int) -> None:
    secrets = [secret_bytes(SECRET)]
    taken = 0
    bodies = [json.dumps({"id": i, "note": "x" * (i % 300)}).encode() for i in range(1000)]
    honest = [
        (signed_headers(f"msg_{i}", body, now_s=NOW_S), body) for i, body in enumerate(bodies)
    ]
    for seed in range(number):
        headers, body = mutated(*honest[seed % len(honest)], seed)
        taken += isinstance(verify(secrets, headers, body, NOW_S), Signed)
    begin = time.perf_counter()
    good = sum(isinstance(verify(secrets, *one, NOW_S), Signed) for one in honest * 20)
    rate = good / (time.perf_counter() - begin)
    assert good == len(honest) * 20
    found = {
        "name": "webhooks",
        "date": time.strftime("%Y-%m-%d"),
        "mutated": number,
        "accepted": taken,
        "limit_accepted": 0,
        "honest_verified_per_s": round(rate),
        "machine": machine(),
    }
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    if taken:
        sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
