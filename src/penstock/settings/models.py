"""What a project file may say of its models."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, SecretStr

from penstock.settings.base import Section


class MiniLMSettings(Section):
    """all-MiniLM-L6-v2 on this machine's processor; nothing is downloaded."""

    type: Literal["minilm"]
    precision: Literal["auto", "fp32", "int8"] = "auto"
    """``auto`` takes int8 where the processor is quick at it."""


class ConstantSettings(Section):
    """Vectors from a hash, in constant time: for measuring the engine, not for searching."""

    type: Literal["constant"]


class OpenAIEmbedderSettings(Section):
    """An OpenAI-compatible embeddings endpoint."""

    type: Literal["openai"]
    model: str
    dimensions: int = Field(gt=0)
    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr | None = None
    """Default: the environment variable OPENAI_API_KEY."""
    max_tokens: int = Field(default=8000, gt=0)
    batch: int = Field(default=128, gt=0)


class ExtractiveSettings(Section):
    """Answers with the sentences and row facts that answer the question; needs no endpoint."""

    type: Literal["extractive"]


class OpenAIGeneratorSettings(Section):
    """An OpenAI-compatible chat endpoint."""

    type: Literal["openai"]
    model: str
    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr | None = None
    """Default: the environment variable OPENAI_API_KEY."""
    temperature: float = 0.0
    max_tokens: int = Field(default=800, gt=0)


EmbedderSettings: TypeAlias = Annotated[
    MiniLMSettings | OpenAIEmbedderSettings | ConstantSettings, Field(discriminator="type")
]
GeneratorSettings: TypeAlias = Annotated[
    ExtractiveSettings | OpenAIGeneratorSettings, Field(discriminator="type")
]
