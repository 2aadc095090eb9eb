"""`penstock eval identity` prints what it promises, and refuses what it cannot measure."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import ConfigError
from penstock.evaluate.identity import evaluate_identity, pairwise
from penstock.evaluate.records import read_labelled

GIVEN = ["anna", "maria", "peter", "hans", "julia", "thomas", "sofia", "lukas", "emma", "jonas"]
PARTS = ["ber", "gel", "mann", "stein", "wald", "hof", "bach", "brand", "kel", "ler", "schmid"]


def write(file: Path, seed: int = 1, many: int = 150) -> Path:
    """People, each of them twice, the second time with an error: febrl's form of a truth."""
    chance = random.Random(seed)
    lines = ["rec_id, given, surname, born, number"]
    for person in range(many):
        surname = "".join(chance.choice(PARTS) for _ in range(3))
        born = f"{chance.randint(1940, 2004)}{chance.randint(1, 12):02d}{chance.randint(1, 28):02d}"
        given, number = chance.choice(GIVEN), chance.randint(1, 99)
        lines.append(f"rec-{person}-org, {given}, {surname}, {born}, {number}")
        lines.append(f"rec-{person}-dup-0, {given}, {surname[:-2]}{surname[-1]}, {born}, {number}")
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_the_command_prints_the_figures(tmp_path: Path) -> None:
    """As a program: the keys that are promised, one person twice found as one."""
    file = write(tmp_path / "people.csv")
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "eval", "identity", "--records", str(file),
         "--truth", "rec_id", "--ignore", "number", "--json"],
        capture_output=True, text=True, check=False, timeout=55,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert {"records", "precision", "recall", "f1", "clusters", "seconds"} <= set(report)
    assert report["records"] == 300
    assert report["true_clusters"] == 150
    assert report["precision"] >= 0.97
    assert report["f1"] >= 0.97
    assert "number" not in report["rules"]["columns"]
    assert "rec_id" not in report["rules"]["columns"]


async def test_g10_another_order_gives_the_same_profiles(tmp_path: Path) -> None:
    """G10: the order of the stream is no evidence."""
    file = write(tmp_path / "people.csv", many=60)
    one = await evaluate_identity([file], "rec_id", seed=1)
    two = await evaluate_identity([file], "rec_id", seed=2)
    same = ("precision", "recall", "f1", "clusters")
    assert [one[name] for name in same] == [two[name] for name in same]


def test_two_files_with_other_names_of_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,name\n1,anna\n2,hans\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("id;title\n1;anna\n3;eva\n", encoding="utf-8")
    data = read_labelled([tmp_path / "a.csv", tmp_path / "b.csv"], "id", rename={"title": "name"})
    assert data.sources == ("a", "a", "b", "b")
    assert data.truth == ("1", "2", "1", "3")
    assert [row["name"] for row in data.rows] == ["anna", "hans", "anna", "eva"]


@pytest.mark.parametrize(
    ("text", "truth", "ignore", "sentence"),
    [
        ("a,b\n1,2\n3,4\n", "c", (), "expected the column 'c' with the truth"),
        ("a,b\n1,2\n3,4\n", "a", ("z",), "expected the columns to ignore"),
        ("a,b\n1,2\n3,4\n", "a", (), "expected a truth that some records have in common"),
        ("a,b\n1,2\n", "a", (), "expected at least two records"),
        ("", "a", (), "expected a header and records"),
        ("a,a\n1,2\n", "a", (), "expected different names of columns"),
        ("a,b\n1,x\n1,x\n", "a", (), "no column tells them apart"),
    ],
)
async def test_bad_input_is_refused_with_a_sentence(
    tmp_path: Path, text: str, truth: str, ignore: tuple[str, ...], sentence: str
) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=sentence):
        await evaluate_identity([file], truth, ignore=ignore)


def test_pairs_are_counted() -> None:
    """Two of three pairs of the profile are right; two of the two true ones ... and one apart."""
    figures = pairwise(["p", "p", "p", "q"], ["a", "a", "b", "b"])
    assert figures == {"precision": 0.3333, "recall": 0.5, "f1": 0.4}
    assert pairwise(["p", "q"], ["a", "b"])["f1"] == 1.0


@pytest.mark.data
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("files", "truth", "ignore", "f1", "precision"),
    [
        (["febrl/dataset1.csv"], "rec_id", ("soc_sec_id",), 0.97, 0.97),
        (["febrl/dataset2.csv"], "rec_id", ("soc_sec_id",), 0.97, 0.97),
        (["febrl/dataset4a.csv", "febrl/dataset4b.csv"], "rec_id", (), 0.97, 0.97),
        (["splink/fake_1000.csv"], "cluster", (), 0.75, 0.97),
        (["abt_buy/AbtBuy_Abt.csv", "abt_buy/AbtBuy_Buy.csv"], "unique_id", (), 0.75, 0.0),
    ],
)
async def test_public_sets_reach_their_goals(
    files: list[str], truth: str, ignore: tuple[str, ...], f1: float, precision: float
) -> None:
    folder = Path(os.environ["PENSTOCK_DATA"]) / "er"
    report = await evaluate_identity([folder / name for name in files], truth, ignore=ignore)
    assert report["f1"] >= f1
    assert report["precision"] >= precision
