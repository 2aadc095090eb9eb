"""Embeddings as they arrive, made into vectors, or refused. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.errors import RetryableError
from penstock.models.base import Vectors


def unit_vectors(
    embeddings: Sequence[object], dimensions: int, *, at_least: int | None = None
) -> Vectors:
    """Rows of length 1. Vectors of ``at_least`` numbers are cut to the first ``dimensions``; those
    of another length come back uncut, for the caller to say what that means.

    Raises `RetryableError` (malformed) for what are no numbers, or no finite ones, or all zeros.
    """
    try:
        vectors = np.array(embeddings, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise _malformed("embeddings of numbers, all of one length", "something else") from error
    if vectors.ndim != 2:
        raise _malformed("a list of numbers as each embedding", "something else")
    if vectors.shape[1] == (at_least or dimensions):
        vectors = vectors[:, :dimensions]
    with np.errstate(over="ignore", invalid="ignore"):  # looked at in the next line
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise _malformed("a vector of finite length", "NaN, infinity or zeros")
    unit: Vectors = (vectors / lengths).astype(np.float32)
    return unit


def _malformed(expected: str, got: str) -> RetryableError:
    return RetryableError(f"expected {expected}, got {got}", malformed=True)
