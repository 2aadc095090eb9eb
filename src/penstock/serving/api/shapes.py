"""What clients send: the bodies of requests, checked."""

from __future__ import annotations

from base64 import b64decode
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from penstock.errors import BadRecordError
from penstock.serving.context import LONGEST_QUESTION, MOST_ITEMS
from penstock.stores.base import Filter

Text = Annotated[str, Field(min_length=1, max_length=LONGEST_QUESTION)]
About = Annotated[str, Field(min_length=1, max_length=2000)]
"""Whom a question is about: ``KIND:ID`` or ``KIND:IDENTIFIER``."""
SessionId = Annotated[str, Field(min_length=1, max_length=100)]
"""A conversation of the caller's, begun with ``POST /v1/sessions``."""
Name = Annotated[str, Field(min_length=1, max_length=410)]
"""``user:NAME``, ``group:NAME`` or ``everyone``."""
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


Positions = (
    Annotated[str, Field(min_length=1, max_length=100)]
    | Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=20)]
)
"""Positions of what was written: what is read comes after it."""


class ContextRequest(Strict):
    """A question, and how much shall be known about it."""

    question: Text
    limit: int = Field(default=8, ge=1, le=MOST_ITEMS)
    mode: Literal["hybrid", "vector", "text"] = "hybrid"
    where: Where = Field(default_factory=Where)
    profile: About | None = None
    pin: bool = False
    """Whether it is kept, so that what is answered from it can be reported with its id."""
    after: Positions = Field(default_factory=list)


class AnswerRequest(Strict):
    """A question to be answered."""

    question: Text
    where: Where = Field(default_factory=Where)
    profile: About | None = None
    session: SessionId | None = None
    after: Positions = Field(default_factory=list)
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


class ImageAddress(Loose):
    """Where a picture is: its bytes (``data:image/png;base64,...``), or an address that the model's
    endpoint fetches (not we)."""

    url: str = Field(min_length=1, max_length=28_000_000)


class Part(Loose):
    """A part of a message."""

    type: str
    text: str | None = None
    image_url: ImageAddress | None = None


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

    @property
    def images(self) -> list[str]:
        """The addresses of its pictures."""
        if self.content is None or isinstance(self.content, str):
            return []
        return [part.image_url.url for part in self.content if part.image_url is not None]


class JsonSchema(Loose):
    """The schema of an answer."""

    name: str = Field(default="written", max_length=64)
    strict: bool | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class ResponseFormat(Loose):
    """What form the answer shall have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_a_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("expected json_schema beside the type json_schema, got none")
        return self


class StreamOptions(Loose):
    """What a stream shall tell beside the text."""

    include_usage: bool = False


class OwnFields(Strict):
    """What is ours in a body of OpenAI's."""

    profile: About | None = None
    session: SessionId | None = None
    after: Positions = Field(default_factory=list)


class ChatRequest(Loose):
    """A conversation whose last question is to be answered."""

    model: str = Field(min_length=1, max_length=200)
    messages: list[ChatMessage] = Field(min_length=1, max_length=500)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(default=1, ge=1, le=1)
    tools: list[ToolShape] | None = Field(default=None, max_length=128)
    tool_choice: Literal["auto", "none", "required"] | ChosenTool = "auto"
    response_format: ResponseFormat | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: int | None = None
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    service_tier: str | None = Field(default=None, max_length=40)
    """``flex``: nobody waits for it, so what others ask is asked first."""
    penstock: OwnFields = Field(default_factory=OwnFields)

    @property
    def patient(self) -> bool:
        """Whether it can wait."""
        return self.service_tier == "flex"

    @property
    def led(self) -> bool:
        """Whether the caller leads the conversation: with tools, pictures or a form of its own."""
        form = self.response_format
        return (
            bool(self.tools)
            or (form is not None and form.type != "text")
            or any(message.images for message in self.messages)
        )


class Comparison(Loose):
    """One condition of a search in a vector store."""

    type: Literal["eq"]
    key: str = Field(min_length=1, max_length=200)
    value: Scalar


class Conjunction(Loose):
    """Conditions that must all hold."""

    type: Literal["and"]
    filters: list[Comparison] = Field(min_length=1, max_length=50)


def conditions(filters: Comparison | Conjunction | None) -> dict[str, Any]:
    """Conditions as a filter has them."""
    if filters is None:
        return {}
    each = [filters] if isinstance(filters, Comparison) else filters.filters
    return {one.key: one.value for one in each}


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
        return conditions(self.filters)


class InputItem(Loose):
    """A part of a conversation: a message, or something else that says nothing here."""

    type: str = "message"
    role: str | None = None
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """What it says."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or () if part.text)


class ResponseTool(Loose):
    """A tool that may be used. Only ``file_search`` can be."""

    type: str = Field(max_length=200)
    vector_store_ids: list[str] = Field(default_factory=list, max_length=100)
    max_num_results: int | None = Field(default=None, ge=1, le=50)
    filters: Comparison | Conjunction | None = None

    def metadata(self) -> dict[str, Any]:
        """The conditions as a filter has them."""
        return conditions(self.filters)

    def shown(self) -> dict[str, Any]:
        """As a response repeats it."""
        return self.model_dump(exclude_none=True)


class TextFormat(Loose):
    """The form of an answer."""

    type: str = "text"


class TextOptions(Loose):
    """How an answer is written."""

    format: TextFormat | None = None


class ResponsesRequest(Loose):
    """A conversation in the form of OpenAI's responses."""

    model: str = Field(min_length=1, max_length=200)
    input: Text | Annotated[list[InputItem], Field(min_length=1, max_length=500)]
    instructions: str | None = Field(default=None, max_length=100_000)
    stream: bool = False
    tools: list[ResponseTool] = Field(default_factory=list, max_length=20)
    include: list[str] | None = Field(default=None, max_length=20)
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    temperature: float | None = Field(default=None, ge=0, le=2)
    text: TextOptions | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None
    service_tier: str | None = Field(default=None, max_length=40)
    """``flex``: nobody waits for it, so what others ask is asked first."""
    penstock: OwnFields = Field(default_factory=OwnFields)

    @property
    def texts(self) -> list[str]:
        """What the conversation says, part by part."""
        if isinstance(self.input, str):
            return [self.input]
        return [item.text for item in self.input]

    @property
    def questions(self) -> list[str]:
        """What the user said, the last of it last."""
        if isinstance(self.input, str):
            return [self.input]
        return [item.text for item in self.input if item.role == "user"]


class DocumentBody(Strict):
    """A document as JSON: its text, or its bytes in base64 with their media type."""

    text: str | None = None
    content: str | None = None
    media_type: str = Field(default="text/markdown", min_length=1, max_length=200)
    title: str | None = Field(default=None, max_length=2000)
    metadata: dict[str, Any] = Field(default_factory=dict, max_length=200)
    allow: list[Name] | None = Field(default=None, max_length=1000)
    deny: list[Name] | None = Field(default=None, max_length=1000)

    @model_validator(mode="after")
    def _one_content(self) -> DocumentBody:
        if (self.text is None) == (self.content is None):
            raise ValueError("expected `text`, or `content` in base64, and not both")
        return self

    def data(self) -> bytes:
        """The document's bytes."""
        if self.text is not None:
            return self.text.encode("utf-8", "surrogatepass")
        try:
            return b64decode(self.content or "", validate=True)
        except ValueError as error:
            raise BadRecordError(f"expected `content` in base64, but {error}") from error


class Item(Strict):
    """One of several documents: as it shall be, or its end."""

    key: str = Field(min_length=1, max_length=1000)
    op: Literal["upsert", "delete"] = "upsert"
    document: DocumentBody | None = None

    @model_validator(mode="after")
    def _document_fits(self) -> Item:
        if (self.op == "delete") == (self.document is not None):
            raise ValueError("expected a `document` for an upsert, and none for a delete")
        return self


class DocumentsRequest(Strict):
    """Documents that are taken together, all or none."""

    source: str = Field(min_length=1, max_length=100)
    documents: list[Item] = Field(min_length=1, max_length=1000)
