"""What has come of an answer so far, and what of it can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from penstock.errors import BadRecordError
from penstock.models.endpoint import malformed
from penstock.models.gateway.base import CallPiece, Finish, Request, ToolCall
from penstock.models.remote import estimate

_MOST_CALLS: Final = 128
_CHARACTERS_PER_TOKEN: Final = 64
"""More than this a token hardly ever is: who writes a long text and bills next to nothing lies."""
_TOKENS_OF_AN_IMAGE: Final = 20_000
_UNSEEN_TOKENS: Final = 4_096
"""What an endpoint may add of its own: a template, the words for tools."""


class Tokens(NamedTuple):
    """Read (of which ``cached`` were there from before), and written."""

    read: int
    written: int
    cached: int | None = None


@dataclass(slots=True)
class Draft:
    """An answer in the making."""

    shaped: bool = False
    """Whether the model was made to call a tool so that it writes JSON: its arguments are text."""
    parts: list[str] = field(default_factory=list)
    length: int = 0
    calls: dict[int, list[str]] = field(default_factory=dict)
    finish: Finish | None = None
    counts: dict[str, int] = field(default_factory=dict)
    """Tokens as the endpoint says: ``read``, ``written``, ``cached``."""
    model: str = ""

    def said(self, text: object) -> str:
        """One more piece of text."""
        if not isinstance(text, str) or not text:
            return ""
        self.parts.append(text)
        self.length += len(text)
        return text

    def called(self, piece: CallPiece) -> CallPiece | str:
        """One more piece of a call."""
        if self.shaped:
            return self.said(piece.arguments)
        if piece.place not in self.calls:
            if len(self.calls) == _MOST_CALLS:
                raise malformed(f"expected at most {_MOST_CALLS} tool calls, got more")
            self.calls[piece.place] = ["", "", ""]
        known = self.calls[piece.place]
        known[0] = known[0] or piece.id
        known[1] = known[1] or piece.name
        known[2] += piece.arguments
        self.length += len(piece.arguments)
        return piece

    def count(self, **said: object) -> None:
        """Numbers of tokens; what is no number is not taken."""
        for name, value in said.items():
            if type(value) is int and value >= 0:
                self.counts[name] = value

    def ended(self, said: object, meanings: Mapping[str, Finish]) -> None:
        """The reason why the model stopped; one that is not known is as good as any."""
        if isinstance(said, str):
            self.finish = meanings.get(said, "stop")

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self.parts)

    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls in their order."""
        ordered = [self.calls[place] for place in sorted(self.calls)]
        return tuple(
            ToolCall(known[0] or f"call_{number}", known[1], known[2] or "{}")
            for number, known in enumerate(ordered)
        )

    def tokens(self, request: Request, most: int) -> tuple[Tokens, bool]:
        """What was read and written, and whether that is our estimate."""
        guess = estimated(request)
        counts = self.counts
        if "read" in counts and "written" in counts:
            highest = _most_read(request)
            believable = (
                counts["read"] <= highest
                and counts["written"] <= 2 * most + _UNSEEN_TOKENS
                and counts["written"] * _CHARACTERS_PER_TOKEN >= self.length
                and counts.get("cached", 0) <= counts["read"]
            )
            if believable:
                return Tokens(counts["read"], counts["written"], counts.get("cached")), False
        return Tokens(guess, estimate(self.text) + sum(
            estimate(known[2]) for known in self.calls.values()
        )), True  # fmt: skip


def estimated(request: Request) -> int:
    """Tokens of what is sent, on the high side; pictures at what they may take."""
    texts = sum(
        estimate(turn.text) + sum(estimate(call.arguments) for call in turn.calls) + 8
        for turn in request.turns
    )
    tools = sum(estimate(tool.description + str(tool.parameters)) + 16 for tool in request.tools)
    shape = estimate(str(request.shape)) if request.shape is not None else 0
    images = sum(len(turn.images) for turn in request.turns)
    return texts + tools + shape + images * 1_600


def _most_read(request: Request) -> int:
    """No endpoint reads more tokens than it was sent bytes, and what it adds."""
    size = sum(
        len(turn.text.encode("utf-8", "replace"))
        + sum(len(call.arguments) * 4 for call in turn.calls)
        for turn in request.turns
    )
    size += sum(len(str(tool)) * 2 for tool in request.tools) + len(str(request.shape)) * 2
    images = sum(len(turn.images) for turn in request.turns)
    return size + images * _TOKENS_OF_AN_IMAGE + _UNSEEN_TOKENS


def no_penalties(name: str, request: Request) -> None:
    """Refuse what only OpenAI's kind of endpoint knows."""
    for parameter in ("seed", "frequency_penalty", "presence_penalty"):
        if getattr(request, parameter) is not None:
            raise not_taken(name, parameter)


def not_taken(name: str, parameter: str, do: str = "leave it out") -> BadRecordError:
    """The error for a parameter that a model does not have."""
    return BadRecordError(f"{name} takes no {parameter}: {do}, or ask another model")
