"""What a campaign says at its end."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

from penstock.torture.kinds import DEFAULT, Setting


@dataclass
class Report:
    """Figures as they are gathered; ``to_dict`` is what ``--json`` prints."""

    seed: int
    command: str
    setting: Setting = DEFAULT
    kills: int = 0
    changes: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    pairs: set[frozenset[str]] = field(default_factory=set)
    possible_pairs: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    acknowledged_too_early: int = 0
    log: dict[str, int] = field(default_factory=dict)
    documents: int = 0
    compared: int = 0
    comparisons: int = 0
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    last_recovery_s: float = 0.0
    named_within_s: list[float] = field(default_factory=list)
    exits: list[str] = field(default_factory=list)
    tracebacks: int = 0
    peak_rss_mb: int = 0
    seconds: float = 0.0
    named: list[str] = field(default_factory=list)
    stuck: str | None = None

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (
            self.lost
            or self.duplicated
            or self.out_of_order
            or self.acknowledged_too_early
            or self.stuck
        )

    def count(self, fault: str, kills: int) -> None:
        """A fault was injected; so many processes were killed by it."""
        self.faults[fault] = self.faults.get(fault, 0) + 1
        self.kills += kills

    def together(self, faults: Sequence[str]) -> None:
        """These came close to each other."""
        self.pairs |= {frozenset(pair) for pair in combinations(faults, 2)}

    def recovered(self, fault: str, seconds: float) -> None:
        """The first new change was in its live table so long after the fault."""
        self.last_recovery_s = seconds
        self.recoveries.setdefault(fault, []).append(seconds)

    def to_dict(self) -> dict[str, Any]:
        """One JSON object."""
        seconds = [one for many in self.recoveries.values() for one in many]
        return {
            "seed": self.seed,
            "kills": self.kills,
            "faults": self.faults,
            "skipped": self.skipped,
            "setting": asdict(self.setting),
            "pairs": {"together": len(self.pairs), "possible": self.possible_pairs},
            "changes": self.changes,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "out_of_order": self.out_of_order,
            "acknowledged_too_early": self.acknowledged_too_early,
            "recovery_s": _spread(seconds),
            "recovery_by_fault_s": {
                fault: _spread(many) for fault, many in sorted(self.recoveries.items())
            },
            "slot_loss_named_s": _spread(self.named_within_s),
            "peak_rss_mb": self.peak_rss_mb,
            "log": self.log,
            "documents": self.documents,
            "compared": self.compared,
            "comparisons": self.comparisons,
            "exits": self.exits[:20],
            "tracebacks": self.tracebacks,
            "seconds": round(self.seconds, 1),
            "verdict": "clean" if self.clean else "broken",
            "stuck": self.stuck,
            "named": self.named[:20],
            "replay": self.command,
        }


def _spread(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    return {"p50": round(statistics.median(seconds), 2), "max": round(max(seconds), 2)}
