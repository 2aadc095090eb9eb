"""The page that says which of our tests show what Debezium's PostgreSQL tests show.

    uv run python tools/debezium_checklist.py [test_names.jsonl]

writes ``docs/debezium-checklist.md`` from ``tools/debezium_checklist.toml``. With the list of names
it also says which names are in no group, and counts them anew.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tools" / "debezium_checklist.toml"
PAGE = ROOT / "docs" / "debezium-checklist.md"
MODULE = "debezium-connector-postgres"
VERDICTS = ("covered", "not applicable", "missing")

HEAD = """# Debezium's PostgreSQL tests, one by one

Debezium's connector for PostgreSQL is tested by {total} named tests. Each of them is in one group
below, which says which tests of ours show the same, why it does not apply, or that it is missing:
{covered} covered, {not applicable} not applicable, {missing} missing. A group is covered when ours
show the behaviour that it is about, not when every variant has a test of its own.

Made by `tools/debezium_checklist.py`; a unit test holds it to the list.

| group | names | |
|---|---:|---|
"""


def read_groups() -> list[dict[str, Any]]:
    """The groups, in the order in which they are tried."""
    groups: list[dict[str, Any]] = tomllib.loads(DATA.read_text(encoding="utf-8"))["group"]
    return groups


def read_names(file: Path) -> list[str]:
    """The names of the connector's tests, as CLASS.TEST."""
    rows = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return [f"{row['class']}.{row['test']}" for row in rows if row["module"] == MODULE]


def assign(names: Sequence[str], groups: Sequence[dict[str, Any]]) -> list[int | None]:
    """The number of each name's group: the first with a pattern that fits."""
    patterns = [re.compile("|".join(f"(?:{p})" for p in group["patterns"])) for group in groups]
    return [next((i for i, p in enumerate(patterns) if p.fullmatch(name)), None) for name in names]


def page(groups: Sequence[dict[str, Any]]) -> str:
    """The page, as it should be."""
    counts = Counter[str]()
    for group in groups:
        counts[group["verdict"]] += group["names"]
    lines = [HEAD.format_map({**dict.fromkeys(VERDICTS, 0), **counts, "total": counts.total()})]
    for group in groups:
        says = [f"**{group['verdict']}**"]
        if why := group.get("why"):
            says.append(why)
        says += [f"[{name}](../{file})" for file, _, name in map(_parts, group.get("tests", ()))]
        lines.append(f"| {group['title']} | {group['names']} | {'<br>'.join(says)} |\n")
    return "".join(lines)


def _parts(test: str) -> tuple[str, str, str]:
    return test.partition("::")


def main() -> None:
    """Write the page."""
    groups = read_groups()
    if len(sys.argv) > 1:
        names = read_names(Path(sys.argv[1]))
        found = assign(names, groups)
        for name, number in zip(names, found, strict=True):
            if number is None:
                print(f"in no group: {name}")
        counts = Counter(found)
        numbers = iter(counts[i] for i in range(len(groups)))
        text = DATA.read_text(encoding="utf-8")
        DATA.write_text(
            re.sub(r"(?m)^names = \d+$", lambda _: f"names = {next(numbers)}", text),
            encoding="utf-8",
        )
        groups = read_groups()
    PAGE.write_text(page(groups), encoding="utf-8")


if __name__ == "__main__":
    main()
