"""Models and what answers with them, from settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

from penstock.clock import Clock, SystemClock
from penstock.config import cohere_api_key, openai_api_key, secret_file
from penstock.errors import ConfigError, MissingExtraError
from penstock.settings import (
    AnyEmbedderSettings,
    BedrockEmbedderSettings,
    CohereEmbedderSettings,
    ConstantSettings,
    CrossEncoderSettings,
    EmbedderSettings,
    EndpointRerankerSettings,
    EndpointSettings,
    ExtractiveSettings,
    FolderSettings,
    GatewaySettings,
    LateInteractionSettings,
    MiniLMSettings,
    NoRerankerSettings,
    OpenAIEmbedderSettings,
    RerankerSettings,
    Settings,
)

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from penstock.models.base import Embedder, Role, Scorer, Writer
    from penstock.models.changing import ServingModels
    from penstock.models.gateway.gateway import Gateway
    from penstock.models.limits import Limits
    from penstock.models.remote import Care
    from penstock.serving.answer import Answerer, Keeper
    from penstock.serving.completions import Completions
    from penstock.serving.context import ContextBuilder
    from penstock.serving.reranking import Reranker
    from penstock.serving.rewriting import Rewriter
    from penstock.serving.shaping import Shaping
    from penstock.stores.postgres.model_registry import PostgresModels
    from penstock.telemetry import RewriteMeter

_KEYS: Final = {"api_key", "api_key_file"}


def embedder(
    settings: Settings,
    pool: AsyncConnectionPool[Any] | None = None,
    *,
    chosen: EmbedderSettings | None = None,
    clock: Clock | None = None,
) -> Embedder:
    """The model behind the vectors, or another one (``chosen``). With a ``pool``, what endpoints
    are asked is counted in the project's database."""
    chosen = chosen or settings.knowledge.embedder
    made = _made(settings, chosen, pool, clock or SystemClock())
    if isinstance(chosen, AnyEmbedderSettings):
        from penstock.models.adjusted import AdjustedEmbedder

        kept = chosen.dimensions if isinstance(chosen, FolderSettings) else None
        if kept is not None or chosen.storage != "halfvec":
            return AdjustedEmbedder(made, dimensions=kept, storage=chosen.storage)
    return made


def _made(
    settings: Settings,
    chosen: EmbedderSettings,
    pool: AsyncConnectionPool[Any] | None,
    clock: Clock,
) -> Embedder:
    if isinstance(chosen, MiniLMSettings):
        from penstock.models.minilm import MiniLMEmbedder

        late = isinstance(reranker_settings(settings), LateInteractionSettings)
        return MiniLMEmbedder(precision=chosen.precision, tokens=late)
    if isinstance(chosen, ConstantSettings):
        from penstock.models.constant import ConstantEmbedder

        return ConstantEmbedder()
    if isinstance(chosen, FolderSettings):
        return _folder(settings, chosen)
    return _endpoint(settings, chosen, pool, clock)


def models(settings: Settings, pool: AsyncConnectionPool[Any]) -> PostgresModels:
    """What the knowledge base says of its models."""
    from penstock.stores.postgres.model_registry import PostgresModels

    return PostgresModels(pool, tenant=settings.tenant)


def serving_models(
    settings: Settings,
    pool: AsyncConnectionPool[Any],
    *,
    clock: Clock,
    reread: Callable[[], Settings],
) -> ServingModels:
    """The embedder that is searched, out of those that the project file names, now or later."""
    from penstock.models.changing import ServingModels

    registry = models(settings, pool)

    def find(name: str) -> Embedder | None:
        for known in (settings, reread()):
            for chosen in (*known.embedders.values(), known.knowledge.embedder, *_minilms(name)):
                made = _attempt(known, chosen, pool, clock)
                if made is not None and made.name == name:
                    return made
        return None

    return ServingModels(
        embedder(settings, pool, clock=clock),
        pointer=registry.serving,
        find=find,
        adopt=registry.adopt,
    )


def _minilms(name: str) -> list[MiniLMSettings]:
    """The model that comes with Penstock is at hand in every precision, on whichever machine."""
    from penstock.stores.base import storage_of

    storage = storage_of(name)
    precisions: tuple[Literal["fp32", "int8"], ...] = ("fp32", "int8")
    return [MiniLMSettings(type="minilm", precision=p, storage=storage) for p in precisions]


def _attempt(
    settings: Settings, chosen: EmbedderSettings, pool: AsyncConnectionPool[Any], clock: Clock
) -> Embedder | None:
    """A model, unless what it needs is missing here: it may not be the one that is looked for."""
    try:
        return embedder(settings, pool, chosen=chosen, clock=clock)
    except (ConfigError, MissingExtraError):
        return None


def reranker_settings(settings: Settings) -> RerankerSettings:
    """The reranker of a project file, or the default for its embedder."""
    chosen = settings.knowledge.reranker
    if chosen is not None:
        return chosen
    if isinstance(settings.knowledge.embedder, MiniLMSettings):
        return LateInteractionSettings(type="late_interaction")
    return NoRerankerSettings(type="none")


def reranker(settings: Settings, model: Embedder) -> Reranker | None:
    """What orders candidates anew."""
    chosen = reranker_settings(settings)
    if isinstance(chosen, NoRerankerSettings):
        return None
    from penstock.serving.reranking import LateInteraction, PassageScores

    if isinstance(chosen, EndpointRerankerSettings):
        from penstock.models.rerank import RerankEndpoint

        scorer = RerankEndpoint(
            model=chosen.model,
            base_url=chosen.base_url,
            api_key=chosen.api_key.get_secret_value() if chosen.api_key else "",
            timeout_s=chosen.timeout,
        )
        return PassageScores(scorer, depth=chosen.depth)
    if isinstance(chosen, CrossEncoderSettings):
        local = cross_encoder(settings)
        assert local is not None
        return PassageScores(local, depth=chosen.depth)
    return LateInteraction(model, depth=chosen.depth)


def cross_encoder(settings: Settings) -> Scorer | None:
    """The reranker in a folder, if there is one."""
    chosen = settings.knowledge.reranker
    if not isinstance(chosen, CrossEncoderSettings):
        return None
    from penstock.models.cross_encoder import CrossEncoder

    return CrossEncoder(
        settings.path(chosen.path), graph=chosen.graph, max_tokens=chosen.max_tokens
    )


def shaping(settings: Settings) -> Shaping:
    """What is asked of passages, beside that they are the best."""
    from penstock.serving.shaping import Shaping

    answers = settings.answers
    return Shaping(answers.near_duplicates, answers.recency_days, answers.neighbours)


def recent_vectors(model: Embedder) -> Embedder:
    """The same model for the pipelines: texts in flight are computed once."""
    from penstock.models.recent import RecentVectors

    return RecentVectors(model)


def _folder(settings: Settings, chosen: FolderSettings) -> Embedder:
    from penstock.models.folder import FolderEmbedder

    given: dict[Role, str | None] = {
        "document": chosen.document_prefix,
        "question": chosen.query_prefix,
    }
    return FolderEmbedder(
        settings.path(chosen.path),
        graph=chosen.graph,
        max_tokens=chosen.max_tokens,
        prefixes={role: prefix for role, prefix in given.items() if prefix is not None},
        threads=chosen.threads,
    )


def limits(chosen: EndpointSettings) -> Limits:
    """What an endpoint may be asked."""
    from penstock.models.limits import Limits

    return Limits(
        requests_per_minute=chosen.limits.requests_per_minute,
        tokens_per_minute=chosen.limits.tokens_per_minute,
        characters_per_day=chosen.budget.characters_per_day,
        cost_per_day=chosen.budget.cost_per_day,
        price=chosen.price,
    )


def _care(
    name: str, chosen: EndpointSettings, pool: AsyncConnectionPool[Any] | None, clock: Clock
) -> Care:
    from penstock.models.limits import MemoryLedger, MemoryReferences
    from penstock.models.remote import Care

    if pool is None:
        ledger = MemoryLedger(limits(chosen), clock)
        return Care(limits(chosen), ledger, MemoryReferences(), clock)
    from penstock.stores.postgres.model_usage import PostgresModelUsage
    from penstock.wiring.ledgers import StoredLedger

    usage = PostgresModelUsage(pool)
    return Care(limits(chosen), StoredLedger(usage, name, limits(chosen), clock), usage, clock)


def _endpoint(
    settings: Settings,
    chosen: OpenAIEmbedderSettings | CohereEmbedderSettings | BedrockEmbedderSettings,
    pool: AsyncConnectionPool[Any] | None,
    clock: Clock,
) -> Embedder:
    common: dict[str, Any] = {
        "model": chosen.model,
        "dimensions": chosen.dimensions,
        "gives": chosen.full_dimensions,
        "concurrency": chosen.concurrency,
        "timeout_s": chosen.timeout,
        "max_tokens": chosen.max_tokens,
        "care": _care(f"{chosen.type}/{chosen.model}", chosen, pool, clock),
    }
    if isinstance(chosen, BedrockEmbedderSettings):
        from penstock.models.bedrock import BedrockEmbedder

        return BedrockEmbedder(
            region=chosen.region, profile=chosen.profile, base_url=chosen.endpoint, **common
        )
    common |= {
        "base_url": chosen.base_url,
        "api_key": _api_key(settings, chosen),
        "batch_size": chosen.batch,
    }
    if isinstance(chosen, CohereEmbedderSettings):
        from penstock.models.cohere import CohereEmbedder

        return CohereEmbedder(send_dimensions=chosen.send_dimensions, **common)
    from penstock.models.openai import OpenAIEmbedder

    return OpenAIEmbedder(
        prefixes={"document": chosen.document_prefix, "question": chosen.query_prefix},
        roles={"document": chosen.document_options, "question": chosen.query_options},
        send_dimensions=chosen.send_dimensions,
        **common,
    )


def _api_key(
    settings: Settings,
    chosen: OpenAIEmbedderSettings | CohereEmbedderSettings,
) -> str:
    cohere = isinstance(chosen, CohereEmbedderSettings)
    key = chosen.api_key.get_secret_value() if chosen.api_key else ""
    if not key and chosen.api_key_file is not None:
        key = secret_file(settings.path(chosen.api_key_file))
    key = key or (cohere_api_key() if cohere else openai_api_key()) or ""
    if not key:
        raise ConfigError(
            f"expected an API key for the endpoint {chosen.base_url}, found none: set "
            f"{'CO_API_KEY' if cohere else 'OPENAI_API_KEY'}, or api_key: ${{MY_KEY}} in the "
            "project file"
        )
    return key


def answerer(
    settings: Settings,
    builder: ContextBuilder,
    model: Embedder,
    asked: Gateway | None = None,
    keeper: Keeper | None = None,
) -> Answerer:
    """What turns a context into an answer. ``asked`` are the language models as one, where there
    are some; with a ``keeper``, answers are kept."""
    from penstock.serving.answer import Answerer
    from penstock.serving.prompt import read_template

    chosen = settings.answers.generator
    template = read_template(
        settings.path(settings.answers.prompt) if settings.answers.prompt else None
    )
    if isinstance(chosen, ExtractiveSettings):
        from penstock.models.answerable import Calibration
        from penstock.models.extractive import ExtractiveReader

        # What the signs weigh was measured with this model's vectors, on English.
        fitted = isinstance(settings.knowledge.embedder, MiniLMSettings)
        fitted = fitted and settings.knowledge.language == "english"
        reader = ExtractiveReader(
            model,
            language=settings.knowledge.language,
            calibration=Calibration() if fitted else None,
        )
        return Answerer(builder, embedder=model, template=template, reader=reader, keeper=keeper)
    return Answerer(
        builder,
        embedder=model,
        generator=asked,
        template=template,
        keeper=keeper,
        parameters=_parameters(settings),
    )


def _parameters(settings: Settings) -> dict[str, Any]:
    """What is set of the generator and of the models behind it, but for their keys."""
    chosen = settings.answers.generator
    said = chosen.model_dump(mode="json", exclude=_KEYS, exclude_none=True)
    if isinstance(chosen, GatewaySettings):
        said["models"] = {
            name: settings.generators[name].model_dump(
                mode="json", exclude=_KEYS, exclude_none=True
            )
            for name in chosen.names
        }
    return said


def completions(
    settings: Settings,
    answerer: Answerer,
    asked: Gateway,
    keeper: Keeper | None,
    clock: Clock,
) -> Completions:
    """What asks language models in conversations that callers lead."""
    from penstock.serving.completions import Completions

    return Completions(
        answerer, asked, keeper=keeper, clock=clock, parameters=_parameters(settings)
    )


def rewriter(
    settings: Settings, meter: RewriteMeter, asked: Gateway | None = None
) -> Rewriter | None:
    """What turns a question into searches."""
    answers = settings.answers
    if not answers.rewrite or asked is None:
        return None
    from penstock.models.base import Who, Writer
    from penstock.serving.rewriting import Rewriter

    writer = asked.asked_by(Who(settings.tenant))
    assert isinstance(writer, Writer)  # the settings are checked for it
    return Rewriter(writer, most=answers.rewrite, timeout_s=answers.rewrite_timeout, meter=meter)


def follow_up_writer(settings: Settings, asked: Gateway | None = None) -> Writer | None:
    """What makes follow-up questions stand for themselves, where there is a generator that can."""
    from penstock.models.base import Who, Writer

    writer = None if asked is None else asked.asked_by(Who(settings.tenant))
    return writer if isinstance(writer, Writer) else None
