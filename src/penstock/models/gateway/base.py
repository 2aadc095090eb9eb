"""What is asked of a language model and what comes back, whichever endpoint there is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from penstock.models.base import Author, Matter, Message, Priority, Usage, Who

Finish = Literal["stop", "length", "tool_calls", "refused"]
"""Why the model stopped: it was done, it reached its limit, it wants tools, it will not say."""


@dataclass(frozen=True, slots=True)
class Image:
    """A picture: its bytes in base64, or an address that the endpoint fetches (not we)."""

    media_type: str
    data: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What the model wants done. ``arguments`` is JSON as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. ``result_of`` is the call that a message of the role ``tool`` answers."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str = ""
    images: tuple[Image, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    result_of: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """What the model may want done; ``parameters`` is a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. What is None is left to the endpoint or to the model's settings."""

    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """``auto``, ``none``, ``required``, or the name of a tool."""
    shape: Mapping[str, Any] | None = None
    """A JSON schema that the answer is held to, as far as the endpoint can; an empty one: any
    object."""
    strict: bool = True
    """Whether the endpoint shall hold to it letter by letter, which not every schema allows."""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    matter: Matter | None = None
    """What stands for the turns where it is looked whether two requests are the same."""
    reusable: bool = True
    """Whether an answer from before will do."""
    priority: Priority = "query"


class CallPiece(NamedTuple):
    """A part of a tool call; id and name come with the first of a place."""

    place: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Completion:
    """The whole of what came back."""

    text: str
    finish: Finish
    usage: Usage
    name: str
    """The model as the project calls it."""
    model: str
    """The model as the endpoint says; as the project asked for it, if it does not say."""
    calls: tuple[ToolCall, ...] = ()
    arm: Literal["", "canary", "others"] = ""
    """On which side it was asked, while a new model is tried."""
    reused: Literal["", "cache", "similar"] = ""
    """Whether it is an answer from before, which took nothing: to the same, or to one like it."""
    of: str = ""
    """The id of the answer that it was then."""
    waited_ms: float = 0.0
    """Until the first piece."""

    @property
    def author(self) -> Author:
        """Who wrote it."""
        return Author(self.name, self.model, self.finish, self.arm, self.reused, self.of)


Piece: TypeAlias = str | CallPiece | Completion
"""Of a stream: text, parts of calls, and last of all the whole."""


class Model(Protocol):
    """A language model, or several behind one name."""

    name: str

    def stream(self, request: Request, who: Who) -> AsyncIterator[Piece]:
        """The pieces; the last one, and no other, is the `Completion`.

        Raises `RetryableError` (it may go well later), `BadRecordError` (this request is refused)
        or `FatalError` (no request will be answered: a key, a model's name).
        """

    async def close(self) -> None:
        """Release connections."""


def of_messages(messages: Sequence[Message]) -> tuple[Turn, ...]:
    """Messages as turns."""
    return tuple(Turn(m.role, m.content) for m in messages)


async def completed(pieces: AsyncIterator[Piece]) -> Completion:
    """The whole of a stream."""
    last: Piece | None = None
    async for piece in pieces:
        last = piece
    assert isinstance(last, Completion)
    return last
