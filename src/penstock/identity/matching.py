"""What fuzzy matching promises the identity graph.

A match is a function of two records and of the model, nothing else: matches can be worked out again
at any time, in any order, and are evidence like an identifier that two records bear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from penstock.identity.evidence import Match, Record


class Matcher(Protocol):
    """Scores pairs of records that share a block. Frozen and picklable."""

    @property
    def version(self) -> str:
        """Names the model: scores of another version are worked out again."""

    @property
    def link(self) -> float:
        """From this weight on a match ties its records."""

    @property
    def possible(self) -> float:
        """From this weight on a match is kept for people to look at; below it is none."""

    @property
    def block_at_most(self) -> int:
        """A block that more records share compares nobody."""

    def blocks(self, fields: Mapping[str, str]) -> Sequence[str]:
        """The blocks of a record with these fields: only records that share one are compared."""

    def score(self, pairs: Sequence[tuple[Record, Record]]) -> Sequence[Match]:
        """One match for each pair, in order, whatever its weight."""
