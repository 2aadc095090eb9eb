"""Vectors in fewer bits: their signs, and for int8 one byte a number beside them. Pure.

An index on signs (Hamming distance) finds candidates; they are compared again with what is stored:
int8 nearly exactly, signs with the question's full vector, which tells far more than the distance
between two strings of bits.

Each sign should tell as much as any other, but some numbers of a vector are large and most are
small. So vectors are turned first, always in the same way: signs are flipped and numbers moved as
if by lot, and mixed by Hadamard transforms, twice (as in RaBitQ, Gao and Long 2024, with a quick
turn). Only additions and a hash decide, so every machine turns alike; angles stay.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock.stores.base import Storage, Vectors

_LEVELS: Final = 127
_SCALE: Final = struct.Struct("<f")
_LENGTH: Final = struct.Struct(">i").pack
_COUNT: Final = struct.Struct(">h").pack
_SIGN_TO_COSINE: Final = math.sqrt(math.pi / 2)
"""The mean of |x| of a normal variable is sqrt(2 / pi) of its spread: undone, the product with
signs estimates the cosine."""

_TURNS: Final = 2
OVERSAMPLE: Final = 4
FEWEST: Final = 200
"""So many times the limit, and at least so many, are candidates by signs."""


@lru_cache(maxsize=8)
def _lot(dimensions: int, turn: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Where each number goes, and whether its sign is flipped."""
    drawn = [blake2b(f"{turn}:{n}".encode(), digest_size=8).digest() for n in range(dimensions)]
    order = np.array(sorted(range(dimensions), key=drawn.__getitem__), np.intp)
    flips = np.array([1.0 if value[-1] & 1 else -1.0 for value in drawn], np.float32)
    return order, flips


def turned(matrix: Vectors) -> Vectors:
    """The vectors, turned; rows keep their lengths and their angles to each other."""
    rows = np.atleast_2d(matrix).astype(np.float32)
    for turn in range(_TURNS):
        order, flips = _lot(rows.shape[1], turn)
        rows = _mixed((rows * flips)[:, order])
    return rows


def turned_back(matrix: Vectors) -> Vectors:
    """What was turned, as it was: fit to be compared with vectors that are not."""
    rows = np.atleast_2d(matrix).astype(np.float32)
    for turn in reversed(range(_TURNS)):
        order, flips = _lot(rows.shape[1], turn)
        before = np.empty_like(rows)
        before[:, order] = _mixed(rows)  # mixing twice is as not mixing
        rows = before * flips
    return rows


def _mixed(rows: Vectors) -> Vectors:
    """A Hadamard transform of each part that is as long as the largest power of two in a row."""
    dimensions = rows.shape[1]
    block = dimensions & -dimensions
    mixed = rows.reshape(-1, block)
    half = 1
    while half < block:
        pairs = mixed.reshape(-1, block // (2 * half), 2, half)
        sums, differences = pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]
        mixed = np.stack([sums, differences], axis=2).reshape(-1, block)
        half *= 2
    found: Vectors = (mixed / np.float32(math.sqrt(block))).reshape(-1, dimensions)
    return found


def signs_of(matrix: Vectors) -> list[bytes]:
    """A bit for each number, 1 where it is positive, as pgvector's binary_quantize has them."""
    return [row.tobytes() for row in np.packbits(turned(matrix) > 0, axis=1)]


def sign_text(vector: Vectors) -> str:
    """The signs as PostgreSQL reads a bit string."""
    return "".join("1" if value > 0 else "0" for value in turned(vector)[0].tolist())


def bytes_of(matrix: Vectors) -> list[bytes]:
    """A scale and a byte for each number."""
    matrix = turned(matrix)
    scale = np.maximum(np.abs(matrix).max(axis=1), 1e-12) / _LEVELS
    numbers = np.rint(matrix / scale[:, None]).astype(np.int8)
    return [
        _SCALE.pack(float(factor)) + row.tobytes()
        for factor, row in zip(scale, numbers, strict=True)
    ]


def similarities(question: Vectors, stored: Sequence[bytes], storage: Storage) -> list[float]:
    """The cosines of a question with vectors as they are stored."""
    if not stored:
        return []
    question = turned(question)[0]
    if storage == "int8":
        rows = np.frombuffer(b"".join(stored), np.int8).reshape(len(stored), -1)[:, _SCALE.size :]
        numbers = rows.astype(np.float32)
        lengths = np.maximum(np.linalg.norm(numbers, axis=1), 1e-12)
        found: list[float] = (numbers @ question / lengths).tolist()
        return found
    bits = np.unpackbits(
        np.frombuffer(b"".join(stored), np.uint8).reshape(len(stored), -1),
        axis=1,
        count=question.size,
    )
    numbers = bits.astype(np.float32) * 2 - 1
    estimate = numbers @ question * (_SIGN_TO_COSINE / math.sqrt(question.size))
    clipped: list[float] = np.clip(estimate, -1.0, 1.0).tolist()
    return clipped


def unpacked(halfvec: bytes | None, numbers: bytes | None, signs: bytes | None) -> Vectors:
    """A vector of length 1 from what the database sends of it in binary form."""
    if halfvec is not None:  # two numbers of two bytes, and then the vector
        return np.frombuffer(halfvec, ">f2", offset=4).astype(np.float32)
    if numbers is not None:
        vector = np.frombuffer(numbers, np.int8)[_SCALE.size :].astype(np.float32)
    else:  # the number of bits, and then they
        count = int.from_bytes((signs or bytes(4))[:4], "big")
        bits = np.unpackbits(np.frombuffer((signs or bytes(4))[4:], np.uint8), count=count)
        vector = bits.astype(np.float32) * 2 - 1
    unit: Vectors = turned_back(vector / max(float(np.linalg.norm(vector)), 1e-12))[0]
    return unit


def packed_rows(
    tenant: str, model: int, hashes: Sequence[bytes], matrix: Vectors, storage: Storage
) -> bytes:
    """Rows of (tenant, model, hash, signs, bytes) in the binary form of COPY."""
    name = tenant.encode()
    head = (
        _COUNT(5) + _LENGTH(len(name)) + name + _LENGTH(2) + _COUNT(model) + _LENGTH(len(hashes[0]))
    )
    bits = _LENGTH(matrix.shape[1])
    signs = signs_of(matrix)
    numbers: Sequence[bytes | None] = (
        bytes_of(matrix) if storage == "int8" else [None] * len(hashes)
    )
    parts: list[bytes] = []
    for hash_, sign, number in zip(hashes, signs, numbers, strict=True):
        parts += [head, hash_, _LENGTH(4 + len(sign)), bits, sign]
        parts += [_LENGTH(-1)] if number is None else [_LENGTH(len(number)), number]
    return b"".join(parts)


def stored_bytes(dimensions: int, storage: Storage) -> int:
    """What one vector takes in the table, without the row's own head."""
    if storage == "halfvec":
        return 8 + 2 * dimensions
    signs = 8 + (dimensions + 7) // 8
    return signs + (4 + _SCALE.size + dimensions if storage == "int8" else 0)
