"""Decision trees as plain arrays: fitted elsewhere, evaluated here with numpy, all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import FatalError

Floats = NDArray[np.float32]


class Trees:
    """A sum of decision trees. Of each node: the column that it looks at, up to which value one
    goes on at the first of its two children (else at the second), and what it adds. A leaf's
    children are itself, so that all trees are walked at once, as deep as the deepest."""

    def __init__(self, stored: Any, columns: Sequence[str], source: str) -> None:
        names = [str(name) for name in stored["names"]]
        if names != list(columns):
            raise FatalError(
                f"expected {source} to be fitted on the {len(columns)} columns that are computed, "
                f"got {len(names)} others: fit it again"
            )
        self._columns: NDArray[np.int64] = stored["columns"].astype(np.int64)
        self._limits: Floats = stored["limits"].astype(np.float32)
        self._children: NDArray[np.int64] = stored["children"].astype(np.int64)
        self._values: Floats = stored["values"].astype(np.float32)
        self._roots: NDArray[np.int64] = stored["roots"].astype(np.int64)
        self._depth = int(stored["depth"])

    def sums(self, features: Floats) -> Floats:
        """What the trees add up to for each row."""
        rows = np.arange(len(features))[:, None]
        nodes = np.broadcast_to(self._roots, (len(features), len(self._roots)))
        for _ in range(self._depth):
            further = features[rows, self._columns[nodes]] > self._limits[nodes]
            nodes = self._children[nodes, further.astype(np.int64)]
        found: Floats = self._values[nodes].sum(axis=1)
        return found
