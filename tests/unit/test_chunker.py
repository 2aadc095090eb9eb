"""Documents into chunks: structure, context, sizes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from time import process_time

import pytest

from penstock.errors import ConfigError
from penstock.pipelines.knowledge.chunker import Chunker, ChunkSettings, Titled
from penstock.stores.base import ChunkText

VOCABULARY = """
river turbine pressure valve water stone bridge ticket luggage window station harbour
captain engine weather mountain garden letter kitchen market
"""
WORDS = VOCABULARY.split()


def count(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def chunks(text: str, title: str = "", limit: int = 60, **settings: object) -> list[ChunkText]:
    chunker = Chunker(ChunkSettings(**settings), limit, count)  # type: ignore[arg-type]
    return chunker.chunk([Titled(title, text)])[0]


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(6, 16))).capitalize() + "."


def document(rng: random.Random, paragraphs: int, sentences: int = 5) -> list[list[str]]:
    return [[sentence(rng) for _ in range(sentences)] for _ in range(paragraphs)]


def written(paragraphs: list[list[str]], separator: str = "\n\n") -> str:
    return separator.join(" ".join(paragraph) for paragraph in paragraphs)


def test_a_paragraph_that_the_model_can_read_stays_whole() -> None:
    """Paragraphs are not cut while they fit."""
    rng = random.Random(1)
    paragraphs = document(rng, 5, 5)
    texts = [chunk.text for chunk in chunks(written(paragraphs), limit=100, join_below=0)]
    assert texts == [" ".join(paragraph) for paragraph in paragraphs]


def test_headings_become_the_context_of_what_stands_under_them() -> None:
    """The model reads title and heading path; the passage shows its heading line."""
    text = "# Guide\n\nIntro.\n\n## Bags\n\n### Cabin\n\nOne bag.\n\n## Seats\n\nChoose one."
    found = chunks(text, "Travel")
    assert [chunk.heading for chunk in found] == [
        "Guide",
        "Guide > Bags > Cabin",
        "Guide > Seats",
    ]
    assert found[1].text == "## Bags\n\n### Cabin\n\nOne bag."
    assert found[1].embedded == "Travel > Guide > Bags > Cabin\nOne bag."


def test_a_title_that_is_the_first_heading_is_read_once() -> None:
    """Title and top heading are often the same."""
    assert chunks("# Guide\n\nIntro.", "Guide")[0].embedded == "Guide\nIntro."


def test_underlined_headings_are_headings() -> None:
    """Setext and reStructuredText write headings with a line under them."""
    found = chunks("Guide\n=====\n\nIntro.\n\nBags\n----\n\nOne.\n\nCabin\n~~~~~\n\nTwo.")
    assert [chunk.heading for chunk in found] == ["Guide", "Guide > Bags", "Guide > Bags > Cabin"]


def test_a_title_with_a_line_above_and_below_is_a_heading() -> None:
    """As reStructuredText writes the title of a page."""
    found = chunks("=====\nGuide\n=====\n\nIntro.\n\nBags\n----\n\nOne.")
    assert [chunk.heading for chunk in found] == ["Guide", "Guide > Bags"]


def test_a_comment_in_indented_code_is_no_heading() -> None:
    """Shell and Python comments begin like Markdown's headings."""
    text = "# Guide\n\nRun this:\n\n    # a comment\n    run\n\n    dogs\n    ----\n\nThen go on."
    assert {chunk.heading for chunk in chunks(text)} == {"Guide"}


@pytest.mark.parametrize("label", [".. _bags:", '<a name="bags"></a>'])
def test_g5_a_place_to_link_to_belongs_to_the_heading_behind_it(label: str) -> None:
    """A section that is put in before another leaves the one before it alone."""
    text = f"Guide\n=====\n\nIntro.\n\n{label}\n\nBags\n----\n\nOne."
    more = text.replace(label, f".. _cabin:\n\nCabin\n-----\n\nTwo.\n\n{label}")
    before, after = chunks(text), chunks(more)
    assert [chunk.embedded for chunk in before] == ["Guide\nIntro.", "Guide > Bags\nOne."]
    assert before[1].text == f"{label}\n\nBags\n----\n\nOne."
    assert {c.hash for c in before} < {c.hash for c in after}


def test_a_heading_with_nothing_under_it_is_kept() -> None:
    """No text is lost, even when a section is empty."""
    found = chunks("# One\n\n# Two\n\ntext")
    assert [chunk.text for chunk in found] == ["# One", "# Two\n\ntext"]


def test_a_size_in_characters_counts_the_header_that_a_table_part_repeats() -> None:
    """What is put before the rows takes room from them, or is left out where it would be most."""
    rows = "\n".join(f"| {number} | some words |" for number in range(20))
    table = f"| no | text |\n|---|---|\n{rows}"
    parts = chunks(table, size=120, unit="characters", context=False)
    assert max(len(part.embedded) for part in parts) <= 120
    assert all(part.embedded.startswith("| no | text |") for part in parts)
    narrow = chunks("|---|---|\n" * 4, size=16, unit="characters", context=False)
    assert max(len(part.embedded) for part in narrow) <= 16


def test_a_table_is_cut_between_rows_and_every_part_knows_the_header() -> None:
    """What is embedded of a later part begins with the header; the passage does not."""
    rows = "\n".join(f"| {i} | place{i} | {i * 3} |" for i in range(30))
    found = chunks(f"| no | name | price |\n|---|---|---|\n{rows}", limit=60)
    assert len(found) > 3
    for chunk in found[1:]:
        assert chunk.embedded.startswith("| no | name | price |\n|---|---|---|\n| ")
        assert not chunk.text.startswith("| no ")
        assert chunk.text.endswith("|")


def test_marks_inside_a_code_fence_are_code() -> None:
    """A comment in a fence is no heading, an empty line there ends nothing."""
    text = "```sh\n# not a heading\n\n- not an item\n```\n\nafter"
    (chunk,) = chunks(text)
    assert (chunk.heading, chunk.text) == ("", text)


def test_without_context_the_text_is_all_that_is_read() -> None:
    """``context=False`` embeds passages as they are."""
    (chunk,) = chunks("# Guide\n\nIntro.", "Travel", context=False)
    assert chunk.embedded == chunk.text == "# Guide\n\nIntro."


def test_a_thousand_characters_with_a_hundred_overlap_is_one_setting() -> None:
    """Chunks are at most that long and begin with the end of the one before."""
    text = " ".join(written(document(random.Random(2), 30), " ").split())
    found = chunks(text, limit=1000, size=1000, overlap=100, unit="characters")
    assert len(found) > 5
    assert all(len(chunk.text) <= 1000 for chunk in found)
    overlaps = [a.end - b.start for a, b in pairwise(found)]
    assert all(60 < overlap <= 100 for overlap in overlaps)


def test_too_long_a_title_leaves_room_for_the_text() -> None:
    """Context takes a quarter of what the model reads, at most."""
    found = chunks(written(document(random.Random(3), 3)), "long " * 500, limit=40)
    assert all(count([chunk.embedded])[0] <= 40 for chunk in found)
    assert found[0].text


@pytest.mark.parametrize(
    "settings",
    [{"size": 3}, {"size": 100, "overlap": 60}, {"overlap": -1}, {"join_below": 2.0}],
)
def test_settings_that_cannot_be_kept_are_refused(settings: dict[str, float]) -> None:
    """Wrong sizes are found before anything is cut."""
    with pytest.raises(ConfigError, match="expected"):
        ChunkSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("separator", ["\n\n", " "])
def test_g5_one_changed_sentence_changes_at_most_two_chunks(separator: str) -> None:
    """Also in a long document without headings, or without paragraphs."""
    changed = []
    for seed in range(60):
        rng = random.Random(seed)
        paragraphs = document(rng, 200)
        before = {c.hash for c in chunks(written(paragraphs, separator), limit=254)}
        paragraphs[100][2] = sentence(rng)
        after = {c.hash for c in chunks(written(paragraphs, separator), limit=254)}
        changed.append(len(after - before))
    assert sorted(changed)[-2] <= 2
    assert sum(changed) / len(changed) < 1.5


@pytest.mark.parametrize(
    "text",
    [
        "word " * 200_000,
        "abcdefghij" * 100_000,
        "".join(chr(0x4E00 + i * 7919 % 5000) for i in range(300_000)),
        "." * 1_000_000,
        'He said. """ ' * 80_000,
        "a" + "\u0301" * 300_000,
        "|-" * 500_000,
        "-" * 500_000 + "x",
        " " * 1_000_000 + "x",
        "x\n" * 300_000,
    ],
    ids=[
        "words",
        "no spaces",
        "cjk",
        "dots",
        "quotes",
        "marks",
        "bars",
        "dashes",
        "space",
        "lines",
    ],
)
def test_g12_no_text_takes_more_than_linear_time(text: str) -> None:
    """A megabyte in one line is cut within seconds, and no chunk is longer than the model reads."""
    chunker = Chunker(ChunkSettings(), 254, lambda texts: [len(text) for text in texts])
    start = process_time()
    (found,) = chunker.chunk([Titled("", text)])
    assert process_time() - start < 20
    assert max(len(chunk.embedded) for chunk in found) <= 254
