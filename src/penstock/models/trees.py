"""Decision trees as plain arrays: fitted elsewhere, evaluated here with numpy, all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock.errors import FatalError

Floats = NDArray[np.float32]
Bits = NDArray[Any]

_SIZES: Final = (np.uint8, np.uint16, np.uint32, np.uint64)


class Trees:
    """A sum of decision trees. Of each node: the column that it looks at, up to which value one
    goes on at the first of its two children (else at the second), and what it adds. A leaf's
    children are itself.

    No tree is walked: every node of all trees is asked at once, and each that sends a row to its
    second child takes away the leaves below its first. The first leaf that is left is the one
    where the row ends (Lucchese and others, "QuickScorer", 2015).
    """

    def __init__(self, stored: Any, columns: Sequence[str], source: str) -> None:
        names = [str(name) for name in stored["names"]]
        if names != list(columns):
            raise FatalError(
                f"expected {source} to be fitted on the {len(columns)} columns that are computed, "
                f"got {len(names)} others: fit it again"
            )
        values = stored["values"].astype(np.float32)
        children = stored["children"].astype(np.int64).tolist()
        trees = [_Tree(children, root) for root in stored["roots"].astype(np.int64).tolist()]
        most = max(len(tree.leaves) for tree in trees)
        fitting = [size for size in _SIZES if most <= 8 * np.dtype(size).itemsize]
        if not fitting:
            raise FatalError(
                f"expected trees of at most 64 leaves in {source}, got one of {most}: fit smaller "
                "ones"
            )
        bits = fitting[0]
        nodes = max(1, *(len(tree.inner) for tree in trees))
        # By the place in its tree, and then by the tree; where a tree has fewer nodes, one that
        # takes nothing away.
        self._columns = np.zeros((nodes, len(trees)), np.intp)
        self._limits = np.full((nodes, len(trees)), np.inf, np.float32)
        self._taken: Bits = np.zeros((nodes, len(trees)), bits)
        self._leaves = np.zeros((len(trees), most), np.float32)
        for number, tree in enumerate(trees):
            inner = [node for node, _ in tree.inner]
            self._columns[: len(inner), number] = stored["columns"][inner]
            self._limits[: len(inner), number] = stored["limits"][inner]
            self._taken[: len(inner), number] = [taken for _, taken in tree.inner]
            self._leaves[number, : len(tree.leaves)] = values[tree.leaves]
        self._first_leaves = (np.arange(len(trees)) * most)[None, :]

    def sums(self, features: Floats) -> Floats:
        """What the trees add up to for each row."""
        by_column = np.ascontiguousarray(features.T)
        taken = np.zeros((len(self._limits[0]), len(features)), self._taken.dtype)
        for columns, limits, gone in zip(self._columns, self._limits, self._taken, strict=True):
            further = by_column.take(columns, axis=0) > limits[:, None]
            taken |= further * gone[:, None]
        left = ~taken
        lowest = left & -left
        places = np.bitwise_count(lowest - lowest.dtype.type(1)).T
        found: Floats = self._leaves.ravel().take(places + self._first_leaves).sum(axis=1)
        return found


class _Tree:
    """The leaves of one tree from first to last, and its other nodes, each with the bits of the
    leaves below its first child."""

    def __init__(self, children: Sequence[Sequence[int]], root: int) -> None:
        self.leaves: list[int] = []
        self.inner: list[tuple[int, int]] = []
        self._walk(children, root)

    def _walk(self, children: Sequence[Sequence[int]], node: int) -> None:
        first, second = children[node]
        if first == second == node:
            self.leaves.append(node)
            return
        before = len(self.leaves)
        self._walk(children, first)
        self.inner.append((node, (1 << len(self.leaves)) - (1 << before)))
        self._walk(children, second)
