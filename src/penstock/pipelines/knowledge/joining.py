"""Joining small pieces of text at their weakest boundaries. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from zlib import crc32

from penstock.pipelines.knowledge.structure import Kind, Strength

_ANCHOR_CHARACTERS: Final = 48
_TINY: Final = 0.06
"""A piece below this share of the room says nothing alone: it may make a chunk longer."""


@dataclass(slots=True)
class Piece:
    """A span of text, its length for the model, and how strong the boundary before it is.

    ``lead`` is what the model must read before it (the header of the table it continues), with its
    length; ``header`` is where the header ends of a table that begins here.
    """

    start: int
    end: int
    kind: Kind
    strength: Strength
    header: int = 0
    lead: str = ""
    lead_tokens: int = 0
    tokens: int = 0
    step: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """What a chunk may hold: both limits count. Pieces below ``join_below`` of it are small;
    blocks are joined to at most ``join_to`` of it."""

    tokens: int
    characters: int | None
    join_below: float
    join_to: float

    def fits(self, first: Piece, tokens: int, end: int) -> bool:
        """Whether the text from a piece's start to ``end``, of so many tokens, is one chunk."""
        if first.lead_tokens + tokens > self.tokens:
            return False
        lead = len(first.lead) + 1 if first.lead else 0
        return self.characters is None or lead + end - first.start <= self.characters

    def bears(self, lead: str, lead_tokens: int) -> bool:
        """Whether a lead leaves most of the room to the text that it is put before."""
        if lead_tokens * 4 > self.tokens:
            return False
        return self.characters is None or (len(lead) + 1) * 4 <= self.characters

    def joins(self, left: Piece, right: Piece, tokens: int) -> bool:
        """Whether two neighbours that fit should be one chunk: one of them is small, and they
        belong to one block, or are not long together, or one says nothing alone."""
        smaller = min(self._share(piece.tokens, piece.end - piece.start) for piece in (left, right))
        if smaller < min(_TINY, self.join_below):
            return True
        together = self._share(tokens, right.end - left.start)
        belongs = right.strength < Strength.ITEM
        return smaller < self.join_below and (belongs or together <= self.join_to)

    def _share(self, tokens: int, characters: int) -> float:
        if self.characters is None:
            return tokens / self.tokens
        return characters / self.characters


def join(text: str, pieces: list[Piece], room: Room) -> list[Piece]:
    """The pieces after joining: two neighbours become one when they fit and one of them is small,
    weakest boundary first, and between equal ones by the text that follows."""
    if len(pieces) == 1:
        return pieces
    lots = [
        (
            piece.strength,
            crc32(
                text[piece.start : min(piece.end, piece.start + _ANCHOR_CHARACTERS)].encode(
                    "utf-8", "replace"
                )
            ),
            number,
        )
        for number, piece in enumerate(pieces)
    ]
    del lots[0]
    lots.sort()
    first = list(range(len(pieces)))  # where the joined piece begins that ends with this one
    last = list(range(len(pieces)))  # where the joined piece ends that begins with this one
    joined = list(pieces)
    for _, _, number in lots:
        begin = first[number - 1]
        left, right = joined[begin], joined[number]
        tokens = left.tokens + right.tokens + 1  # a token more, should the two not add up exactly
        if not (room.fits(left, tokens, right.end) and room.joins(left, right, tokens)):
            continue
        joined[begin] = Piece(
            left.start,
            right.end,
            left.kind,
            left.strength,
            lead=left.lead,
            lead_tokens=left.lead_tokens,
            tokens=tokens,
        )
        last[begin] = last[number]
        first[last[number]] = begin
    result = []
    number = 0
    while number < len(pieces):
        result.append(joined[number])
        number = last[number] + 1
    return result
