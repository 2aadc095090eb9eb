"""Changes of documents and rows become document versions with vectors."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from penstock.errors import BadRecordError
from penstock.models.base import Priority, Vectors
from penstock.pipelines.base import Outcome, Tools
from penstock.pipelines.knowledge.chunker import ChunkSettings
from penstock.pipelines.knowledge.pipeline import KnowledgePipeline, SearchedRow
from penstock.records import (
    UNCHANGED,
    Change,
    Column,
    LogPosition,
    Microseconds,
    Op,
    Position,
    Row,
    Schema,
    document_schema,
)
from penstock.stores.base import (
    DocumentVersion,
    ReplaceDocuments,
    Transaction,
    TruncateDocuments,
)

FLIGHTS = Schema(
    "shop",
    "public.flights",
    (
        Column("number", "text", key=True),
        Column("origin", "text"),
        Column("notes", "text"),
        Column("price", "numeric"),
    ),
)
DOCS = document_schema("docs")
PIPELINE = KnowledgePipeline(
    "knowledge",
    ("shop",),
    ChunkSettings(),
    {"public.flights": SearchedRow(("number", "origin", "notes"), "Flight {number}")},
)


@dataclass
class Model:
    name: str = "model"
    dimensions: int = 2
    max_tokens: int = 50
    asked: list[str] = field(default_factory=list)
    priorities: list[Priority] = field(default_factory=list)
    counted: int = 0

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        self.counted += len(texts)
        return [len(text.split()) for text in texts]

    async def embed(self, texts: Sequence[str], *, priority: Priority = "live") -> Vectors:
        if any("forbidden" in text for text in texts):
            raise BadRecordError("the text is refused")
        self.asked.extend(texts)
        self.priorities.append(priority)
        return np.asarray([[len(text), 1.0] for text in texts], np.float32)

    async def close(self) -> None: ...


@dataclass
class Memory:
    known: set[bytes] = field(default_factory=set)
    metadata: dict[str, tuple[Position, Mapping[str, Any]]] = field(default_factory=dict)

    async def passed(self, consumer: str, topic: str, partition: int) -> Position | None:
        return None

    async def known_vectors(
        self, model: str, hashes: Sequence[bytes], head: str = ""
    ) -> set[bytes]:
        return self.known.intersection(hashes)

    async def stored_metadata(
        self, source: str, keys: Sequence[str]
    ) -> Mapping[str, tuple[Position, Mapping[str, Any]]]:
        return {key: self.metadata[key] for key in keys if key in self.metadata}

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        raise NotImplementedError

    async def position(self, consumer: str, topic: str, partition: int) -> LogPosition:
        raise NotImplementedError

    async def prepare_tables(self, schemas: Sequence[Schema]) -> None:
        raise NotImplementedError


def change(
    schema: Schema, op: Op, key: str, number: int, after: Row | None = None, **more: Any
) -> Change:
    position = Position(f"{number:04}")
    return Change(schema, op, (key,), position, Microseconds(number), after, **more)


def flight(op: Op, key: str, number: int, *values: Any, **more: Any) -> Change:
    return change(FLIGHTS, op, key, number, (key, *values) if values else None, **more)


def paper(
    op: Op, path: str, number: int, text: str | None = None, error: str | None = None
) -> Change:
    after = None
    if op is not Op.DELETE:
        metadata = json.dumps({"team": "legal"})
        after = (path, "Title", "text/plain", text, "hash", "1", None, metadata, error)
    return change(DOCS, op, path, number, after)


async def computed(
    changes: Sequence[Change],
    *,
    model: Model | None = None,
    memory: Memory | None = None,
    pipeline: KnowledgePipeline = PIPELINE,
) -> Outcome:
    return await pipeline.compute(changes, Tools(model or Model(), memory or Memory()))


def versions(outcome: Outcome) -> dict[str, DocumentVersion]:
    found = [effect for effect in outcome.effects if isinstance(effect, ReplaceDocuments)]
    return {version.key: version for effect in found for version in effect.documents}


def texts(version: DocumentVersion) -> list[str]:
    return [chunk.embedded for chunk in version.chunks or ()]


async def test_a_document_becomes_a_version_with_chunks_and_vectors() -> None:
    """Title, metadata and position come along; each text has its own vector."""
    outcome = await computed([paper(Op.CREATE, "a.md", 1, "# One\n\nfirst\n\n# Two\n\nsecond")])
    version = versions(outcome)["a.md"]
    assert (version.title, version.metadata, version.position) == (
        "Title",
        {"team": "legal"},
        "0001",
    )
    assert texts(version) == ["Title > One\nfirst", "Title > Two\nsecond"]
    (effect,) = outcome.effects
    assert isinstance(effect, ReplaceDocuments)
    for chunk in version.chunks or ():
        assert effect.matrix[effect.vectors[chunk.hash]][0] == len(chunk.embedded)
    assert (outcome.embedded, outcome.reused) == (2, 0)


async def test_g1_only_the_last_version_of_a_key_is_worked_on() -> None:
    """In one batch, earlier versions cost nothing."""
    model = Model()
    outcome = await computed(
        [
            paper(Op.CREATE, "a", 1, "old"),
            paper(Op.CREATE, "b", 2, "kept"),
            paper(Op.UPDATE, "a", 3, "new"),
            paper(Op.DELETE, "c", 4),
        ],
        model=model,
    )
    assert list(versions(outcome)) == ["b", "a", "c"]
    assert versions(outcome)["c"].chunks is None
    assert model.asked == ["Title\nkept", "Title\nnew"]


async def test_g5_a_text_is_embedded_once_and_never_again() -> None:
    """Equal texts of a batch share a vector; stored ones are not computed."""
    model, memory = Model(), Memory()
    first = await computed(
        [paper(Op.CREATE, "a", 1, "x"), paper(Op.CREATE, "b", 2, "x")], model=model
    )
    assert (first.embedded, first.reused, model.asked) == (1, 1, ["Title\nx"])
    memory.known = {chunk.hash for chunk in versions(first)["a"].chunks or ()}
    second = await computed([paper(Op.UPDATE, "a", 3, "x")], model=model, memory=memory)
    assert (second.embedded, second.reused, len(model.asked)) == (0, 1, 1)


async def test_g13_a_broken_document_is_rejected_with_its_reason() -> None:
    """The version before keeps serving, even one in the same batch."""
    outcome = await computed(
        [paper(Op.CREATE, "a", 1, "good"), paper(Op.UPDATE, "a", 2, None, "not a PDF")]
    )
    assert [(item.change.position, item.reason) for item in outcome.rejected] == [
        ("0002", "not a PDF")
    ]
    assert versions(outcome)["a"].position == "0001"


async def test_g13_a_text_that_the_model_refuses_rejects_its_document_only() -> None:
    """The others of the batch go on."""
    changes = [paper(Op.CREATE, f"d{i}", i, f"text {i}") for i in range(7)]
    changes[4] = paper(Op.CREATE, "d4", 4, "forbidden")
    outcome = await computed(changes)
    assert [item.change.key for item in outcome.rejected] == [("d4",)]
    assert sorted(versions(outcome)) == ["d0", "d1", "d2", "d3", "d5", "d6"]
    (effect,) = outcome.effects
    assert isinstance(effect, ReplaceDocuments)
    for version in effect.documents:
        for chunk in version.chunks or ():
            assert effect.matrix[effect.vectors[chunk.hash]][0] == len(chunk.embedded)


async def test_a_row_is_found_by_its_labelled_searched_columns() -> None:
    """What is only shown is not embedded; the key is escaped into the document's name."""
    outcome = await computed([flight(Op.CREATE, "PS/204", 1, "Oslo", None, "99")])
    version = versions(outcome)["public.flights/PS%2F204"]
    assert texts(version) == ["flights\nnumber: PS/204. origin: Oslo."]
    assert (version.title, version.stream, version.row_key) == (
        "Flight PS/204",
        "public.flights",
        ("PS/204",),
    )
    assert version.metadata == {"number": "PS/204", "origin": "Oslo"}


async def test_g5_an_update_of_shown_columns_does_nothing() -> None:
    """When the source sent the row before, nothing is even compared with the store."""
    update = flight(Op.UPDATE, "A", 1, "Oslo", "late", "9", before=("A", "Oslo", "late", "8"))
    assert (await computed([update])).effects == ()


async def test_g5_an_update_of_shown_columns_embeds_nothing_when_only_the_key_was_sent() -> None:
    """The hash of the text says that its vector is stored."""
    model, memory = Model(), Memory()
    first = await computed([flight(Op.CREATE, "A", 1, "Oslo", "late", "8")])
    memory.known = {chunk.hash for chunk in versions(first)["public.flights/A"].chunks or ()}
    second = await computed(
        [flight(Op.UPDATE, "A", 2, "Oslo", "late", "9", before=("A", None, None, None))],
        model=model,
        memory=memory,
    )
    assert model.asked == []
    assert texts(versions(second)["public.flights/A"]) == texts(versions(first)["public.flights/A"])


async def test_a_row_that_moves_to_another_key_leaves_the_old_one() -> None:
    """A key update is a delete and a put at one position."""
    moved = flight(Op.UPDATE, "B", 2, "Oslo", None, "9", old_key=("A",))
    found = versions(await computed([moved]))
    assert found["public.flights/A"].chunks is None
    assert found["public.flights/A"].row_key == ("A",)
    assert texts(found["public.flights/B"]) == ["flights\nnumber: B. origin: Oslo."]


async def test_an_unchanged_value_is_taken_from_the_change_before() -> None:
    """A value that was not sent is never NULL or a mark."""
    changes = [
        flight(Op.CREATE, "A", 1, "Oslo", "long notes", "8"),
        flight(Op.UPDATE, "A", 2, "Rome", UNCHANGED, "9"),
    ]
    version = versions(await computed(changes))["public.flights/A"]
    assert texts(version) == ["flights\nnumber: A. origin: Rome. notes: long notes."]
    assert version.based_on is None


async def test_an_unchanged_value_is_taken_from_the_stored_version() -> None:
    """And the new version says on which one it rests."""
    memory = Memory()
    memory.metadata["public.flights/A"] = Position("0001"), {"notes": "long notes"}
    update = flight(Op.UPDATE, "A", 2, "Rome", UNCHANGED, "9")
    version = versions(await computed([update], memory=memory))["public.flights/A"]
    assert texts(version) == ["flights\nnumber: A. origin: Rome. notes: long notes."]
    assert version.based_on == "0001"


async def test_an_unchanged_value_moves_with_its_row() -> None:
    """Also when the row is stored under another key."""
    memory = Memory()
    memory.metadata["public.flights/A"] = Position("0001"), {"notes": "long notes"}
    update = flight(Op.UPDATE, "B", 2, "Rome", UNCHANGED, "9", old_key=("A",))
    found = versions(await computed([update], memory=memory))
    assert texts(found["public.flights/B"]) == [
        "flights\nnumber: B. origin: Rome. notes: long notes."
    ]
    moved = found["public.flights/B"]
    assert (moved.based_on, moved.base) == ("0001", "public.flights/A")


async def test_an_unchanged_value_moves_on_with_its_row() -> None:
    """By way of a key that nothing was ever stored under: two rows trade keys through a third."""
    memory = Memory()
    memory.metadata["public.flights/A"] = Position("0001"), {"notes": "notes of A"}
    memory.metadata["public.flights/B"] = Position("0001"), {"notes": "notes of B"}
    changes = [
        flight(Op.UPDATE, "X", 2, "Rome", UNCHANGED, "9", old_key=("A",)),
        flight(Op.UPDATE, "A", 3, "Oslo", UNCHANGED, "9", old_key=("B",)),
        flight(Op.UPDATE, "B", 4, "Rome", UNCHANGED, "9", old_key=("X",)),
        flight(Op.UPDATE, "B", 5, "Nice", UNCHANGED, "9"),
    ]
    found = versions(await computed(changes, memory=memory))
    assert texts(found["public.flights/A"])[0].endswith("A. origin: Oslo. notes: notes of B.")
    assert texts(found["public.flights/B"])[0].endswith("B. origin: Nice. notes: notes of A.")
    assert found["public.flights/X"].chunks is None


async def test_g1_rows_that_trade_keys_in_one_transaction_keep_their_texts() -> None:
    """The row that leaves is not the one that has come there, as its old values show."""
    one, other = ("A", "Rome", None, "9"), ("B", "Oslo", None, "8")
    changes = [
        flight(Op.UPDATE, "B", 2, *one[1:], old_key=("A",), before=one, transaction="7"),
        flight(Op.UPDATE, "A", 3, *other[1:], old_key=("B",), before=other, transaction="7"),
    ]
    found = versions(await computed(changes))
    assert texts(found["public.flights/A"]) == ["flights\nnumber: A. origin: Oslo."]
    assert texts(found["public.flights/B"]) == ["flights\nnumber: B. origin: Rome."]


async def test_g2_equal_rows_that_trade_keys_in_one_transaction_are_both_there() -> None:
    """Of the one, only what the transaction itself brought is gone; also after a third value."""
    one, other = ("A", "Rome", None, "9"), ("B", "Rome", None, "9")
    trade = [
        flight(Op.UPDATE, "B", 2, *one[1:], old_key=("A",), before=one, transaction="7"),
        flight(Op.UPDATE, "A", 3, *other[1:], old_key=("B",), before=other, transaction="7"),
    ]
    found = versions(await computed(trade))
    assert texts(found["public.flights/A"]) == ["flights\nnumber: A. origin: Rome."]
    gone = found["public.flights/B"]
    assert (gone.chunks, gone.since, gone.row_key) == (None, Position("0002"), ("B",))
    known = flight(Op.UPDATE, "B", 1, *one[1:], transaction="6")
    found = versions(await computed([known, *trade]))
    assert texts(found["public.flights/B"]) == ["flights\nnumber: B. origin: Rome."]


async def test_g4_a_truncate_removes_what_came_before_it() -> None:
    """Also in the same batch; what comes after stays."""
    outcome = await computed(
        [
            flight(Op.CREATE, "A", 1, "Oslo", None, "8"),
            Change(FLIGHTS, Op.TRUNCATE, (), Position("0002"), Microseconds(2)),
            flight(Op.CREATE, "B", 3, "Oslo", None, "8"),
        ]
    )
    assert outcome.effects[0] == TruncateDocuments("shop", "public.flights", Position("0002"))
    assert list(versions(outcome)) == ["public.flights/B"]


async def test_other_streams_are_not_touched() -> None:
    """A table without searched columns is no business of this pipeline."""
    other = Schema("shop", "public.prices", (Column("id", "int", key=True),))
    outcome = await computed([change(other, Op.CREATE, "1", 1, ("1",))])
    assert outcome == Outcome(())
    assert PIPELINE.streams == {"documents", "public.flights"}


async def test_characters_that_no_database_holds_are_replaced_in_place() -> None:
    """Offsets stay right."""
    version = versions(await computed([paper(Op.CREATE, "a", 1, "one\x00two \ud800")]))["a"]
    assert [chunk.text for chunk in version.chunks or ()] == ["one\ufffdtwo \ufffd"]


async def test_an_edited_document_is_counted_only_where_it_is_new() -> None:
    """Counting tokens is remembered by text."""
    pipeline = KnowledgePipeline("k", ("docs",), ChunkSettings())
    model = Model()
    paragraphs = [f"paragraph number {i} " + "with words " * 15 for i in range(50)]
    await computed(
        [paper(Op.CREATE, "a", 1, "\n\n".join(paragraphs))], model=model, pipeline=pipeline
    )
    before = model.counted
    paragraphs[25] += "and more"
    await computed(
        [paper(Op.UPDATE, "a", 2, "\n\n".join(paragraphs))], model=model, pipeline=pipeline
    )
    assert 0 < model.counted - before <= 2


def test_a_pipeline_can_be_sent_to_another_process() -> None:
    """It is data: equal after pickling, and without what it only remembers."""
    assert pickle.loads(pickle.dumps(PIPELINE)) == PIPELINE
