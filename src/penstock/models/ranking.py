"""The learned order of candidates: a plain score, and what some trees have to say about it.

The plain score says how a passage was found, how well it matches word by word, and how like it is
to the best of all candidates: where one stands out that changes nothing, where many answer it
brings them together (Diaz, "Regularizing ad hoc retrieval scores", 2005). The trees read the
numbers of `penstock.models.interaction` and move that score up or down, never further than
`REACH`: what they learned on one kind of text cannot turn another kind upside down.

Fitted by ``tools/train_ranking.py`` (gradient boosting for the order of lists: Burges, "From
RankNet to LambdaRank to LambdaMART", 2010); stored as plain arrays, evaluated with numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock.models.base import Candidate
from penstock.models.interaction import COLUMNS, Asked, interaction
from penstock.models.trees import Trees

Floats = NDArray[np.float32]

FITTED: Final = Path(__file__).parent / "graphs" / "ranking.npz"
REACH: Final = 0.4
"""How far the trees move a score at most, of scores between 0 and 2."""
LATE: Final = 4.0
"""What a full match word by word counts, beside a cosine of 1 and a full match of words."""
ALIKE: Final = 2.0
"""What full likeness with the best counts."""
MOST: Final = 2.0
"""Scores lie between 0 and this, as they do before."""
_FUSED, _NEAR, _ALIKE = (COLUMNS.index(name) for name in ("fused", "near_sharp", "alike"))


def plain(features: Floats) -> Floats:
    """The score before anything is learned."""
    scores: Floats = features[:, _FUSED] + LATE * features[:, _NEAR] + ALIKE * features[:, _ALIKE]
    return scores * np.float32(MOST / (2 + LATE + ALIKE))


class Ranking:
    """Plain scores, moved by fitted trees. Only differences inside of a list are fitted: ``level``
    is what the trees add to the best of a list on average, so that its score stays where it was."""

    def __init__(self, file: Path = FITTED) -> None:
        with np.load(file) as stored:
            self._trees = Trees(stored, COLUMNS, file.name)
            self._level = float(stored["level"])

    def scores(self, question: Asked, candidates: Sequence[Candidate]) -> Floats:
        """How well each candidate answers, 0 to 2."""
        return self.judge(interaction(question, candidates))

    def judge(self, features: Floats) -> Floats:
        """The scores of candidates whose features are known."""
        moved = np.clip(self._trees.sums(features) - self._level, -REACH, REACH)
        found: Floats = np.clip(plain(features) + moved, 0, MOST)
        return found


@cache
def ranking() -> Ranking:
    """The one that is shipped."""
    return Ranking()
