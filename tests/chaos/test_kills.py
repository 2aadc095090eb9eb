"""G2 under SIGKILL: a short campaign; `python bench/kills.py --kills 50` is the long one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[2] / "bench" / "kills.py"


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2])
def test_g2_nothing_is_lost_or_doubled_whatever_is_killed(seed: int) -> None:
    """Processes and databases are killed; the stores equal the sources; a false row shows."""
    done = subprocess.run(
        [sys.executable, str(CAMPAIGN), "--kills", "10", "--seed", str(seed)],
        capture_output=True,
        text=True,
        check=False,
    )
    result = json.loads(done.stdout)
    assert result["differences"] == 0, done.stdout
    assert result["control"] == 1, done.stdout
    assert result["tracebacks"] == 0, done.stdout
    assert {"process", "database", "source"} & result["kills"].keys(), done.stdout
