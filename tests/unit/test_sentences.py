"""Sentences of a passage."""

from __future__ import annotations

import pytest

from penstock.models.sentences import is_heading, sentences


@pytest.mark.parametrize("between", ["\n", "\n\n"])
def test_what_follows_a_heading_is_not_part_of_it(between: str) -> None:
    """With an empty line or without: what it names can be said in an answer."""
    text = f"Before.\n## Tents{between}The Fjell is waterproof. It is red.\n# End"
    found = sentences(text)
    assert [text[span.start : span.end] for span in found] == [
        "Before.",
        "Tents",
        "The Fjell is waterproof.",
        "It is red.",
        "End",
    ]
    assert [is_heading(text, span) for span in found] == [False, True, False, False, True]
