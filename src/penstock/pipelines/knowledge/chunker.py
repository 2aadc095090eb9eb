"""Documents into chunks: along their structure, at boundaries chosen from the content. Pure.

Pieces (paragraphs; of long ones sentences, and so on down) are joined at the weakest boundaries
first. Between boundaries of one strength the text behind them decides, as if by lot: so a boundary
depends on its neighbourhood only, and an edit moves the boundaries beside it and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, Literal, NamedTuple

from penstock.errors import ConfigError
from penstock.pipelines.knowledge.joining import Piece, Room, join
from penstock.pipelines.knowledge.pieces import STEPS
from penstock.pipelines.knowledge.structure import Section, Strength, sections
from penstock.stores.base import ChunkText

Count = Callable[[Sequence[str]], Sequence[int]]

_SEPARATOR: Final = " > "
_LONGEST_CONTEXT: Final = 1000
_FEWEST_TOKENS: Final = 16


@dataclass(frozen=True, slots=True)
class ChunkSettings:
    """How documents are cut.

    ``size`` is the most that a chunk's own text may have, in ``unit``; None is as much as the model
    reads, and the model's limit holds in any case. Pieces smaller than ``join_below`` of the size
    are joined with a neighbour, paragraphs and items to at most ``join_to`` of it: short chunks
    cost less when they are edited. ``overlap`` repeats so much of the text before a
    chunk at its beginning. With ``context`` the model reads title, headings and table header
    before the text.
    """

    size: int | None = None
    overlap: int = 0
    unit: Literal["tokens", "characters"] = "tokens"
    context: bool = True
    join_below: float = 0.25
    join_to: float = 0.36

    def __post_init__(self) -> None:
        if self.size is not None and self.size < _FEWEST_TOKENS:
            raise ConfigError(
                f"the size of chunks is expected to be at least {_FEWEST_TOKENS} {self.unit}, "
                f"not {self.size!r}: make it larger"
            )
        if self.overlap < 0 or (self.size is not None and self.overlap * 2 > self.size):
            raise ConfigError(
                "the overlap of chunks is expected between 0 and half their size, "
                f"not {self.overlap!r}: make it smaller"
            )
        for name, share in (("join_below", self.join_below), ("join_to", self.join_to)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} is expected to be a share from 0 to 1, not {share!r}")


class Titled(NamedTuple):
    """What is cut: a document's title and its text."""

    title: str
    text: str


@dataclass(slots=True)
class _Part:
    """One section of one document while it is being cut."""

    document: int
    text: str
    section: Section
    context: str
    pieces: list[Piece]
    whole: bool = False  # so short that it is one chunk and need not be counted
    context_tokens: int = 0
    room: Room = field(default=Room(0, None, 0, 0))
    repeated: dict[int, int] = field(default_factory=dict)  # piece -> where its overlap begins


class Chunker:
    """Cuts documents for one model: ``count`` says how many tokens texts have, ``max_tokens`` how
    many the model reads."""

    def __init__(self, settings: ChunkSettings, max_tokens: int, count: Count) -> None:
        if max_tokens < _FEWEST_TOKENS:
            raise ConfigError(
                f"a model is expected to read at least {_FEWEST_TOKENS} tokens, "
                f"not {max_tokens!r}: choose another"
            )
        if settings.unit == "tokens" and settings.overlap * 2 > max_tokens:
            raise ConfigError(
                f"the overlap of chunks is expected to be at most half of the {max_tokens} tokens "
                f"that the model reads, not {settings.overlap!r}: make it smaller"
            )
        self._settings = settings
        self._max_tokens = max_tokens
        self._count = count

    def chunk(self, documents: Sequence[Titled]) -> list[list[ChunkText]]:
        """The chunks of each document, in reading order. They cover all but white space."""
        parts = [
            part
            for number, document in enumerate(documents)
            for part in self._parts(number, document)
        ]
        counted = [part for part in parts if not part.whole]
        if counted:
            self._measure(counted)
            for part in counted:
                part.pieces = join(part.text, part.pieces, part.room)
            if self._settings.overlap:
                self._repeat(counted)
        chunks: list[list[ChunkText]] = [[] for _ in documents]
        for part in parts:
            chunks[part.document].extend(_chunks(part))
        return chunks

    def _parts(self, number: int, document: Titled) -> Iterator[_Part]:
        text = document.text
        context = self._settings.context
        for section in sections(text):
            names = section.path if section.blocks else section.path[:-1]
            if document.title and names[:1] != (document.title,):
                names = (document.title, *names)
            pieces = [Piece(*block[:4], header=block.header) for block in section.blocks]
            if section.start < section.body and not (context and pieces):
                # Heading lines are text of their own where no context repeats them.
                end = section.start + len(text[section.start : section.body].rstrip())
                pieces.insert(0, Piece(section.start, end, "paragraph", Strength.BLOCK))
                for second in pieces[1:2]:
                    second.strength = Strength.WORD
            joined = _SEPARATOR.join(names)[:_LONGEST_CONTEXT] if context else ""
            part = _Part(number, text, section, joined, pieces)
            part.whole = self._is_short(part)
            yield part

    def _is_short(self, part: _Part) -> bool:
        """Whether the whole part surely fits: a token has at least one byte."""
        length = part.pieces[-1].end - part.pieces[0].start
        if self._settings.size is not None and length > self._settings.size:
            return False
        most = length + len(part.context) + 1
        if not (part.text.isascii() and part.context.isascii()):
            most *= 4
        if most > self._max_tokens:
            return False
        first, last = part.pieces[0], part.pieces[-1]
        tokens = (length + 3) // 4
        part.context_tokens = (len(part.context) + 3) // 4
        part.pieces = [Piece(first.start, last.end, first.kind, first.strength, tokens=tokens)]
        return True

    # ------------------------------------------------------------------ measuring

    def _measure(self, parts: Sequence[_Part]) -> None:
        """Count the pieces, and cut those that are too long until none is."""
        contexts = list(dict.fromkeys(part.context for part in parts if part.context))
        pieces = [(part, piece) for part in parts for piece in part.pieces]
        counts = self._count(
            [*contexts, *(part.text[piece.start : piece.end] for part, piece in pieces)]
        )
        tokens_of = dict(zip(contexts, counts, strict=False))
        for part in parts:
            self._make_room(part, tokens_of.get(part.context, 0))
        for (_, piece), tokens in zip(pieces, counts[len(contexts) :], strict=True):
            piece.tokens = tokens
        long = list({id(part): part for part, piece in pieces if _is_long(part, piece)}.values())
        while long:
            long = self._refine(long)

    def _make_room(self, part: _Part, tokens: int) -> None:
        """How much text fits beside the context; of too long a context the end is kept."""
        while tokens > self._max_tokens // 4:
            _, separator, inner = part.context.partition(_SEPARATOR)
            part.context = inner if separator else part.context[: len(part.context) // 2]
            tokens = self._count([part.context])[0] if part.context else 0
        part.context_tokens = tokens
        settings = self._settings
        room = self._max_tokens - (tokens + 1 if part.context else 0)
        characters = None
        if settings.unit == "tokens":
            room = min(room, settings.size or room) - settings.overlap
        else:
            characters = (settings.size or room) - settings.overlap
        part.room = Room(room, characters, settings.join_below, settings.join_to)

    def _refine(self, parts: Sequence[_Part]) -> list[_Part]:
        """Cut every piece that is too long one step finer; returns the parts to look at again."""
        fresh: list[tuple[_Part, Piece]] = []
        for part in parts:
            pieces: list[Piece] = []
            for piece in part.pieces:
                if _is_long(part, piece):
                    finer = list(_finer(part.text, piece))
                    pieces.extend(finer)
                    fresh.extend((part, new) for new in finer)
                else:
                    pieces.append(piece)
            part.pieces = pieces
        leads = list(dict.fromkeys(piece.lead for _, piece in fresh if piece.lead))
        counts = self._count(
            [*leads, *(part.text[piece.start : piece.end] for part, piece in fresh)]
        )
        tokens_of = dict(zip(leads, counts, strict=False))
        for (part, piece), tokens in zip(fresh, counts[len(leads) :], strict=True):
            piece.tokens = tokens
            piece.lead_tokens = tokens_of.get(piece.lead, -1) + 1
            if not part.room.bears(piece.lead, piece.lead_tokens):
                piece.lead, piece.lead_tokens = "", 0
        return list({id(part): part for part, piece in fresh if _is_long(part, piece)}.values())

    # ------------------------------------------------------------------ overlap

    def _repeat(self, parts: Sequence[_Part]) -> None:
        """Find where each chunk's repeated beginning starts: at most ``overlap`` before it, at a
        word, within what the model reads."""
        overlap = self._settings.overlap
        wanted = []
        for part in parts:
            for number in range(1, len(part.pieces)):
                before = part.pieces[number - 1]
                length = before.end - before.start
                if self._settings.unit == "tokens":
                    length = min(length, overlap * length // max(1, before.tokens))
                else:
                    length = min(length, overlap)
                wanted.append((part, number, length))
        while wanted:
            tails = [
                (part, number, _word_start(part, number, length), length)
                for part, number, length in wanted
            ]
            counts = self._count(
                [part.text[start : part.pieces[number].start] for part, number, start, _ in tails]
            )
            wanted = []
            for (part, number, start, length), tokens in zip(tails, counts, strict=True):
                if tokens <= self._spare(part, part.pieces[number]):
                    part.repeated[number] = start
                    part.pieces[number].tokens += tokens
                elif length > 1:
                    wanted.append((part, number, length // 2))

    def _spare(self, part: _Part, piece: Piece) -> int:
        """How many tokens may still be put before a piece."""
        context = part.context_tokens + 1 if part.context else 0
        spare = self._max_tokens - context - piece.lead_tokens - piece.tokens - 1
        return min(spare, self._settings.overlap) if self._settings.unit == "tokens" else spare


def _is_long(part: _Part, piece: Piece) -> bool:
    """Whether a piece must be cut, and can be."""
    return piece.step < len(STEPS[piece.kind]) and not part.room.fits(
        piece, piece.tokens, piece.end
    )


def _finer(text: str, piece: Piece) -> Iterable[Piece]:
    """The pieces that a piece falls into at its next step of fineness."""
    step = STEPS[piece.kind][piece.step]
    starts = step.cut(text, piece.start, piece.end)
    strength = piece.strength
    lead = piece.lead
    for start, end in zip(starts, [*starts[1:], piece.end], strict=True):
        bare = len(text[start:end].rstrip())
        if bare:
            yield Piece(start, start + bare, piece.kind, strength, lead=lead, step=piece.step + 1)
        strength = step.strength
        lead = lead or text[piece.start : piece.header]


def _word_start(part: _Part, number: int, length: int) -> int:
    """Where to begin so as to repeat at most ``length`` characters before a piece."""
    start = part.pieces[number].start
    begin = max(part.pieces[number - 1].start, start - length)
    if begin > 0 and part.text[begin - 1].isspace():
        return begin
    for at in range(begin, start):
        if part.text[at].isspace():
            return at + 1
    return begin


def _chunks(part: _Part) -> Iterator[ChunkText]:
    """A part's pieces as they are stored."""
    section = part.section
    text, context = part.text, part.context
    heading = _SEPARATOR.join(section.path)
    prefix = f"{context}\n" if context else ""
    start = section.start
    for number, piece in enumerate(part.pieces):
        body = part.repeated.get(number, piece.start)
        if number:
            start = body
        lead = f"{piece.lead}\n" if piece.lead else ""
        embedded = f"{prefix}{lead}{text[body : piece.end]}"
        yield ChunkText(
            text[start : piece.end],
            embedded,
            blake2b(embedded.encode(), digest_size=16).digest(),
            start,
            piece.end,
            heading,
            piece.tokens + piece.lead_tokens + part.context_tokens,
        )
