"""What Penstock needs of models: vectors of texts, and text from a prompt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from penstock.principals import DEFAULT_TENANT, Principal

Vectors: TypeAlias = NDArray[np.float32]
"""Shape (n, dimensions), rows of length 1."""

Priority = Literal["query", "live", "bulk"]
"""Who waits: a person's question, a change that just happened, or a load. Earlier ones overtake."""

Role = Literal["document", "question"]
"""What a text is to the model: many have a prefix or a parameter for each."""


class Embedder(Protocol):
    """Turns texts into vectors."""

    name: str
    """Identifies the vectors: model, revision and precision. Two embedders with the same name give
    interchangeable vectors; a stored vector is reused only under the same name."""
    dimensions: int
    max_tokens: int
    """The most tokens that are read of a text; what is longer is cut by the model, so chunks must
    not be longer."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has for this model, special tokens not counted. Pure, quick."""

    async def embed(self, texts: Sequence[str], *, priority: Priority = "live") -> Vectors:
        """One vector per text, in the order given, without blocking the event loop.

        Batches, sorts by length and splits by itself; any number of texts is fine. Raises
        `RetryableError` (endpoint down, rate limit) or `BadRecordError` (this text is refused).
        """

    async def close(self) -> None:
        """Release memory, threads and connections."""


@runtime_checkable
class QuestionEmbedder(Protocol):
    """An embedder to which questions are another kind of text than documents."""

    async def embed_questions(
        self, texts: Sequence[str], *, priority: Priority = "query"
    ) -> Vectors:
        """As `Embedder.embed`, for texts that ask; the vectors compare with those of documents."""


async def question_vectors(
    embedder: Embedder, texts: Sequence[str], *, priority: Priority = "query"
) -> Vectors:
    """The vectors of questions, by whichever way this embedder has."""
    if isinstance(embedder, QuestionEmbedder):
        return await embedder.embed_questions(texts, priority=priority)
    return await embedder.embed(texts, priority=priority)


@runtime_checkable
class ChangingEmbedder(Protocol):
    """One that stands for another, which may be exchanged while the project runs."""

    async def serving(self, *, fresh: bool = True) -> Embedder:
        """The embedder whose vectors are searched; without ``fresh``, that of last time will do."""


async def serving(embedder: Embedder, *, fresh: bool = True) -> Embedder:
    """The embedder to use for one piece of work: the same from its beginning to its end."""
    if isinstance(embedder, ChangingEmbedder):
        return await embedder.serving(fresh=fresh)
    return embedder


class Weighted(NamedTuple):
    """A word of a text, from ``start`` to ``end``, and how much it tells."""

    start: int
    end: int
    weight: float


class Embedded(NamedTuple):
    """Vectors of texts, and those of their tokens as they are stored."""

    vectors: Vectors
    tokens: Sequence[bytes]


class Candidate(NamedTuple):
    """A passage that may answer: as it was found (its cosine with the question, and its share of
    the question's words), as it reads, and as it is stored."""

    similarity: float
    text_score: float
    title: str
    text: str
    vector: Vectors
    tokens: bytes


@runtime_checkable
class TokenEmbedder(Embedder, Protocol):
    """An embedder that also gives the vectors of tokens, which passages are ranked again by."""

    head: str
    """Identifies the stored form of the tokens' vectors; "" if there are none now. Only those of
    one head are compared."""

    async def embed_tokens(self, texts: Sequence[str], *, priority: Priority = "live") -> Embedded:
        """As `embed`, with the tokens of each text."""

    async def match(
        self,
        question: str,
        words: Sequence[Weighted],
        most: float,
        candidates: Sequence[Candidate],
    ) -> Sequence[float]:
        """How well candidates match a question, beside each other, each 0 to 2. ``words`` are those
        of the question that tell something; ``most`` is the weight of a word that no text holds."""


def token_embedder(model: Embedder) -> TokenEmbedder | None:
    """The same model, if it gives vectors of tokens."""
    return model if isinstance(model, TokenEmbedder) and model.head else None


class Scorer(Protocol):
    """Says how well texts answer a question, reading both together."""

    name: str

    async def scores(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score per text, 0 to 1, in the order given. Raises `RetryableError`,
        `BadRecordError` or `FatalError` as the endpoint behind it answers."""

    async def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Generator(Protocol):
    """Writes text from messages."""

    name: str

    def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        """The answer piece by piece; the pieces together are the whole text."""

    async def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True, slots=True)
class Who:
    """In whose name a generator is asked: what is counted and remembered is theirs alone."""

    tenant: str = DEFAULT_TENANT
    names: tuple[str, ...] = ()
    """The user and the groups, which decide what may be seen."""
    key: str = ""
    """The id of the API key, "" without one."""
    session: str = ""
    answer: str = ""
    """The id of the answer that it is asked for, "" where none is kept: it is no part of what is
    asked, but names what is given again."""
    priority: Priority = "query"
    """``bulk``: nobody waits, so all others go first."""


@dataclass(frozen=True, slots=True)
class Author:
    """Which model wrote something, and how that came about."""

    name: str = ""
    """As the project calls it."""
    model: str = ""
    """As its endpoint says; "" if it does not."""
    finish: str = "stop"
    """Why it stopped writing."""
    arm: Literal["", "canary", "others"] = ""
    """On which side it was asked, while a new model is tried."""
    reused: Literal["", "cache", "similar"] = ""
    """Whether it was written for the same question before, or for one that is like it."""
    of: str = ""
    """The id of the answer for which it was written then, "" where that was not kept."""


CALLER_KEY: ContextVar[str] = ContextVar("penstock_caller_key", default="")
"""The id of the key with which the present request came: what a call costs is counted for it."""


@runtime_checkable
class PersonalGenerator(Protocol):
    """A generator that counts and remembers for each who asks."""

    name: str

    async def close(self) -> None:
        """Release connections."""

    def asked_by(self, who: Who) -> Generator | Writer:
        """The same, asked in this name."""


@runtime_checkable
class CountedGenerator(Protocol):
    """A generator of text that says what it took."""

    usage: Usage | None
    """Of the answer that was streamed last; None: of none yet."""
    author: Author | None


@dataclass(frozen=True, slots=True)
class Matter:
    """What a prompt says beside how old that is: two prompts of the same matter have the same
    answer. ``rest`` is a digest of all but the question: the template, the items in their order
    with their versions."""

    rest: str
    question: str


@runtime_checkable
class ThriftyGenerator(Protocol):
    """A generator, for one question, that need not ask a model twice for the same."""

    def about(self, matter: Matter | None) -> None:
        """Say what the prompt to come is about; None: the model is asked, whatever is known."""


def whose(principal: Principal, answer: str = "", priority: Priority = "query") -> Who:
    """In whose name a model is asked, for the answer of that id."""
    key = CALLER_KEY.get()
    return Who(principal.tenant, principal.names, key, answer=answer, priority=priority)


def asked_by(
    generator: Generator | Writer | PersonalGenerator,
    principal: Principal,
    answer: str = "",
    priority: Priority = "query",
) -> Generator | Writer:
    """The generator to use for one question of somebody."""
    if not isinstance(generator, PersonalGenerator):
        return generator
    return generator.asked_by(whose(principal, answer, priority))


@dataclass(frozen=True, slots=True)
class Usage:
    """What requests to a generator took, all tries together. None: unknown, which is not nothing:
    the endpoint did not say, or no price is set."""

    requests: int = 0
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    cost: float | None = None
    cached_tokens: int | None = None
    """Those of the input that the endpoint had from before, which cost less."""
    estimated: bool = False
    """Whether the tokens are ours, because the endpoint said none that can be true."""


class Written(NamedTuple):
    """What a generator wrote, as parsed JSON, and what it took."""

    value: object
    usage: Usage
    author: Author | None = None
    """None: whoever was asked."""


@runtime_checkable
class Writer(Protocol):
    """A generator that writes JSON of a shape that it is given."""

    name: str

    async def write(self, messages: Sequence[Message], shape: Mapping[str, Any]) -> Written:
        """What it wrote; ``shape`` is a JSON schema that the model is held to as far as the
        endpoint can, so that the reader still has to look. Raises `RetryableError`,
        `BadRecordError` or `FatalError` as the endpoint answers."""

    async def close(self) -> None:
        """Release connections."""
