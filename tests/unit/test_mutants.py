"""The engines that are wrong on purpose can still be made."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.chaos.mutants.catalogue import MUTANTS, PACKAGE, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutants_apply(mutant: Mutant, tmp_path: Path) -> None:
    """Every patch finds its place, once, and what comes out is Python."""
    for patch in mutant.patches:
        target = tmp_path / patch.file
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PACKAGE / patch.file, target)
        patch.apply(tmp_path)
        if target.suffix == ".py":
            compile(target.read_text(encoding="utf-8"), str(target), "exec")


def test_there_are_enough_mutants() -> None:
    """The campaign is measured against at least twenty, each with a name of its own."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 20
