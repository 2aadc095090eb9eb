"""Small documents and rows for tests of stores, as effects, with vectors made from a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from penstock.records import Change, Column, Microseconds, Op, Position, Schema
from penstock.stores.base import (
    ApplyRows,
    ChunkText,
    DocumentVersion,
    Effect,
    ReplaceDocuments,
    Store,
    Vectors,
)

MODEL = "test-model"
DIMENSIONS = 8


def vector_of(text: str) -> Vectors:
    """A unit vector that depends on the text alone; rounded as it is stored."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).normal(size=DIMENSIONS)
    return (vector / np.linalg.norm(vector)).astype(np.float16).astype(np.float32)


@dataclass
class Doc:
    """A document to store; its chunks are its paragraphs."""

    key: str
    text: str
    source: str = "docs"
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    allow: Sequence[str] | None = None
    deny: Sequence[str] = ()
    stream: str | None = None
    row_key: Sequence[str | None] | None = None
    position: int = 1
    deleted: bool = False

    def version(self) -> DocumentVersion:
        """It as an effect carries it."""
        chunks, start = [], 0
        for part in self.text.split("\n\n"):
            end = start + len(part)
            hash_ = hashlib.sha256(part.encode()).digest()
            chunks.append(ChunkText(part, part, hash_, start, end, "", len(part.split())))
            start = end + 2
        return DocumentVersion(
            self.source,
            self.key,
            Position(f"{self.position:016x}"),
            Microseconds(self.position * 1_000_000),
            None if self.deleted else chunks,
            title=self.title,
            metadata=self.metadata,
            stream=self.stream,
            row_key=self.row_key,
            allow=self.allow,
            deny=self.deny,
        )


def replacing(*docs: Doc, head: str = "") -> ReplaceDocuments:
    """The effect that makes these the current versions; with a ``head``, each text has its first
    bytes for tokens."""
    versions = [doc.version() for doc in docs]
    texts = {chunk.hash: chunk.embedded for v in versions for chunk in v.chunks or ()}
    matrix = np.array([vector_of(text) for text in texts.values()], np.float32)
    return ReplaceDocuments(
        versions,
        MODEL,
        {h: i for i, h in enumerate(texts)},
        matrix.reshape(-1, DIMENSIONS),
        [text.encode()[:8] for text in texts.values()] if head else (),
        head,
    )


FLIGHTS = Schema(
    "shop",
    "public.flights",
    (
        Column("number", "text", key=True),
        Column("day", "date", key=True),
        Column("price", "numeric(8,2)"),
        Column("seats", "integer"),
        Column("departs_at", "timestamp with time zone"),
    ),
)


def flight(number: str, day: str, price: str, seats: str, departs: str, position: int) -> Change:
    """A flight as it is after a change."""
    return Change(
        FLIGHTS,
        Op.CREATE,
        (number, day),
        Position(f"{position:016x}"),
        Microseconds(position * 1_000_000),
        after=(number, day, price, seats, departs),
    )


def flight_doc(number: str, day: str, text: str, position: int = 1) -> Doc:
    """The searched text of a flight."""
    return Doc(
        f"flights/{number}/{day}",
        text,
        source="shop",
        title=f"Flight {number}",
        stream="public.flights",
        row_key=[number, day],
        position=position,
    )


async def store(target: Store, *effects: Effect) -> None:
    """Do effects in one transaction."""
    tables = [c.schema for e in effects if isinstance(e, ApplyRows) for c in e.changes]
    if tables:
        await target.prepare_tables(tables)
    async with target.transaction() as transaction:
        for effect in effects:
            await transaction.apply(effect)
