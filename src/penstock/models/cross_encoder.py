"""A cross-encoder in a folder on this machine: it reads question and passage together.

The folder is as sentence-transformers writes it, with a graph (``onnx/model.onnx``), a
``tokenizer.json`` and a ``config.json``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, FatalError
from penstock.models.lanes import cores

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_GRAPHS: Final = ("onnx/model.onnx", "model.onnx", "onnx/model_quantized.onnx")
_TOGETHER: Final = 8
"""Pairs that are read at once, of about the same length."""
_LONGEST: Final = 4000
"""Characters of a passage that are read: more than any chunk of the default size has."""
_LEAST: Final = 16


class CrossEncoder:
    """Scores pairs of a question and a passage, 0 to 1. The model is loaded on first use.

    Raises `ConfigError` for a folder that is no such model.
    """

    def __init__(
        self, folder: Path, *, graph: str | None = None, max_tokens: int | None = None
    ) -> None:
        self._graph = _graph(folder, graph)
        self._tokenizer = _tokenizer(folder, _positions(folder), max_tokens)
        digest = hashlib.sha256(self._graph.read_bytes()).hexdigest()[:8]
        self.name = f"folder/{folder.resolve().name}/{digest}"
        self._lock = threading.Lock()
        self._session: Any = None

    async def scores(self, question: str, texts: Sequence[str]) -> list[float]:
        """How well each text answers, in the order given."""
        return await asyncio.to_thread(self._scores, question, texts)

    async def close(self) -> None:
        """Forget the model."""
        with self._lock:
            self._session = None

    def _scores(self, question: str, texts: Sequence[str]) -> list[float]:
        pairs = [(_plain(question), _plain(text[:_LONGEST])) for text in texts]
        encoded = self._tokenizer.encode_batch(pairs)
        order = sorted(range(len(encoded)), key=lambda place: len(encoded[place].ids))
        found = np.zeros(len(encoded))
        with self._lock:  # one question at a time has all cores
            if self._session is None:
                self._session = _session(self._graph)
            for start in range(0, len(order), _TOGETHER):
                places = order[start : start + _TOGETHER]
                found[places] = self._read([encoded[place] for place in places])
        if not np.isfinite(found).all():
            raise FatalError(f"expected finite scores from {self.name}, got some that are not")
        return [float(score) for score in found]

    def _read(self, pairs: Sequence[Any]) -> NDArray[np.float64]:
        """The scores of some pairs, filled up to the longest."""
        width = max(len(pair.ids) for pair in pairs)
        ids = np.zeros((len(pairs), width), np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, pair in enumerate(pairs):
            length = len(pair.ids)
            ids[row, :length], types[row, :length] = pair.ids, pair.type_ids
            mask[row, :length] = 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        wanted = {one.name: one.type for one in self._session.get_inputs()}
        unknown = wanted.keys() - feeds.keys()
        if unknown:
            raise ConfigError(
                f"expected a graph with the inputs {', '.join(feeds)}, got one that also wants "
                f"{', '.join(sorted(unknown))}: export the model as a sequence classifier"
            )
        given = {
            name: feeds[name].astype(np.int32 if "int32" in kind else np.int64)
            for name, kind in wanted.items()
        }
        return _shares(np.asarray(self._session.run(None, given)[0], np.float64), self.name)


def _shares(logits: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """One number for each pair: by the logistic function, or of two classes the second's share."""
    if logits.ndim == 2 and logits.shape[1] == 2:
        logits = logits[:, 1:] - logits[:, :1]
    if logits.ndim == 2 and logits.shape[1] == 1:
        shares: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logits[:, 0], -60, 60)))
        return shares
    raise ConfigError(
        f"expected one score (or two classes) for each pair from {name}, got an answer of shape "
        f"{logits.shape}: is it a reranker?"
    )


def _graph(folder: Path, named: str | None) -> Path:
    for name in (named,) if named else _GRAPHS:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(
        f"expected a graph in {str(folder)!r} at {named or ' or '.join(_GRAPHS)}, found none: "
        "export the model to ONNX, as sentence-transformers does with backend='onnx'"
    )


def _positions(folder: Path) -> int:
    """How many tokens the model can read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        positions = int(config.get("max_position_embeddings", 512))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"expected a model's config.json in {str(folder)!r}, got: {error}"
        ) from error
    # Models after RoBERTa count positions from 2.
    return positions - 2 if positions % 8 == 2 else positions


def _tokenizer(folder: Path, positions: int, most: int | None) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        found: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:
        raise ConfigError(
            f"expected a tokenizer in {str(folder / 'tokenizer.json')!r}, got: {error}"
        ) from error
    length = min(positions, most or positions)
    if length < _LEAST:
        raise ConfigError(f"expected max_tokens of at least {_LEAST}, got {length}")
    found.no_padding()
    # A long passage is cut, not the question.
    found.enable_truncation(length, strategy="only_second")
    return found


def _session(graph: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ConfigError(
            f"expected a graph that onnxruntime can run at {str(graph)!r}, got: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def _plain(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", " ")
