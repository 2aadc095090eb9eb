"""How well records are taken for whom they are: every set, beside its goal.

`python bench/identity.py DATA` wants the folder `er` with febrl, fake_1000 and Abt-Buy. Each goes
through what `penstock eval identity` does, without its truth. Beside them: variants of the same
sets, by which a method that is tuned to their names, order or size would show it, and made-up
people in households (`bench/identity_people.py`). Prints JSON: store it as
`bench/results/identity.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from identity_people import SHAPES, make

from penstock.bench.report import machine
from penstock.evaluate.identity import evaluate_identity

Rows = list[dict[str, str]]


class Case(NamedTuple):
    """One evaluation, with what it should reach."""

    name: str
    files: list[Path]
    truth: str
    ignore: tuple[str, ...] = ()
    f1: float | None = None
    precision: float | None = None


def cases(data: Path) -> Iterator[Case]:
    """The sets that have goals."""
    febrl, splink, products = data / "er/febrl", data / "er/splink", data / "er/abt_buy"
    both = [febrl / "dataset4a.csv", febrl / "dataset4b.csv"]
    number = ("soc_sec_id",)
    yield Case("febrl1 without soc_sec_id", [febrl / "dataset1.csv"], "rec_id", number, 0.97, 0.97)
    yield Case("febrl2 without soc_sec_id", [febrl / "dataset2.csv"], "rec_id", number, 0.97, 0.97)
    yield Case("febrl4", both, "rec_id", (), 0.97, 0.97)
    yield Case("febrl4 without soc_sec_id", both, "rec_id", number, 0.97, 0.97)
    yield Case("fake_1000", [splink / "fake_1000.csv"], "cluster", (), 0.75, 0.97)
    pair = [products / "AbtBuy_Abt.csv", products / "AbtBuy_Buy.csv"]
    yield Case("Abt-Buy", pair, "unique_id", (), 0.75)


def variants(data: Path, folder: Path) -> Iterator[Case]:
    """The same records otherwise: without names of columns, fewer of them, in one heap."""
    febrl = read(data / "er/febrl/dataset2.csv")
    fake = read(data / "er/splink/fake_1000.csv")
    for name, rows, truth in (("febrl2", febrl, "rec_id"), ("fake_1000", fake, "cluster")):
        left = [{k: v for k, v in row.items() if k != "soc_sec_id"} for row in rows]
        renamed = {k: k if k == truth else f"c{n}" for n, k in enumerate(left[0])}
        anonymous = [{renamed[k]: v for k, v in row.items()} for row in left]
        yield case(folder, f"{name}, columns without names", anonymous, truth)
        some = random.Random(5).sample(left, len(left) // 3)
        yield case(folder, f"{name}, a third of the records", some, truth)
    halves: tuple[Rows, Rows] = ([], [])
    for row in fake:
        halves[random.Random(row["unique_id"]).getrandbits(1)].append(row)
    files = [write(folder, f"half{n}", half) for n, half in enumerate(halves)]
    yield Case("fake_1000, parted by chance in two files", files, "cluster")
    heap = [row for n in ("Abt", "Buy") for row in read(data / f"er/abt_buy/AbtBuy_{n}.csv")]
    yield case(folder, "Abt-Buy in one file, sources unknown", heap, "unique_id")


def made_up(folder: Path) -> Iterator[Case]:
    """People in households, who have much in common and are not one."""
    for shape in SHAPES:
        for many, again in ((1000, 0.3), (3000, 0.05)):
            rows = make(shape, many, 7, again=again)
            name = f"made up: {shape}, {again:.0%} of {many:,} people more than once"
            yield case(folder, name, rows, "person")


def read(file: Path) -> Rows:
    with file.open(encoding="utf-8") as lines:
        rows = csv.DictReader(lines, skipinitialspace=True)
        return [{k.strip(): (v or "").strip() for k, v in row.items() if k} for row in rows]


def write(folder: Path, name: str, rows: Rows) -> Path:
    file = folder / f"{abs(hash(name))}.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def case(folder: Path, name: str, rows: Rows, truth: str) -> Case:
    return Case(name, [write(folder, name, rows)], truth)


async def measure(data: Path, only: str) -> dict[str, Any]:
    """All of them."""
    results = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for one in (*cases(data), *variants(data, folder), *made_up(folder)):
            if only not in one.name:
                continue
            report = await evaluate_identity(one.files, one.truth, ignore=one.ignore)
            figures = {k: v for k, v in report.items() if k != "rules"}
            goal = {"goal_f1": one.f1, "goal_precision": one.precision}
            results.append({"set": one.name, **figures, **{k: v for k, v in goal.items() if v}})
            print(one.name, report["precision"], report["recall"], report["f1"], file=sys.stderr)
    return {"name": "identity", "results": results, "machine": machine()}


def main() -> None:
    """Print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default="", help="sets with this in their name")
    wanted = parser.parse_args()
    print(json.dumps(asyncio.run(measure(wanted.data, wanted.only)), indent=2))


if __name__ == "__main__":
    main()
