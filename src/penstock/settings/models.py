"""What a project file may say of its models."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from penstock.settings.base import Duration, Section

_LONGEST_HALFVEC = 4000


class AnyEmbedderSettings(Section):
    """What all embedders have in common."""

    storage: Literal["halfvec", "int8", "binary"] = "halfvec"
    """How vectors are stored: 2 bytes a number, 1 byte, or 1 bit. With the latter two the index
    finds candidates by their signs, which are then compared exactly with what is stored."""


class MiniLMSettings(AnyEmbedderSettings):
    """all-MiniLM-L6-v2 on this machine's processor; nothing is downloaded."""

    type: Literal["minilm"]
    precision: Literal["auto", "fp32", "int8"] = "auto"
    """``auto`` takes int8 where the processor is quick at it."""


class ConstantSettings(Section):
    """Vectors from a hash, in constant time: for measuring the engine, not for searching."""

    type: Literal["constant"]


class FolderSettings(AnyEmbedderSettings):
    """A model in a folder on this machine: as sentence-transformers writes it, with an ONNX graph.
    Tokenizer, pooling, normalisation, length and prefixes are read from the folder."""

    type: Literal["folder"]
    path: Path
    """The folder, relative to the project file."""
    graph: str | None = None
    """The graph's file in the folder; default: ``onnx/model.onnx`` or ``model.onnx``."""
    dimensions: int | None = Field(default=None, gt=0)
    """So many numbers are kept of each vector (only for models trained for it: Matryoshka)."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Default: what the folder says."""
    document_prefix: str | None = None
    """What is put before a document's text; default: what the folder says."""
    query_prefix: str | None = None
    """What is put before a question; default: what the folder says."""
    threads: int | None = Field(default=None, gt=0)
    """Default: the cores that this process may use."""


class LimitSettings(Section):
    """What the endpoint may be asked a minute, kept over all processes of the project."""

    requests_per_minute: int | None = Field(default=None, gt=0)
    tokens_per_minute: int | None = Field(default=None, gt=0)


class BudgetSettings(Section):
    """What the endpoint may be asked a day (UTC). Loads wait for the next day when it is used up;
    questions are counted and go on."""

    characters_per_day: int | None = Field(default=None, gt=0)
    cost_per_day: float | None = Field(default=None, gt=0)
    """In the currency of ``price``, which must be set."""


class EndpointSettings(AnyEmbedderSettings):
    """What all endpoints of embedders have in common."""

    model: str = Field(min_length=1)
    dimensions: int = Field(gt=0)
    """How many numbers a vector has. Models that can shorten their vectors are told so."""
    full_dimensions: int | None = Field(default=None, gt=0)
    """How many the model gives, where that is more: the rest is cut off here (only for models
    trained for it: Matryoshka)."""
    concurrency: int = Field(default=4, gt=0, le=64)
    """So many requests under way for loads, and as many for live changes."""
    timeout: Duration = Field(default=60.0, gt=0)
    """From sending a request to the last byte of its answer."""
    limits: LimitSettings = LimitSettings()
    budget: BudgetSettings = BudgetSettings()
    price: float | None = Field(default=None, ge=0)
    """Of a million tokens: for estimates and for ``budget.cost_per_day``."""

    @model_validator(mode="after")
    def _fits(self) -> EndpointSettings:
        if self.budget.cost_per_day is not None and not self.price:
            raise ValueError("budget.cost_per_day needs a price (of a million tokens): set price")
        if self.full_dimensions is not None and self.full_dimensions < self.dimensions:
            raise ValueError(
                f"full_dimensions: expected at least the {self.dimensions} dimensions that are "
                f"kept, got {self.full_dimensions}"
            )
        if self.storage == "halfvec" and self.dimensions > _LONGEST_HALFVEC:
            raise ValueError(
                f"dimensions: expected at most {_LONGEST_HALFVEC} with storage halfvec, got "
                f"{self.dimensions}: set storage to int8 or binary, or keep fewer"
            )
        return self


class KeyedEndpointSettings(EndpointSettings):
    """Endpoints that ask for a key."""

    api_key: SecretStr | None = None
    """Name an environment variable here, ``${MY_KEY}``, rather than the key."""
    api_key_file: Path | None = None
    """A file that holds the key, relative to the project file."""
    batch: int = Field(default=128, gt=0)
    """The most texts of one request."""


class OpenAIEmbedderSettings(KeyedEndpointSettings):
    """An OpenAI-compatible embeddings endpoint. Default for the key: OPENAI_API_KEY."""

    type: Literal["openai"]
    base_url: str = "https://api.openai.com/v1"
    max_tokens: int = Field(default=8000, gt=0)
    """The most tokens of one text; what is longer is cut."""
    document_prefix: str = ""
    query_prefix: str = ""
    document_options: dict[str, str] = Field(default_factory=dict)
    """Sent with documents, for example ``{input_type: passage}``."""
    query_options: dict[str, str] = Field(default_factory=dict)
    """Sent with questions, for example ``{input_type: query}``."""
    send_dimensions: bool | None = None
    """Whether ``dimensions`` is part of the request; default: for text-embedding-3."""


class CohereEmbedderSettings(KeyedEndpointSettings):
    """Cohere's embeddings, or an endpoint like it. Default for the key: CO_API_KEY."""

    type: Literal["cohere"]
    base_url: str = "https://api.cohere.com/v2"
    max_tokens: int = Field(default=500, gt=0)
    send_dimensions: bool = False
    """Whether ``dimensions`` is part of the request (embed-v4 and later)."""


class BedrockEmbedderSettings(EndpointSettings):
    """A model of Titan or Cohere on Amazon Bedrock. Credentials are found as Amazon's tools find
    them: environment, profile, the machine's role. Needs the extra ``aws``."""

    type: Literal["bedrock"]
    region: str | None = None
    profile: str | None = None
    endpoint: str | None = Field(default=None, pattern=r"^https?://")
    """Where Bedrock is, if not at Amazon's address for the region."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Default: 8000 for Titan, 500 for Cohere."""


class LateInteractionSettings(Section):
    """The vectors of tokens that MiniLM computes anyway, stored with each chunk (about 4 KB)."""

    type: Literal["late_interaction"]
    depth: int = Field(default=30, gt=0, le=200)
    """How many of the best candidates are ordered anew."""


class EndpointRerankerSettings(Section):
    """A cross-encoder behind an endpoint with ``/rerank``, as Cohere, Jina, Voyage or vLLM have. If
    it fails, the order before it stands, and the context's notes say so."""

    type: Literal["endpoint"]
    model: str
    base_url: str
    """Up to the part before ``/rerank``: ``https://api.cohere.com/v2``."""
    api_key: SecretStr | None = None
    depth: int = Field(default=30, gt=0, le=200)
    """How many of the best candidates are sent."""
    timeout: Duration = Field(default=3.0, gt=0, le=30)
    """How long a question waits for it."""


class CrossEncoderSettings(Section):
    """A cross-encoder in a folder on this machine, as sentence-transformers writes it, exported to
    ONNX: ``onnx/model.onnx``, ``tokenizer.json``, ``config.json``."""

    type: Literal["cross_encoder"]
    path: Path
    """The folder, relative to the project file."""
    graph: str | None = None
    """The graph in the folder, if not ``onnx/model.onnx`` or ``model.onnx``."""
    max_tokens: int | None = Field(default=None, ge=16)
    """The most tokens of question and passage together. Default: what the model can read."""
    depth: int = Field(default=20, gt=0, le=200)
    """How many of the best candidates it reads: each costs the time of one passage."""


class NoRerankerSettings(Section):
    """The order in which passages were found; tokens are not stored."""

    type: Literal["none"]


class ExtractiveSettings(Section):
    """Answers with the sentences and row facts that answer the question; needs no endpoint."""

    type: Literal["extractive"]


class GeneratorLimitSettings(Section):
    """What the endpoint may be asked a minute, kept over all processes of the project. A question
    that would wait for more than 5 seconds is asked of the next model of a gateway; where there is
    none it is refused, with the time to wait."""

    requests_per_minute: int | None = Field(default=None, gt=0)


class GeneratorBudgetSettings(Section):
    """What the endpoint may be asked a day (UTC); then the next model of a gateway is asked, and
    where there is none, questions are refused until the next day."""

    cost_per_day: float | None = Field(default=None, gt=0)
    """In the currency of ``input_price`` and ``output_price``, which must be set."""


class AnyGeneratorSettings(Section):
    """What all language models have in common."""

    model: str = Field(min_length=1)
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Not sent to models that choose it themselves, unless it is set here."""
    max_tokens: int = Field(default=800, gt=0)
    """The most that it writes."""
    timeout: Duration = Field(default=60.0, gt=0, le=600)
    """From sending a request to the last byte of its answer."""
    connect_timeout: Duration = Field(default=10.0, gt=0, le=60)
    """Until the endpoint can be talked to."""
    first_timeout: Duration = Field(default=30.0, gt=0, le=600)
    """Until the first piece of an answer has come."""
    between_timeout: Duration = Field(default=20.0, gt=0, le=600)
    """From one piece of an answer to the next."""
    concurrency: int = Field(default=64, gt=0, le=1000)
    """So many requests at once; others wait, and what a person asks overtakes."""
    structured: bool = True
    """Whether answers are asked for as statements with the passages that they rest on; those that
    rest on none are dropped. ``false``: as text with marks, streamed."""
    input_price: float | None = Field(default=None, ge=0)
    """Of a million tokens that are sent. Default: the maker's list price in US dollars, where the
    extra ``prices`` knows it; else what an answer cost is unknown."""
    output_price: float | None = Field(default=None, ge=0)
    """Of a million tokens that the model writes."""
    cached_price: float | None = Field(default=None, ge=0)
    """Of a million tokens that the endpoint had from before. Default: that of those sent."""
    limits: GeneratorLimitSettings = GeneratorLimitSettings()
    budget: GeneratorBudgetSettings = GeneratorBudgetSettings()

    @model_validator(mode="after")
    def _prices_are_known(self) -> Self:
        if self.budget.cost_per_day is not None and not (self.input_price and self.output_price):
            raise ValueError(
                "budget.cost_per_day needs the prices of a million tokens: set input_price and "
                "output_price"
            )
        return self


def _undated(value: object) -> object:
    """YAML reads ``2024-10-21`` as a date."""
    return value.isoformat() if isinstance(value, date) else value


class AnyChatSettings(AnyGeneratorSettings):
    """An OpenAI-compatible chat endpoint."""

    base_url: str = "https://api.openai.com/v1"
    """Up to the part before ``/chat/completions``; for Azure with the name of the deployment:
    ``https://NAME.openai.azure.com/openai/deployments/DEPLOYMENT``."""
    api_version: Annotated[str, BeforeValidator(_undated)] = Field(
        default="", pattern=r"^[0-9A-Za-z.-]*$"
    )
    """Azure's: then the key is sent as Azure wants it."""
    api_key: SecretStr | None = None
    """Default: the environment variable OPENAI_API_KEY."""
    api_key_file: Path | None = None
    """A file that holds the key, relative to the project file."""


class OpenAIGeneratorSettings(AnyChatSettings):
    """An OpenAI-compatible chat endpoint, written where it is used."""

    type: Literal["openai"]


class ChatModelSettings(AnyChatSettings):
    """An OpenAI-compatible chat endpoint, as one of ``models``: for ``answers.generator``."""

    type: Literal["chat"]


class AnthropicModelSettings(AnyGeneratorSettings):
    """A model of Anthropic's, or an endpoint with its ``/messages``."""

    type: Literal["anthropic"]
    temperature: float = Field(default=0.0, ge=0, le=1)
    base_url: str = "https://api.anthropic.com/v1"
    api_key: SecretStr | None = None
    """Default: the environment variable ANTHROPIC_API_KEY."""
    api_key_file: Path | None = None
    """A file that holds the key, relative to the project file."""


class ConverseModelSettings(AnyGeneratorSettings):
    """A model on Amazon Bedrock that knows Converse. Credentials are found as Amazon's tools find
    them: environment, profile, the machine's role. Needs the extra ``aws``."""

    type: Literal["converse"]
    temperature: float = Field(default=0.0, ge=0, le=1)
    region: str | None = None
    profile: str | None = None
    endpoint: str | None = Field(default=None, pattern=r"^https?://")
    """Where Bedrock is, if not at Amazon's address for the region."""


class RouteSettings(Section):
    """Requests that go to other models; all that is said must hold."""

    models: tuple[str, ...] = Field(min_length=1)
    """Names of ``models``, a chain of their own."""
    tenant: str | None = None
    key: str | None = None
    """The id of an API key."""
    longer_than: int | None = Field(default=None, gt=0)
    """Tokens of the prompt, as they are estimated before it is sent."""

    @model_validator(mode="after")
    def _says_when(self) -> RouteSettings:
        if self.tenant is None and self.key is None and self.longer_than is None:
            raise ValueError(
                "expected a route to say when it is taken, got only models: set tenant, key or "
                "longer_than, or put them into the chain"
            )
        return self


class CanarySettings(Section):
    """A new model for a share of those who ask. It is taken back by itself when more of its
    requests fail than may, and more than of the other models, or when it is shown that fewer of its
    answers are good; it is promoted when it is shown that at most ``margin`` fewer are."""

    model: str
    """A name of ``models``."""
    share: float = Field(default=0.05, gt=0, lt=1)
    most_errors: float = Field(default=0.05, ge=0, lt=1)
    """The share of its requests that may fail."""
    least_requests: int = Field(default=20, ge=5)
    """How many there must be before that is looked at."""
    least_judged: int = Field(default=200, ge=20)
    """How many answers and ratings of each side there must be before quality decides. An answer is
    good if it says something, cites, and nothing of it was dropped; a rating counts beside that."""
    margin: float = Field(default=0.03, gt=0, lt=1)
    """So much smaller the share of its answers that are good may be."""
    promote: bool = True
    """Whether it is promoted by itself."""


class CacheSettings(Section):
    """Whole answers that are given again to the same question with the same context, prompt, model
    and permissions. Kept in the process."""

    entries: int = Field(default=1000, gt=0)
    ttl: Duration = Field(default=600.0, gt=0)
    similar: float | None = Field(default=None, ge=0.8, le=1)
    """The cosine of two questions from which on one is given the other's answer, where all else is
    the same: the passages and rows with their versions, the prompt, the model and its parameters,
    the permissions. Numbers, names and words that deny must be the same as well. Default: never."""


class GatewayBudgetSettings(Section):
    """What may be spent a day (UTC), in the currency of the prices, counted over all processes.
    The most that a call can cost is put aside before it is sent, and is refused beyond."""

    per_tenant: float | None = Field(default=None, gt=0)
    per_key: float | None = Field(default=None, gt=0)
    """For each API key."""
    keys: dict[str, float] = Field(default_factory=dict)
    """For single keys, by their ids, instead of ``per_key``."""

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return self.per_tenant is not None or self.per_key is not None or bool(self.keys)


class BreakerSettings(Section):
    """When an endpoint that fails is left alone."""

    failures: int = Field(default=5, gt=0)
    """So many in a row; or half of the last twenty."""
    open: Duration = Field(default=10.0, gt=0)
    """So long; then one request is let through to see, and if that fails, twice as long."""


class GatewaySettings(Section):
    """Several language models as one."""

    type: Literal["gateway"]
    chain: tuple[str, ...] = Field(min_length=1)
    """Names of ``models``: the first is asked; where it fails before its first word, the next."""
    routes: tuple[RouteSettings, ...] = ()
    """Where other models are asked; the first that fits is taken."""
    canary: CanarySettings | None = None
    cache: CacheSettings | None = None
    """Default: nothing is kept."""
    budgets: GatewayBudgetSettings = GatewayBudgetSettings()
    breaker: BreakerSettings = BreakerSettings()
    structured: bool = True
    """Whether answers are asked for as statements with the passages that they rest on; those that
    rest on none are dropped. ``false``: as text with marks, streamed."""

    @property
    def names(self) -> tuple[str, ...]:
        """All models that may be asked."""
        named = [*self.chain, *(name for route in self.routes for name in route.models)]
        return tuple(dict.fromkeys([*named, *([self.canary.model] if self.canary else [])]))


EmbedderSettings: TypeAlias = Annotated[
    MiniLMSettings
    | OpenAIEmbedderSettings
    | ConstantSettings
    | FolderSettings
    | CohereEmbedderSettings
    | BedrockEmbedderSettings,
    Field(discriminator="type"),
]
RerankerSettings: TypeAlias = Annotated[
    LateInteractionSettings | CrossEncoderSettings | EndpointRerankerSettings | NoRerankerSettings,
    Field(discriminator="type"),
]
GeneratorSettings: TypeAlias = Annotated[
    ExtractiveSettings
    | OpenAIGeneratorSettings
    | ChatModelSettings
    | AnthropicModelSettings
    | ConverseModelSettings
    | GatewaySettings,
    Field(discriminator="type"),
]
ModelSettings: TypeAlias = Annotated[
    MiniLMSettings
    | OpenAIEmbedderSettings
    | ConstantSettings
    | FolderSettings
    | CohereEmbedderSettings
    | BedrockEmbedderSettings
    | ChatModelSettings
    | AnthropicModelSettings
    | ConverseModelSettings,
    Field(discriminator="type"),
]
NamedGeneratorSettings: TypeAlias = (
    ChatModelSettings | AnthropicModelSettings | ConverseModelSettings
)
