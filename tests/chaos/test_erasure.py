"""The campaign of erasures, small: somebody is killed at many points of erasing others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[2] / "bench" / "erasure.py"


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_g9_no_byte_of_the_erased_is_left_wherever_the_process_was_killed(seed: int) -> None:
    """Nothing is found in any file, and everybody else is intact in every place."""
    done = subprocess.run(
        [sys.executable, str(CAMPAIGN), "100", "20", "10", str(seed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert (found["found"], found["found_by_the_receipts"]) == ({}, 0)
    assert all(found["intact"].values())
    assert found["files_with_canaries_before"] > 0
