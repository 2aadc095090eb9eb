"""all-MiniLM-L6-v2 on this machine's processor, without torch and without a download."""

from __future__ import annotations

import asyncio
import os
import platform
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.errors import FatalError
from penstock.models.base import Candidate, Embedded, Priority, Vectors, Weighted
from penstock.models.interaction import ask
from penstock.models.lanes import Lanes
from penstock.models.late_interaction import QuestionTokens, head
from penstock.models.minilm_weights import (
    LAYERS,
    LEVELS,
    LEVELS_OF_PAIRS,
    Precision,
    graph,
    load_weights,
    model_folder,
    verify,
)
from penstock.models.ranking import ranking
from penstock.models.wordpiece import WordPiece

_READS = 254
"""Tokens, beside the two special ones: what the model was trained on."""
_DIMENSIONS = 384
_AT_ONCE = 50
"""So many candidates are ordered within two milliseconds, most of them holding the interpreter: a
thread would cost more than it lets others do meanwhile."""
_TOKENS = f"layer{LAYERS - 1}.end"


class _Question(NamedTuple):
    """What is kept of a question."""

    vector: Vectors
    tokens: QuestionTokens


class MiniLMEmbedder:
    """Vectors from all-MiniLM-L6-v2, one text at a time on every core.

    ``precision`` is ``fp32``, ``int8`` (two to three times as fast, mean cosine with fp32 above
    0.995) or ``auto``: int8 where the processor multiplies bytes quickly. ``threads`` work on bulk
    and as many on live texts; default: the cores that this process may use. The vectors of the last
    ``cached_queries`` questions are kept.

    The model is loaded on first use, or by `load`: about half a second.
    """

    dimensions = _DIMENSIONS
    max_tokens = _READS

    def __init__(
        self,
        *,
        precision: Literal["auto", "fp32", "int8"] = "auto",
        threads: int | None = None,
        cached_queries: int = 1024,
        tokens: bool = True,
        folder: Path | None = None,
    ) -> None:
        self.precision: Precision = best_precision() if precision == "auto" else precision
        self.name = f"all-MiniLM-L6-v2/{self.precision}-1"
        self._wanted_threads = threads or _cores()
        self._cached = cached_queries
        self._folder = folder
        self.head = head().name if tokens else ""
        self._queries: OrderedDict[str, _Question] = OrderedDict()
        self._loading = threading.Lock()
        self._reading = threading.Lock()
        self._session: Any = None
        self._words: WordPiece | None = None
        self._lanes: Lanes[Any] | None = None
        self._closed = False

    def load(self) -> None:
        """Verify the weights and make the model ready; `ConfigError` when they are wrong.

        Blocks for about half a second, once; safe to call from any thread.
        """
        with self._loading:
            if self._closed:
                raise FatalError("expected an open embedder, got one that was closed")
            if self._lanes is not None:
                return
            weights = self._model_folder() / "model.safetensors"
            verify(weights)
            self._session = make_session(
                graph(self.precision), load_weights(weights, self.precision, levels=best_levels())
            )
            self._tokenizer()
            self._lanes = Lanes(self._vector, threads=self._wanted_threads)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._tokenizer().count(texts)

    async def embed(self, texts: Sequence[str], *, priority: Priority = "live") -> Vectors:
        if not len(texts):
            return np.empty((0, _DIMENSIONS), np.float32)
        if priority == "query" and len(texts) == 1:
            return (await self._question(texts[0])).vector.copy()
        return np.concatenate(await (await self._loaded()).map(texts, priority))

    async def embed_tokens(self, texts: Sequence[str], *, priority: Priority = "live") -> Embedded:
        if not len(texts):
            return Embedded(np.empty((0, _DIMENSIONS), np.float32), [])
        found = await (await self._loaded()).map(texts, priority, self._with_tokens)
        return Embedded(np.concatenate([vector for vector, _ in found]), [t for _, t in found])

    async def match(
        self,
        question: str,
        words: Sequence[Weighted],
        most: float,
        candidates: Sequence[Candidate],
    ) -> Sequence[float]:
        if not candidates:
            return []
        asked = ask(question, await self.question_tokens(question), words, most)
        if len(candidates) <= _AT_ONCE:
            scores: list[float] = ranking().scores(asked, candidates).tolist()
            return scores
        return await asyncio.to_thread(lambda: ranking().scores(asked, candidates).tolist())

    async def question_tokens(self, text: str) -> QuestionTokens:
        """What passages are compared with."""
        return (await self._question(text)).tokens

    async def _question(self, text: str) -> _Question:
        known = self._queries.get(text)
        if known is None:
            [known] = await (await self._loaded()).map([text], "query", self._as_question)
            self._queries[text] = known
            while len(self._queries) > self._cached:
                self._queries.popitem(last=False)
        else:
            self._queries.move_to_end(text)
        return known

    async def _loaded(self) -> Lanes[Any]:
        if self._lanes is None or self._closed:
            await asyncio.to_thread(self.load)
        assert self._lanes is not None
        return self._lanes

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._loading:
            self._closed = True
            lanes, self._lanes, self._session = self._lanes, None, None
            self._queries.clear()
        if lanes is not None:
            lanes.close()

    def _run(self, text: str, *outputs: str) -> tuple[NDArray[np.int64], list[Vectors]]:
        """One text, in a thread of a lane; the session allows any number of them at a time."""
        words, session = self._words, self._session
        if words is None or session is None:
            raise FatalError("expected an open embedder, got one that was closed")
        tokens = words.encode(text)
        return tokens[0], session.run(outputs, {"tokens": tokens})

    def _vector(self, text: str) -> Vectors:
        return self._run(text, "vector")[1][0]

    def _with_tokens(self, text: str) -> tuple[Vectors, bytes]:
        tokens, (vector, hidden) = self._run(text, "vector", _TOKENS)
        return vector, head().pack(hidden[0], tokens)

    def _as_question(self, text: str) -> _Question:
        if not self.head:
            return _Question(self._vector(text), QuestionTokens(np.empty((0, 0), np.float32), []))
        _, (vector, hidden) = self._run(text, "vector", _TOKENS)
        return _Question(vector, QuestionTokens(head().project(hidden[0]), self._places(text)))

    def _places(self, text: str) -> list[tuple[int, int]]:
        return self._tokenizer().places(text)

    def _tokenizer(self) -> WordPiece:
        """Read on first use, which is before the weights where a caller only counts."""
        if self._words is None:
            with self._reading:
                if self._words is None:
                    path = self._model_folder() / "tokenizer.json"
                    self._words = WordPiece(path, max_tokens=_READS)
        return self._words

    def _model_folder(self) -> Path:
        return self._folder or model_folder()


_SUMS_OF_FOUR = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})


def best_precision(flags: frozenset[str] | None = None) -> Precision:
    """int8 where the processor multiplies bytes: three times as fast as fp32 with sums of four
    products, nearly twice with sums of pairs; fp32 elsewhere."""
    if _is_apple():
        return "int8"
    known = _processor_flags() if flags is None else flags
    return "int8" if known & (_SUMS_OF_FOUR | {"avx2"}) else "fp32"


def best_levels(flags: frozenset[str] | None = None) -> int:
    """How large rounded weights may get without sums of products overflowing."""
    known = _processor_flags() if flags is None else flags
    return LEVELS if known & _SUMS_OF_FOUR or _is_apple() else LEVELS_OF_PAIRS


def _is_apple() -> bool:
    return platform.machine() in ("arm64", "aarch64") and platform.system() == "Darwin"


def _processor_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    lines = (line for line in text.splitlines() if line.lower().startswith(("flags", "features")))
    return frozenset(next(lines, "").split())


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_session(model: bytes, weights: dict[str, NDArray[Any]]) -> Any:
    """A graph with its weights, which are taken out of ``weights``; it runs in the thread that
    calls it, and in any number of threads at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # every length has its own: they would be kept for ever
    options.log_severity_level = 3
    # The higher levels fuse sums with norms into an operator that is six times slower than the two.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    names = sorted(weights)
    arrays = [np.ascontiguousarray(weights.pop(name)) for name in names]
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays]
    options.add_external_initializers(names, values)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    # The options borrow the memory of these until the session exists; it has its own copy then.
    del values, arrays
    return session
