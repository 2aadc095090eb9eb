"""Put every mutant through its campaign: each must be caught, and the true engine must pass.

`python tests/chaos/mutants/try_all.py` runs all and stores the table in
``bench/results/mutants.json``; names on the command line choose some, whose rows there say by
themselves when they were measured; ``--controls`` runs the true engine through the same campaigns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from penstock.bench.report import machine

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from tests.chaos.mutants.catalogue import MUTANTS, Mutant  # noqa: E402 - tests is no package

RESULTS = ROOT / "bench" / "results" / "mutants.json"
PATIENCE_S = 40


def torture(campaign: str, seed: int, engine: Path | None = None) -> dict[str, Any]:
    """The campaign's report."""
    command = [sys.executable, "-m", "penstock", "torture", "--json", "--fail-fast"]
    command += ["--seed", str(seed), "--patience", str(PATIENCE_S), *campaign.split()]
    if engine is not None:
        command += ["--engine", str(engine)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        raise RuntimeError(f"the campaign itself failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def tried(mutant: Mutant, seed: int) -> dict[str, Any]:
    """How the campaign fares against one mutant."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="penstock-mutant-") as folder:
        engine = mutant.build(Path(folder))
        engine.chmod(0o755)
        found = torture(mutant.campaign, seed, engine)
    signs = ("lost", "duplicated", "out_of_order", "acknowledged_too_early")
    said = found["named"][:1] or [found["stuck"] or "nothing"]
    return {
        "mutant": mutant.name,
        "spoils": mutant.spoils,
        "campaign": f"--seed {seed} {mutant.campaign}",
        "caught": found["verdict"] != "clean",
        "by": [sign for sign in signs if found[sign]] + (["stuck"] if found["stuck"] else []),
        "said": said[0][:300],
        "seconds": round(time.monotonic() - began),
    }


def _store_rows(results: list[dict[str, Any]]) -> None:
    """Some were tried by themselves: they take the place of their rows, with their own stamp."""
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = {row["mutant"]: row for row in stored["mutants"]}
    rows |= {row["mutant"]: {**row, "machine": machine()} for row in results}
    stored["mutants"] = list(rows.values())
    stored["lived"] = [name for name, row in rows.items() if not row["caught"]]
    RESULTS.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """1 when a mutant lives, or when the true engine is accused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--controls", action="store_true")
    wanted = parser.parse_args()
    chosen = [m for m in MUTANTS if not wanted.names or m.name in wanted.names]
    results = []
    for mutant in chosen:
        results.append(tried(mutant, wanted.seed))
        print(json.dumps(results[-1]), flush=True)
    lived = [result["mutant"] for result in results if not result["caught"]]
    accused = []
    if wanted.controls:
        for campaign in sorted({m.campaign for m in chosen}):
            found = torture(campaign, wanted.seed)
            print(json.dumps({"control": campaign, "verdict": found["verdict"]}), flush=True)
            if found["verdict"] != "clean":
                accused.append(
                    {"campaign": campaign, "named": found["named"], "stuck": found["stuck"]}
                )
    if wanted.names:
        _store_rows(results)
    else:
        stored = {"name": "mutants", "mutants": results, "lived": lived, "accused": accused}
        RESULTS.write_text(
            json.dumps({**stored, "controls": wanted.controls, "machine": machine()}, indent=2)
            + "\n",
            encoding="utf-8",
        )
    print(f"{len(results)} mutants, {len(lived)} lived: {lived}; accused: {accused}")
    return 1 if lived or accused else 0


if __name__ == "__main__":
    sys.exit(main())
