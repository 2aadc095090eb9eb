"""Where sentences begin and end in a passage. Pure."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final, NamedTuple

LONGEST: Final = 600
"""Characters; a longer sentence (a table, a list without stops) is cut at white space."""

# After a stop (and closing quotes or brackets), white space and something that begins a sentence.
_STOP = re.compile(r"[.!?…。！？][\"'”’»)\]]*(?=\s+[\"'“‘«(\[]*[^\sa-zß-öø-ÿ]|\s*$)|[。！？]")
# A heading ends with its line, also where the next one follows at once.
_BREAK = re.compile(
    r"^[ \t]*#{1,6}[ \t][^\n]*\n|\n\s*\n|\f|\n(?=\s*(?:[-*+•]|\d+[.)]|#{1,6}|\||>)\s)|(?<=\|)\n",
    re.MULTILINE,
)
_ABBREVIATIONS: Final = """
mr mrs ms dr prof st sr jr vs etc e.g i.e cf no nos vol pp p fig figs eq approx dept est inc ltd co
corp u.s u.k u.n a.m p.m jan feb mar apr jun jul aug sep sept oct nov dec gen col capt lt rev hon
messrs art sec ch op cit al ca bzw usw z.b
"""
_SHORT = frozenset(_ABBREVIATIONS.split())
_HEADING = re.compile(r"\s*#{1,6}\s")


class Span(NamedTuple):
    """A piece of a text, by character offsets."""

    start: int
    end: int


def sentences(text: str) -> list[Span]:
    """The sentences of a passage in order, without the white space around them.

    Headings, list items and table rows stand alone; marks of Markdown in front are left out.
    """
    found: list[Span] = []
    for block in _blocks(text):
        start = block.start
        for match in _STOP.finditer(text, block.start, block.end):
            if match.end() < block.end and _abbreviated(text, start, match.start()):
                continue
            found.extend(_trimmed(text, start, match.end()))
            start = match.end()
        found.extend(_trimmed(text, start, block.end))
    return found


def _blocks(text: str) -> list[Span]:
    edges = [0, *(m.end() for m in _BREAK.finditer(text)), len(text)]
    return [Span(a, b) for a, b in pairwise(edges) if a < b]


def _abbreviated(text: str, start: int, stop: int) -> bool:
    """Whether the stop ends an abbreviation or an initial rather than a sentence."""
    if text[stop] != ".":
        return False
    word = re.search(r"[\w.]*$", text[max(start, stop - 12) : stop])
    last = word[0].lower() if word else ""
    return last in _SHORT or (len(last) == 1 and last.isalpha() and last != "i")


def _trimmed(text: str, start: int, end: int) -> list[Span]:
    while start < end and text[end - 1].isspace():
        end -= 1
    mark = re.compile(r"\s*(?:(?:[-*+•>|]|\d+[.)]|#{1,6})\s+)*\s*").match(text, start, end)
    start = mark.end() if mark else start
    if start >= end or not any(sign.isalnum() for sign in text[start:end]):
        return []
    pieces = []
    while end - start > LONGEST:
        cut = text.rfind(" ", start + LONGEST // 2, start + LONGEST)
        cut = cut if cut > 0 else start + LONGEST
        pieces.append(Span(start, cut))
        start = cut + 1 if text[cut].isspace() else cut
    return [*pieces, Span(start, end)] if start < end else pieces


def is_heading(text: str, span: Span) -> bool:
    """Whether a sentence is a Markdown heading: it names, it does not say."""
    line = text.rfind("\n", 0, span.start) + 1
    return _HEADING.match(text, line, span.end) is not None
