"""What clients send: the bodies of requests, checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from penstock.serving.context import LONGEST_QUESTION, MOST_ITEMS
from penstock.stores.base import Filter

Text = Annotated[str, Field(min_length=1, max_length=LONGEST_QUESTION)]
About = Annotated[str, Field(min_length=1, max_length=2000)]
"""Whom a question is about: ``KIND:ID`` or ``KIND:IDENTIFIER``."""
SessionId = Annotated[str, Field(min_length=1, max_length=100)]
"""A conversation of the caller's, begun with ``POST /v1/sessions``."""
Scalar = str | int | float | bool | None


class Strict(BaseModel):
    """A body of ours: a field that is not known is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Loose(BaseModel):
    """A body of OpenAI's: their clients send fields that mean nothing here."""

    model_config = ConfigDict(extra="ignore")


class Where(Strict):
    """Which documents and rows count."""

    sources: list[str] | None = None
    path: str | None = Field(default=None, max_length=2000)
    title: str | None = Field(default=None, max_length=2000)
    kind: Literal["document", "row"] | None = None
    metadata: dict[str, Scalar] = Field(default_factory=dict, max_length=50)

    def filter(self) -> Filter:
        """As the stores take it."""
        return Filter(
            sources=self.sources,
            path=self.path,
            title=self.title,
            metadata=self.metadata,
            kind=self.kind,
        )


class ContextRequest(Strict):
    """A question, and how much shall be known about it."""

    question: Text
    limit: int = Field(default=8, ge=1, le=MOST_ITEMS)
    mode: Literal["hybrid", "vector", "text"] = "hybrid"
    where: Where = Field(default_factory=Where)
    profile: About | None = None
    pin: bool = False
    """Whether it is kept, so that what is answered from it can be reported with its id."""


class AnswerRequest(Strict):
    """A question to be answered."""

    question: Text
    where: Where = Field(default_factory=Where)
    profile: About | None = None
    session: SessionId | None = None
    stream: bool = False


class EmbeddingsRequest(Loose):
    """Texts for their vectors, as OpenAI's clients ask."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=2048)]
    model: str = Field(min_length=1, max_length=200)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1)

    @property
    def texts(self) -> list[str]:
        """The input as a list."""
        return [self.input] if isinstance(self.input, str) else self.input


class Part(Loose):
    """A part of a message."""

    type: str
    text: str | None = None


class FunctionShape(Loose):
    """A function that the caller can have called."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str = Field(default="", max_length=10_000)
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object"})


class ToolShape(Loose):
    """A tool: of these, functions only."""

    type: Literal["function"]
    function: FunctionShape


class CalledFunction(Loose):
    """What was called."""

    name: str = Field(min_length=1, max_length=64)
    arguments: str = "{}"


class CalledTool(Loose):
    """A call that the model made before."""

    id: str = Field(min_length=1, max_length=200)
    function: CalledFunction


class ChosenFunction(Loose):
    """The name of a function."""

    name: str = Field(min_length=1, max_length=64)


class ChosenTool(Loose):
    """The tool that the model must call."""

    type: Literal["function"]
    function: ChosenFunction


class ChatMessage(Loose):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    tool_calls: list[CalledTool] | None = Field(default=None, max_length=128)
    tool_call_id: str | None = Field(default=None, max_length=200)

    @property
    def text(self) -> str:
        """What it says; parts that are no text say nothing here."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or () if part.text)


class StreamOptions(Loose):
    """What a stream shall tell beside the text."""

    include_usage: bool = False


class OwnFields(Strict):
    """What is ours in a body of OpenAI's."""

    profile: About | None = None
    session: SessionId | None = None


class ChatRequest(Loose):
    """A conversation whose last question is to be answered."""

    model: str = Field(min_length=1, max_length=200)
    messages: list[ChatMessage] = Field(min_length=1, max_length=500)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(default=1, ge=1, le=1)
    tools: list[ToolShape] | None = Field(default=None, max_length=128)
    tool_choice: Literal["auto", "none", "required"] | ChosenTool = "auto"
    penstock: OwnFields = Field(default_factory=OwnFields)


class Comparison(Loose):
    """One condition of a search in a vector store."""

    type: Literal["eq"]
    key: str = Field(min_length=1, max_length=200)
    value: Scalar


class Conjunction(Loose):
    """Conditions that must all hold."""

    type: Literal["and"]
    filters: list[Comparison] = Field(min_length=1, max_length=50)


class RankingOptions(Loose):
    """What of the found is shown."""

    score_threshold: float = Field(default=0.0, ge=0)


class StoreSearchRequest(Loose):
    """A search as OpenAI's vector stores have it."""

    query: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    max_num_results: int = Field(default=10, ge=1, le=50)
    filters: Comparison | Conjunction | None = None
    ranking_options: RankingOptions | None = None

    @property
    def text(self) -> str:
        """The one question."""
        return self.query if isinstance(self.query, str) else self.query[0]

    def metadata(self) -> dict[str, Any]:
        """The conditions as a filter has them."""
        if self.filters is None:
            return {}
        each = [self.filters] if isinstance(self.filters, Comparison) else self.filters.filters
        return {one.key: one.value for one in each}
