"""What holds for chunks of any text."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipelines.knowledge.chunker import Chunker, ChunkSettings, Titled
from penstock.stores.base import ChunkText

LINES = st.one_of(
    st.sampled_from(["", "# One", "## Two", "### Three", "- item", "1. item", "```", "| a | b |"]),
    st.sampled_from(["|---|---|", "| 1 | two words |", "====", "----", "~~~", "> quoted", "\r"]),
    st.sampled_from(["\f", "Ends here:", "   "]),
    st.text(max_size=80),
    st.text(alphabet="ab .!?\n", max_size=200),
    st.text(alphabet="漢字かな。、", max_size=120),
)
TEXTS = st.lists(LINES, max_size=25).map("\n".join)
SETTINGS = st.builds(
    ChunkSettings,
    size=st.none() | st.integers(16, 200),
    overlap=st.integers(0, 8),
    unit=st.sampled_from(["tokens", "characters"]),
    context=st.booleans(),
    join_below=st.sampled_from([0.0, 0.25, 1.0]),
    join_to=st.sampled_from([0.0, 0.4, 1.0]),
)


def count(texts: Sequence[str]) -> list[int]:
    """A token for every four characters of a word, and at least one."""
    return [sum((len(word) + 3) // 4 for word in text.split()) for text in texts]


def cut(text: str, chosen: ChunkSettings, limit: int) -> list[ChunkText]:
    return Chunker(chosen, limit, count).chunk([Titled("A title", text)])[0]


@given(TEXTS, SETTINGS, st.integers(20, 300))
@settings(max_examples=300, deadline=None)
def test_chunks_cover_all_text_in_order_with_exact_offsets(
    text: str, chosen: ChunkSettings, limit: int
) -> None:
    """Each chunk is a piece of the document; together they are all of it but white space."""
    found = cut(text, chosen, limit)
    reached = 0
    for chunk in found:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip()
        assert not text[reached : chunk.start].strip()
        assert chunk.end > reached
        reached = chunk.end
    assert not text[reached:].strip()


@given(TEXTS, SETTINGS, st.integers(20, 300))
@settings(max_examples=300, deadline=None)
def test_no_chunk_is_longer_than_the_model_reads(
    text: str, chosen: ChunkSettings, limit: int
) -> None:
    """What is embedded, context and overlap included, is within the model's limit."""
    found = cut(text, chosen, limit)
    assert all(tokens <= limit for tokens in count([chunk.embedded for chunk in found]))


@given(TEXTS, st.integers(16, 120), st.integers(20, 300))
@settings(max_examples=200, deadline=None)
def test_no_chunk_has_more_characters_than_asked(text: str, size: int, limit: int) -> None:
    """A size in characters holds for the text that is embedded."""
    chosen = ChunkSettings(size=size, unit="characters", context=False)
    assert all(len(chunk.embedded) <= size for chunk in cut(text, chosen, limit))


@given(TEXTS, SETTINGS, st.integers(20, 300))
@settings(max_examples=100, deadline=None)
def test_the_same_text_gives_the_same_chunks(text: str, chosen: ChunkSettings, limit: int) -> None:
    """In whatever company: alone, or in a batch of documents."""
    chunker = Chunker(chosen, limit, count)
    alone = cut(text, chosen, limit)
    other = Titled("Other", "Some. Other text.\n\n" * 30)
    assert chunker.chunk([other, Titled("A title", text), other])[1] == alone


@given(st.lists(st.text(alphabet="abcde ", min_size=3, max_size=60), min_size=30, max_size=80))
@settings(max_examples=100, deadline=None)
def test_text_added_at_the_end_leaves_the_beginning_alone(paragraphs: list[str]) -> None:
    """An edit reaches the chunks beside it, not those far away."""
    chosen = ChunkSettings()
    before = cut("\n\n".join(paragraphs), chosen, 32)
    after = cut("\n\n".join([*paragraphs, "something new at the very end"]), chosen, 32)
    far = [chunk.hash for chunk in before[: len(before) // 4]]
    assert [chunk.hash for chunk in after[: len(far)]] == far
