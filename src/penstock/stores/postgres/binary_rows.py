"""Rows in the binary form of PostgreSQL's COPY, packed many at a time. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from penstock.stores.base import Vectors

HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
TRAILER: Final = struct.pack(">h", -1)

_LENGTH: Final = struct.Struct(">i").pack


def field(value: bytes) -> bytes:
    """A value with its length before it."""
    return _LENGTH(len(value)) + value


def vector_rows(
    tenant: str,
    model: int,
    hashes: Sequence[bytes],
    matrix: Vectors,
    tokens: Sequence[bytes] = (),
    head: str = "",
) -> bytes:
    """Rows of (tenant, model, hash, embedding halfvec), and (head, tokens) if there are ``tokens``;
    all hashes have one length."""
    count, dimensions = matrix.shape
    name = tenant.encode()
    width = len(hashes[0])
    layout = np.dtype(
        [
            ("columns", ">i2"),
            ("tenant_length", ">i4"),
            ("tenant", f"V{len(name)}"),
            ("model_length", ">i4"),
            ("model", ">i2"),
            ("hash_length", ">i4"),
            ("hash", f"V{width}"),
            ("vector_length", ">i4"),
            ("dimensions", ">i2"),
            ("unused", ">i2"),
            ("vector", ">f2", (dimensions,)),
        ]
    )
    rows = np.zeros(count, layout)
    rows["columns"] = 6 if tokens else 4
    rows["tenant_length"] = len(name)
    rows["tenant"] = np.void(name)
    rows["model_length"] = 2
    rows["model"] = model
    rows["hash_length"] = width
    rows["hash"] = np.frombuffer(b"".join(hashes), f"V{width}")
    rows["vector_length"] = 4 + 2 * dimensions
    rows["dimensions"] = dimensions
    rows["vector"] = matrix
    if not tokens:
        return rows.tobytes()
    encoded = field(head.encode())
    parts: list[bytes] = []
    for row, packed in zip(rows, tokens, strict=True):
        parts += (row.tobytes(), encoded, _LENGTH(len(packed)), packed)
    return b"".join(parts)


_CHUNK: Final = struct.Struct(">hiqiqihiiiiiii").pack


def chunk_rows(
    tenant: str,
    model: int,
    chunks: Iterable[tuple[int, int, bytes, str, str, int, int, str, int]],
) -> bytes:
    """Rows of (id, document_id, model, terms, tokens, skipped, hash, heading, text, before, tenant)
    from tuples (id, document id, hash, heading, text, terms, tokens, before, skipped)."""
    name = field(tenant.encode())
    parts: list[bytes] = []
    add = parts.append
    for id_, document, hash_, heading, text, terms, tokens, before, skipped in chunks:
        counts = (4, terms, 4, tokens, 4, skipped)
        add(_CHUNK(11, 8, id_, 8, document, 2, model, *counts, len(hash_)))
        add(hash_)
        for value in (heading, text, before):
            encoded = value.encode()
            add(_LENGTH(len(encoded)))
            add(encoded)
        add(name)
    return b"".join(parts)


_POSTING: Final = struct.Struct(">hi").pack


def posting_rows(
    tenant: str, block: int, terms: Sequence[str], lists: Iterable[tuple[bytes, bytes, bytes]]
) -> bytes:
    """Rows of (term, chunk_ids, frequencies, lengths, tenant, block)."""
    tail = field(tenant.encode()) + field(struct.pack(">q", block))
    parts: list[bytes] = []
    add = parts.append
    for term, (ids, frequencies, lengths) in zip(terms, lists, strict=True):
        encoded = term.encode()
        add(_POSTING(6, len(encoded)))
        add(encoded)
        add(_LENGTH(len(ids)))
        add(ids)
        add(_LENGTH(len(frequencies)))
        add(frequencies)
        add(_LENGTH(len(lengths)))
        add(lengths)
        add(tail)
    return b"".join(parts)
