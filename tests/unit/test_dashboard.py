"""The dashboard shows metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

from penstock.telemetry import MetricName

FILE = Path(__file__).parents[2] / "docs" / "grafana" / "penstock.json"


def test_every_panel_asks_for_metrics_that_there_are() -> None:
    """Each names one at least, none a name that nothing serves; no two panels lie on each other."""
    known = set(get_args(MetricName))
    panels = json.loads(FILE.read_text(encoding="utf-8"))["panels"]
    shown: set[str] = set()
    for panel in panels:
        named = {
            name
            for target in panel["targets"]
            for name in re.findall(r"penstock_\w+", target["expr"])
        }
        assert named, panel["title"]
        assert named <= known, (panel["title"], named - known)
        shown |= named
    assert {"penstock_freshness_seconds", "penstock_source_up", "penstock_dead_letters_total"} <= (
        shown
    )
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
