"""Bring the tables of docs/reliability.md up to date with the stored results.

`python tools/reliability.py` reads ``bench/results/torture*.json`` (what
``penstock torture --json`` printed) and ``bench/results/mutants.json``, and writes what stands
between the page's marks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from penstock.torture.kinds import MEANINGS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
RESULTS = ROOT / "bench" / "results"


def faults() -> list[str]:
    """Every fault and what it does."""
    lines = ["| fault | what happens |", "|---|---|"]
    return lines + [f"| `{fault}` | {meaning} |" for fault, meaning in MEANINGS.items()]


def campaigns() -> list[str]:
    """The stored campaigns, the shortest first."""
    reports = [json.loads(path.read_text()) for path in RESULTS.glob("torture*.json")]
    heads = (
        "source", "log", "workers / partitions", "seed", "kills", "changes", "faults", "lost",
        "doubled", "out of order", "acknowledged too early", "first new change after, p50 / max",
        "peak memory", "took",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for report in sorted(reports, key=lambda report: report["kills"]):
        recovery = report["recovery_s"]
        cells = (
            *_setting(report),
            report["seed"],
            f"{report['kills']:,}",
            f"{report['changes']:,}",
            f"{sum(report['faults'].values()):,}{_together(report)}",
            *(report[name] for name in ("lost", "duplicated", "out_of_order")),
            report["acknowledged_too_early"],
            f"{recovery['p50']} / {recovery['max']} s",
            f"{report['peak_rss_mb']} MB",
            f"{report['seconds'] / 60:.0f} min",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for report in reports:
        lines += ["", *_recoveries(report)]
    return lines


def _together(report: dict[str, Any]) -> str:
    """How many of all pairs of faults were close in time, where that was asked for."""
    pairs = report.get("pairs", {})
    return f", {pairs['together']} of {pairs['possible']} pairs" if pairs.get("together") else ""


def _setting(report: dict[str, Any]) -> tuple[str, str, str]:
    setting = report.get("setting", {})
    log = str(setting.get("log", "embedded")).partition(":")[0]
    shared = f"{setting.get('workers', 1)} / {setting.get('partitions', 1)}"
    return setting.get("source", "postgres"), log, shared


def _recoveries(report: dict[str, Any]) -> list[str]:
    machine = report.get("machine", {})
    about = f"{machine.get('cores')} cores, load {machine.get('load')}, {machine.get('commit')}"
    by_fault = report["recovery_by_fault_s"]
    told = ", ".join(f"{name} {found['p50']} / {found['max']}" for name, found in by_fault.items())
    lines = [f"`{report['replay']}` ({about}): recovery in seconds, p50 / max: {told}."]
    skipped = {fault: why for fault, why in report["skipped"].items() if "(--" not in why}
    if skipped:
        lines.append(f"Skipped: {skipped}.")
    return lines


def mutants() -> list[str]:
    """The mutants and how each was caught."""
    stored = json.loads((RESULTS / "mutants.json").read_text())
    lines = ["| mutant | what it does wrong | caught by | under |", "|---|---|---|---|"]
    for one in stored["mutants"]:
        by = ", ".join(one["by"]) if one["caught"] else "**not caught**"
        lines.append(f"| `{one['mutant']}` | {one['spoils']} | {by} | `{one['campaign']}` |")
    return lines


def main() -> int:
    """Write the page; 0 when all went well."""
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in (("faults", faults()), ("campaigns", campaigns()), ("mutants", mutants())):
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"expected one place for {name} in {PAGE.name}: put its marks back")
        before, rest = text.split(begin)
        text = before + begin + "\n".join(lines) + "\n" + end + rest.split(end)[1]
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
