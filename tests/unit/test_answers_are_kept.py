"""An answer is kept before it is given out, whole or as far as it came; else it is not given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from penstock.errors import UnavailableError
from penstock.models.base import Generator, Message, Usage, Writer, Written
from penstock.principals import Principal
from penstock.serving.answer import Answer, Answerer, Asked, Spoken
from penstock.serving.context import ContextBuilder
from penstock.stores.base import Hit
from penstock.testing.snapshots import ScriptedSnapshots, WordEmbedder, passage

QUESTION = "Until when can I cancel a flight?"


class Kept:
    """Keeps answers in a list."""

    def __init__(self, error: Exception | None = None) -> None:
        self.whole: list[tuple[Asked, Answer]] = []
        self.parts: list[str] = []
        self._error = error

    async def keep(self, asked: Asked, answer: Answer) -> str | None:
        await asyncio.sleep(0)
        if self._error is not None:
            raise self._error
        self.whole.append((asked, answer))
        return f"ans_{len(self.whole)}"

    def cut(self, asked: Asked, answer: Answer) -> None:
        self.parts.append(answer.text)


class Pieces:
    """A generator of pieces; None: it fails there."""

    name = "pieces"

    def __init__(self, *pieces: str | None) -> None:
        self._pieces = pieces

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        for piece in self._pieces:
            if piece is None:
                raise UnavailableError("it went away")
            yield piece

    async def close(self) -> None:
        """Nothing is open."""


class Statements:
    """A generator of statements."""

    name = "statements"

    async def write(self, messages: Any, shape: Any) -> Written:
        items = [{"text": "24 hours.", "items": [1]}, {"text": "Invented.", "items": []}]
        return Written({"statements": items}, Usage(1, 10, 5, 0.5))

    async def close(self) -> None:
        """Nothing is open."""


def answerer(keeper: Kept, generator: Generator | Writer | None = None) -> Answerer:
    embedder = WordEmbedder()
    text = "You may cancel a flight up to 24 hours before departure."
    snapshots = ScriptedSnapshots(passages=[passage(1, text)], hits=[Hit(1, 0.9, 0.9)])
    builder = ContextBuilder(snapshots, embedder)
    return Answerer(builder, embedder=embedder, generator=generator, keeper=keeper)


async def test_g8_nothing_is_given_out_before_it_is_kept() -> None:
    """By extraction and in statements: not even the first piece of the text."""
    for generator in (None, Statements()):
        kept = Kept()
        pieces = answerer(kept, generator).stream(QUESTION, Principal("ada"))
        first = await anext(pieces)
        assert isinstance(first, str)
        assert [answer.text for _, answer in kept.whole] == [first]
        last = await anext(pieces)
        assert isinstance(last, Answer)
        assert last.id == "ans_1"
        assert "keep" in last.timings_ms


async def test_g8_what_cannot_be_kept_is_not_given_out() -> None:
    kept = Kept(UnavailableError("the database is away"))
    with pytest.raises(UnavailableError):
        await anext(answerer(kept).stream(QUESTION, Principal()))
    with pytest.raises(UnavailableError):
        await answerer(kept, Pieces("24", " hours [1]")).answer(QUESTION, Principal())


async def test_g8_what_a_generator_wrote_is_kept_as_it_wrote_it() -> None:
    kept = Kept()
    spoken = Spoken("And flights?", "ses_1", Usage(1, 1, 1, 0.25), "a note")
    stream = answerer(kept, Statements()).stream(QUESTION, Principal(), spoken=spoken, limit=3)
    answer = [piece async for piece in stream][-1]
    assert isinstance(answer, Answer)
    ((asked, _),) = kept.whole
    assert asked.spoken is spoken
    assert asked.asking.get("limit") == 3
    assert answer.raw is not None
    assert "Invented." in answer.raw
    assert "Invented." not in answer.text
    assert (answer.dropped, answer.shown) == (1, 1)
    assert answer.usage == Usage(2, 11, 6, 0.75)
    assert "a note" in answer.context.notes


async def test_g8_a_text_that_broke_off_is_kept_as_far_as_it_was_given_out() -> None:
    """The reader left, or the generator failed; one that gave nothing left nothing."""
    kept = Kept()
    left = answerer(kept, Pieces("24 hours [1] ", "and more")).stream(QUESTION, Principal())
    assert await anext(left) == "24 hours [1] "
    await left.aclose()  # type: ignore[attr-defined]
    assert kept.parts == ["24 hours [1]"]
    with pytest.raises(UnavailableError):
        await answerer(kept, Pieces("48 hours [1] ", None)).answer(QUESTION, Principal())
    assert kept.parts == ["24 hours [1]", "48 hours [1]"]
    with pytest.raises(UnavailableError):
        await answerer(kept, Pieces(None)).answer(QUESTION, Principal())
    assert len(kept.parts) == 2
    assert kept.whole == []


async def test_answers_for_measuring_are_not_kept() -> None:
    kept = Kept()
    answer = await answerer(kept).unkept().answer(QUESTION, Principal())
    assert answer.id is None
    assert kept.whole == []
