"""Models and what answers with them, from settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.config import openai_api_key
from penstock.errors import ConfigError
from penstock.settings import (
    ConstantSettings,
    ExtractiveSettings,
    MiniLMSettings,
    OpenAIEmbedderSettings,
    OpenAIGeneratorSettings,
    Settings,
)

if TYPE_CHECKING:
    from penstock.models.base import Embedder, Generator
    from penstock.serving.answer import Answerer
    from penstock.serving.context import ContextBuilder


def embedder(settings: Settings) -> Embedder:
    """The model behind the vectors."""
    chosen = settings.knowledge.embedder
    if isinstance(chosen, MiniLMSettings):
        from penstock.models.minilm import MiniLMEmbedder

        return MiniLMEmbedder(precision=chosen.precision)
    if isinstance(chosen, ConstantSettings):
        from penstock.models.constant import ConstantEmbedder

        return ConstantEmbedder()
    return _openai_embedder(chosen)


def recent_vectors(model: Embedder) -> Embedder:
    """The same model for the pipelines: texts in flight are computed once."""
    from penstock.models.recent import RecentVectors

    return RecentVectors(model)


def _openai_embedder(chosen: OpenAIEmbedderSettings) -> Embedder:
    from penstock.models.openai import OpenAIEmbedder

    return OpenAIEmbedder(
        model=chosen.model,
        base_url=chosen.base_url,
        api_key=_api_key(chosen),
        dimensions=chosen.dimensions,
        max_tokens=chosen.max_tokens,
        batch_size=chosen.batch,
    )


def _api_key(chosen: OpenAIEmbedderSettings | OpenAIGeneratorSettings) -> str:
    key = chosen.api_key.get_secret_value() if chosen.api_key else openai_api_key()
    if not key:
        raise ConfigError(
            "expected an API key for the OpenAI-compatible endpoint, found none: set "
            "OPENAI_API_KEY, or api_key: ${MY_KEY} in the project file"
        )
    return key


def answerer(settings: Settings, builder: ContextBuilder, model: Embedder) -> Answerer:
    """What turns a context into an answer."""
    from penstock.serving.answer import Answerer
    from penstock.serving.prompt import read_template

    chosen = settings.answers.generator
    template = read_template(
        settings.path(settings.answers.prompt) if settings.answers.prompt else None
    )
    if isinstance(chosen, ExtractiveSettings):
        from penstock.models.extractive import ExtractiveReader

        reader = ExtractiveReader(model, language=settings.knowledge.language)
        return Answerer(builder, embedder=model, template=template, reader=reader)
    from penstock.models.openai import OpenAIGenerator

    generator: Generator = OpenAIGenerator(
        model=chosen.model,
        base_url=chosen.base_url,
        api_key=_api_key(chosen),
        temperature=chosen.temperature,
        max_tokens=chosen.max_tokens,
    )
    return Answerer(builder, embedder=model, generator=generator, template=template)
