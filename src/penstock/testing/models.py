"""The conformance suite of embedders: every promise of `penstock.models.base.Embedder`, as tests.

Derive from `EmbedderSuite` in a test module and write the fixture ``embedder``, which closes what
it made.

    class TestMyEmbedder(EmbedderSuite):
        @pytest.fixture
        async def embedder(self):
            ...
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from penstock.models.base import Embedder, Priority, Vectors

TEXTS = (
    "The ferry to Lanra leaves at nine.",
    "Hand luggage may weigh eight kilograms.",
    "A refund is paid within seven days of the cancellation, to the card that was charged.",
    "Zimmer mit Meerblick kosten 140 €.",
    "船は九時に出ます。",
    "x",
)
ODD = ("", " \n\t", "\0\0", "half of a pair: \ud83d", "🛳️" * 50, "a" * 5000, "\u202e\u200b\ufeff")
PRIORITIES: tuple[Priority, ...] = ("query", "live", "bulk")
TOLERANCE = 1e-3


class EmbedderSuite:
    """What every embedder does."""

    async def test_one_vector_per_text(self, embedder: Embedder) -> None:
        """The matrix has a row for each text, and the dimensions that are announced."""
        self.check(await embedder.embed(TEXTS), len(TEXTS), embedder)

    async def test_no_texts(self, embedder: Embedder) -> None:
        """No texts give no rows, of the right width."""
        assert (await embedder.embed([])).shape == (0, embedder.dimensions)

    async def test_order_is_kept(self, embedder: Embedder) -> None:
        """Each vector is that of its own text, whatever the others and their lengths are."""
        texts = [f"{text} Number {i}." * (1 + i % 5) for i in range(20) for text in TEXTS]
        together = await embedder.embed(texts, priority="bulk")
        backwards = await embedder.embed(texts[::-1], priority="bulk")
        self.check(together, len(texts), embedder)
        assert np.abs(together - backwards[::-1]).max() < TOLERANCE
        for number in (0, 7, len(texts) - 1):
            alone = await embedder.embed([texts[number]])
            assert np.abs(alone[0] - together[number]).max() < TOLERANCE

    @pytest.mark.parametrize("priority", PRIORITIES)
    async def test_same_text_same_vector(self, embedder: Embedder, priority: Priority) -> None:
        """Whoever asks, and however often, a text has one vector."""
        first = await embedder.embed(TEXTS[:1])
        again = await embedder.embed(TEXTS[:1], priority=priority)
        once_more = await embedder.embed(TEXTS[:1], priority=priority)
        assert np.abs(first - again).max() < TOLERANCE
        assert np.abs(first - once_more).max() < TOLERANCE

    async def test_a_result_is_the_callers(self, embedder: Embedder) -> None:
        """What a caller does to its vectors changes nobody else's."""
        first = await embedder.embed(TEXTS[:1], priority="query")
        kept = first.copy()
        first[:] = 0
        assert np.abs(await embedder.embed(TEXTS[:1], priority="query") - kept).max() < TOLERANCE

    async def test_texts_differ(self, embedder: Embedder) -> None:
        """Different texts have different vectors."""
        vectors = await embedder.embed(TEXTS)
        likeness = vectors @ vectors.T - 2 * np.eye(len(TEXTS))
        assert likeness.max() < 0.999

    @pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
    async def test_odd_texts(self, embedder: Embedder, text: str) -> None:
        """Nothing that is a text to Python breaks an embedder."""
        self.check(await embedder.embed([text]), 1, embedder)
        self.check(await embedder.embed([text, *TEXTS]), 1 + len(TEXTS), embedder)
        assert embedder.count_tokens([text])[0] >= 0

    async def test_a_megabyte(self, embedder: Embedder) -> None:
        """A text much longer than the model reads is cut."""
        text = "The quick brown fox jumps. " * 40_000
        self.check(await embedder.embed([text, TEXTS[0]]), 2, embedder)

    async def test_counts_tokens(self, embedder: Embedder) -> None:
        """One count per text, none for nothing, more for more; alone or with others."""
        assert embedder.count_tokens([]) == []
        assert embedder.max_tokens > 0
        counts = embedder.count_tokens(["", "one", "one two three four five", *TEXTS])
        assert counts[0] == 0 < counts[1] < counts[2]
        assert counts[3:] == [embedder.count_tokens([text])[0] for text in TEXTS]

    async def test_all_priorities_at_once(self, embedder: Embedder) -> None:
        """Calls of all priorities share the embedder, and each gets its own vectors."""
        alone = await embedder.embed(TEXTS)

        async def ask(number: int) -> None:
            turned = np.roll(np.arange(len(TEXTS)), number)
            texts: Sequence[str] = [TEXTS[i] for i in turned]
            found = await embedder.embed(texts, priority=PRIORITIES[number % 3])
            assert np.abs(found - alone[turned]).max() < TOLERANCE

        await asyncio.gather(*(ask(number) for number in range(30)))

    async def test_cancelled_and_asked_again(self, embedder: Embedder) -> None:
        """A call that is cancelled (unless it is done already) leaves the embedder in order."""
        many = [f"{text} {i}" for i in range(50) for text in TEXTS]
        task = asyncio.ensure_future(embedder.embed(many, priority="bulk"))
        await asyncio.sleep(0)
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(outcome, asyncio.CancelledError):
            assert not isinstance(outcome, BaseException)
            assert len(outcome) == len(many)
        self.check(await embedder.embed(TEXTS, priority="bulk"), len(TEXTS), embedder)

    async def test_close_is_final_and_repeatable(self, embedder: Embedder) -> None:
        """Closing twice is no error."""
        await embedder.embed(TEXTS[:1])
        await embedder.close()
        await embedder.close()

    def check(self, vectors: Vectors, count: int, embedder: Embedder) -> None:
        """The right shape, finite, of length 1."""
        assert vectors.shape == (count, embedder.dimensions)
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()
        assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < TOLERANCE
