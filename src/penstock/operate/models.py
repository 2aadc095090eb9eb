"""Another model for the knowledge base, without an outage: estimate, fill, compare, cut over.

The vectors of the new model are filled in beside those that are searched, by this process, while
others go on to serve and to carry changes. What is lacking is asked of the database again and
again, so a filling that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock import wiring
from penstock.errors import BadRecordError, ConfigError, RetryableError
from penstock.models.base import Embedded, Embedder, token_embedder
from penstock.runtimes.base import Backoff
from penstock.settings import EmbedderSettings, EndpointSettings
from penstock.stores.postgres.document_writer import NO_TOKENS, Tokens
from penstock.stores.postgres.model_registry import Lacking, PostgresModels, StoredModel

if TYPE_CHECKING:
    from penstock.project import Project

PORTION: Final = 256
"""Texts that are embedded, and then stored in one transaction."""
SAMPLE: Final = 64
_ROUNDS: Final = 50
_READY_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What filling a model would take."""

    model: str
    before: str | None
    chunks: int
    texts: int
    characters: int
    tokens: int
    too_long: float
    """The share of texts (in a sample) that the model reads only the beginning of."""
    price: float | None
    """Of a million tokens, as the project file says."""
    cost: float | None
    texts_per_s: float | None
    """Measured with a sample of the texts, now."""
    seconds: float | None
    bytes_per_chunk: int
    bytes_per_chunk_before: int | None


@dataclass(slots=True)
class Filled:
    """What a filling has done."""

    texts: int = 0
    characters: int = 0
    seconds: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)
    """Documents with a text that the model does not take, and why."""
    refused_hashes: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Target:
    """A model to change to."""

    named: str
    settings: EmbedderSettings | None
    embedder: Embedder
    id: int

    @property
    def price(self) -> float | None:
        """Of a million tokens."""
        return self.settings.price if isinstance(self.settings, EndpointSettings) else None


async def listed(project: Project) -> dict[str, Any]:
    """The models that the project file names, and those that have vectors."""
    registry = project.models()
    stored = await registry.models()
    serving = next((model for model in stored if model.role == "serving"), None)
    declared = []
    for name, chosen in _declared(project).items():
        try:
            made = wiring.embedder(project.settings, project.pool, chosen=chosen)
        except ConfigError as error:
            declared.append({"name": name, "type": chosen.type, "problem": str(error)})
            continue
        declared.append({"name": name, "type": chosen.type, "model": made.name})
        await made.close()
    return {
        "serving": None if serving is None else serving.name,
        "chunks": await registry.chunks(),
        "declared": declared,
        "stored": [await _line(registry, model) for model in stored],
    }


async def _line(registry: PostgresModels, model: StoredModel) -> dict[str, Any]:
    lacking = await registry.size(model.id) if model.role != "unused" else None
    return {
        "model": model.name,
        "role": model.role,
        "dimensions": model.dimensions,
        "storage": model.storage,
        "vectors": model.vectors,
        "lacking": None if lacking is None else lacking.texts,
        "bytes_per_vector": model.bytes_per_vector,
    }


def _declared(project: Project) -> dict[str, EmbedderSettings]:
    settings = project.settings
    return {"knowledge.embedder": settings.knowledge.embedder, **settings.embedders}


# --------------------------------------------------------------------------- which model


async def target(project: Project, named: str | None) -> Target:
    """The model to change to: one of ``models``, or what ``knowledge.embedder`` names."""
    declared = _declared(project)
    name = named or "knowledge.embedder"
    chosen = declared.get(name)
    if chosen is None:
        known = ", ".join(project.settings.embedders) or "there are none"
        raise ConfigError(
            f"expected one of the project file's models ({known}), got {name!r}: "
            "name it in `models`"
        )
    made = wiring.embedder(project.settings, project.pool, chosen=chosen, clock=project.clock)
    return await _target(project, name, chosen, project.embedder().keep(made))


async def former(project: Project) -> Target:
    """The model that was searched before."""
    stored = await project.models().models()
    previous = next((model for model in stored if model.role == "previous"), None)
    if previous is None:
        raise ConfigError(
            "expected a former model whose vectors are kept, found none: nothing was changed, or "
            "`penstock models migrate --finish` has dropped it"
        )
    found = project.embedder().known(previous.name)
    if found is None:
        raise ConfigError(
            f"expected the former model {previous.name!r} in the project file, found none that is "
            "called so: name it in `models`"
        )
    return await _target(project, previous.name, None, found)


async def _target(
    project: Project, name: str, chosen: EmbedderSettings | None, embedder: Embedder
) -> Target:
    registry = project.models()
    serving = await registry.serving()
    if serving is None:
        raise ConfigError(
            "expected a knowledge base to change the model of, found an empty one: name the model "
            "in knowledge.embedder and start `penstock run`"
        )
    if serving == embedder.name:
        raise ConfigError(
            f"expected another model than {serving!r}, which is searched already: name one with "
            "--to"
        )
    id_ = await registry.register(embedder.name, embedder.dimensions)
    return Target(name, chosen, embedder, id_)


# --------------------------------------------------------------------------- what it takes


async def estimate(project: Project, to: Target) -> Estimate:
    """Count what is lacking, and measure with a sample how quick the model is. The sample's vectors
    are kept."""
    registry = project.models()
    size = await registry.size(to.id)
    stored = {model.name: model for model in await registry.models()}
    serving = await registry.serving()
    sample = await registry.lacking(to.id, limit=SAMPLE)
    texts = [item.text for item in sample]
    counts = to.embedder.count_tokens(texts)
    sampled = sum(map(len, texts))
    tokens = round(sum(counts) * size.characters / sampled) if sampled else 0
    rate: float | None = None
    if texts:
        filled = Filled()
        began = project.clock.monotonic()
        await _fill_portion(registry, to, sample, filled)
        rate = len(texts) / max(project.clock.monotonic() - began, 1e-9)
    return Estimate(
        model=to.embedder.name,
        before=serving,
        chunks=await registry.chunks(),
        texts=size.texts,
        characters=size.characters,
        tokens=tokens,
        too_long=sum(n > to.embedder.max_tokens for n in counts) / max(1, len(counts)),
        price=to.price,
        cost=None if to.price is None else round(tokens * to.price / 1e6, 6),
        texts_per_s=rate,
        seconds=None if rate is None else size.texts / rate,
        bytes_per_chunk=stored[to.embedder.name].bytes_per_vector,
        bytes_per_chunk_before=None if serving is None else stored[serving].bytes_per_vector,
    )


# --------------------------------------------------------------------------- filling


async def fill(
    project: Project, to: Target, *, on_step: Callable[[Filled], None] = lambda _: None
) -> Filled:
    """Embed all texts that the model lacks, until none is lacking. An endpoint that is down is
    waited for."""
    registry = project.models()
    await registry.begin(to.id)
    filled = Filled()
    began = project.clock.monotonic()
    for _ in range(_ROUNDS):
        before = filled.texts
        await _fill_once(project, registry, to, filled, on_step)
        if filled.texts == before:
            break
    filled.seconds = project.clock.monotonic() - began
    return filled


async def _fill_once(
    project: Project,
    registry: PostgresModels,
    to: Target,
    filled: Filled,
    on_step: Callable[[Filled], None],
) -> None:
    """One walk over all chunks."""
    backoff = Backoff(project.clock)
    after = 0
    while True:
        portion = await registry.lacking(to.id, after=after, limit=PORTION)
        if not portion:
            return
        try:
            await _fill_portion(registry, to, portion, filled)
        except RetryableError as error:
            filled.seconds = -1.0
            on_step(filled)
            await backoff.wait(error.retry_after_s)
            continue
        backoff.reset()
        after = portion[-1].chunk
        on_step(filled)


async def _fill_portion(
    registry: PostgresModels, to: Target, portion: Sequence[Lacking], filled: Filled
) -> None:
    wanted = [
        item
        for item in {item.hash: item for item in portion}.values()
        if item.hash not in filled.refused_hashes
    ]
    taken, made = await _embed(to.embedder, wanted, filled)
    if taken:
        model = token_embedder(to.embedder)
        tokens = Tokens(model.head, made.tokens) if model is not None else NO_TOKENS
        filled.texts += await registry.store(to.id, to.embedder.name, taken, made.vectors, tokens)
        filled.characters += sum(len(item.text) for item in taken)


async def _embed(
    embedder: Embedder, items: Sequence[Lacking], filled: Filled
) -> tuple[list[Lacking], Embedded]:
    """The vectors of all texts that the model takes; those that it refuses are found by halving."""
    nothing = Embedded(np.empty((0, embedder.dimensions), np.float32), [])
    if not items:
        return [], nothing
    try:
        texts = [item.text for item in items]
        if (model := token_embedder(embedder)) is not None:
            return list(items), await model.embed_tokens(texts, priority="bulk")
        return list(items), Embedded(await embedder.embed(texts, priority="bulk"), [])
    except BadRecordError as error:
        if len(items) == 1:
            filled.refused[items[0].document] = error.reason
            filled.refused_hashes.add(items[0].hash)
            return [], nothing
    middle = len(items) // 2
    left, first = await _embed(embedder, items[:middle], filled)
    right, second = await _embed(embedder, items[middle:], filled)
    vectors = np.concatenate([first.vectors, second.vectors])
    return [*left, *right], Embedded(vectors, [*first.tokens, *second.tokens])


# --------------------------------------------------------------------------- taking into use


async def cut_over(project: Project, to: Target, filled: Filled, *, without: bool) -> None:
    """Take the model into use once every running process can use it and no chunk lacks a vector."""
    registry = project.models()
    if filled.refused and not without:
        named = "; ".join(f"{name}: {reason}" for name, reason in list(filled.refused.items())[:5])
        raise ConfigError(
            f"expected a vector for every text, but {to.embedder.name!r} refuses some of "
            f"{len(filled.refused)} documents ({named}): mend them, or go on with "
            "--without-refused; they are then found by their words only"
        )
    await _until_ready(project, registry, to)
    await registry.index()
    for _ in range(_ROUNDS):
        if await registry.cut_over(to.id, without=filled.refused_hashes):
            return
        await _fill_once(project, registry, to, filled, lambda _: None)
    raise RetryableError(
        "expected to catch up with the changes that come meanwhile, but there are always more than "
        "the model can embed: try again when fewer come"
    )


async def _until_ready(project: Project, registry: PostgresModels, to: Target) -> None:
    deadline = project.clock.monotonic() + _READY_S
    while unready := await registry.unready(to.embedder.name):
        if project.clock.monotonic() > deadline:
            raise ConfigError(
                f"expected every running process to be able to use {to.embedder.name!r}, but "
                f"{', '.join(unready)} is not: does its project file name the model, and has it "
                "the key? Restart it, or stop it, and try again; what was filled is kept"
            )
        await project.clock.sleep(0.5)


async def finish(project: Project) -> dict[str, Any]:
    """Drop the vectors of all models that are not searched."""
    return {"dropped": await project.models().finish()}


def as_dict(estimated: Estimate) -> dict[str, Any]:
    """As JSON shows it."""
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in asdict(estimated).items()
    }
