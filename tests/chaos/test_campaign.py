"""G1, G2 and G4 under every fault; docs/reliability.md has longer campaigns."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1, 2])
def test_g2_nothing_is_lost_or_doubled_whatever_happens(seed: int) -> None:
    """Every fault and every boundary once, and some more kills."""
    command = [sys.executable, "-m", "penstock", "torture", "--json"]
    command += ["--seed", str(seed), "--kills", "30", "--changes", "20000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert (report["lost"], report["duplicated"], report["out_of_order"]) == (0, 0, 0)
    assert report["kills"] >= 30
