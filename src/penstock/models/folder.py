"""A model in a folder on this machine, through onnxruntime: one text at a time on every core."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, FatalError
from penstock.models.base import Priority, Role, Vectors
from penstock.models.bert import Bert
from penstock.models.folder_files import ModelFiles, Pooling, read_model_files
from penstock.models.lanes import Lanes, cores
from penstock.models.remote import marked

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_FED: Final = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids"})
_READ_CHARACTERS: Final = 64
"""For each token that the model reads, so many characters of a text are looked at."""
_SEPARATOR: Final = "\0"

Floats = NDArray[np.float32]


class FolderEmbedder:
    """Vectors of a sentence-transformers model: tokenizer, length, pooling, matrices and prefixes
    as the folder says, unless they are given here. Vectors always have length 1.

    The model is loaded on first use, or by `load`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        graph: str | None = None,
        max_tokens: int | None = None,
        prefixes: Mapping[Role, str] | None = None,
        threads: int | None = None,
    ) -> None:
        self._files = files = read_model_files(folder, graph)
        self._prefixes = {**files.prompts, **(prefixes or {})}
        # Without a graph numpy does the work, with threads of its own.
        self._wanted_threads = (threads or cores()) if files.graph is not None else 1
        self._tokenizer, self._counter = _tokenizers(files)
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        longest = max((self._tokens_of(p) for p in self._prefixes.values()), default=0)
        self.max_tokens = files.positions - special - longest
        if max_tokens is not None:
            self.max_tokens = min(max_tokens, self.max_tokens)
        self._tokenizer.enable_truncation(self.max_tokens + special + longest)
        self.dimensions = _dimensions(files)
        self.name = f"folder/{folder.resolve().name}/{files.fingerprint}{marked(self._prefixes)}"
        self._loading = threading.Lock()
        self._run: Any = None
        self._lanes: Lanes[Vectors] | None = None
        self._closed = False

    def load(self) -> None:
        """Make the model ready; blocks. Safe to call from any thread."""
        with self._loading:
            if self._closed:
                raise FatalError("expected an open embedder, got one that was closed")
            if self._lanes is None:
                self._run = _Graph(self._files) if self._files.graph else _Plain(self._files)
                self._lanes = Lanes(self._vector, threads=self._wanted_threads)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        whole = [_storable(text) for text in texts]
        encoded = self._counter.encode_batch_fast(whole, add_special_tokens=False)
        return [len(one.ids) for one in encoded]

    async def embed(self, texts: Sequence[str], *, priority: Priority = "live") -> Vectors:
        return await self._embed(texts, "document", priority)

    async def embed_questions(
        self, texts: Sequence[str], *, priority: Priority = "query"
    ) -> Vectors:
        return await self._embed(texts, "question", priority)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    async def _embed(self, texts: Sequence[str], role: Role, priority: Priority) -> Vectors:
        if not len(texts):
            return np.empty((0, self.dimensions), np.float32)
        if self._lanes is None or self._closed:
            await asyncio.to_thread(self.load)
        assert self._lanes is not None
        prefix = self._prefixes.get(role, "")
        return np.concatenate(
            await self._lanes.map([f"{prefix}{_SEPARATOR}{text}" for text in texts], priority)
        )

    def _tokens_of(self, prefix: str) -> int:
        return len(self._counter.encode(prefix, add_special_tokens=False).ids)

    def _close(self) -> None:
        with self._loading:
            self._closed = True
            lanes, self._lanes, self._run = self._lanes, None, None
        if lanes is not None:
            lanes.close()

    def _vector(self, prefixed: str) -> Vectors:
        """One text, in a thread of a lane."""
        prefix, _, text = prefixed.partition(_SEPARATOR)
        text = _storable(text[: self.max_tokens * _READ_CHARACTERS])
        if self._files.lower_case:
            text = text.lower()
        encoded = self._tokenizer.encode(prefix + text)
        ids = np.array(encoded.ids or [0], np.int64)
        types = np.array(encoded.type_ids or [0], np.int64)
        found: Floats = self._run(ids, types)
        if found.ndim == 2:
            skipped = 0
            if prefix and not self._files.include_prompt:
                skipped = self._tokens_of(prefix)
            found = np.concatenate([pool(found, how, skipped) for how in self._files.poolings])
            for dense in self._files.dense:
                found = dense(found)
        length = float(np.linalg.norm(found))
        if not np.isfinite(length) or length == 0:
            raise FatalError(f"expected a vector of finite length from {self.name}, got none")
        return (found / length).astype(np.float32).reshape(1, -1)


class _Graph:
    """Token vectors, or the whole text's vector, from a graph."""

    def __init__(self, files: ModelFiles) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # every length has its own: they would be kept for ever
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(files.graph), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ConfigError(
                f"expected a graph that onnxruntime can run at {str(files.graph)!r}, got: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        self._inputs = {wanted.name: wanted.type for wanted in self._session.get_inputs()}
        unknown = self._inputs.keys() - _FED
        if unknown:
            raise ConfigError(
                f"expected a graph with the inputs {', '.join(sorted(_FED))}, got one that also "
                f"wants {', '.join(sorted(unknown))}: export the model as an encoder"
            )
        names = [output.name for output in self._session.get_outputs()]
        preferred = ("last_hidden_state", "token_embeddings", "sentence_embedding")
        self._output = next((name for name in preferred if name in names), names[0])

    def __call__(self, ids: NDArray[np.int64], types: NDArray[np.int64]) -> Floats:
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": types,
            "position_ids": np.arange(len(ids)),
        }
        given = {
            name: feeds[name].astype(np.int32 if "int32" in kind else np.int64)[None]
            for name, kind in self._inputs.items()
        }
        found: Floats = np.asarray(self._session.run([self._output], given)[0], np.float32)[0]
        return found


class _Plain:
    """Token vectors from weights alone."""

    def __init__(self, files: ModelFiles) -> None:
        self._model = Bert(files.weights, files.config)

    def __call__(self, ids: NDArray[np.int64], types: NDArray[np.int64]) -> Floats:
        return self._model(ids, types)


def pool(tokens: Floats, how: Pooling, skipped: int = 0) -> Floats:
    """One vector from those of a text's tokens; ``skipped`` of a prompt behind the first token do
    not count. There is no padding: every token is the text's."""
    if skipped and len(tokens) > skipped + 1:
        tokens = np.concatenate([tokens[:1], tokens[1 + skipped :]])
    if how == "cls":
        found = tokens[0]
    elif how == "lasttoken":
        found = tokens[-1]
    elif how == "max":
        found = tokens.max(axis=0)
    elif how == "weightedmean":
        weights = np.arange(1, len(tokens) + 1, dtype=np.float32)
        found = weights @ tokens / weights.sum()
    elif how == "mean_sqrt_len_tokens":
        found = tokens.sum(axis=0) / np.sqrt(np.float32(len(tokens)))
    else:
        found = tokens.mean(axis=0)
    result: Floats = found.astype(np.float32)
    return result


def _tokenizers(files: ModelFiles) -> tuple[Tokenizer, Tokenizer]:
    """One that cuts, and one that counts."""
    # Texts are spread over our own threads; the library's would fight with them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer

    found = []
    for _ in range(2):
        try:
            tokenizer = Tokenizer.from_file(str(files.folder / "tokenizer.json"))
        except Exception as error:
            raise ConfigError(
                f"expected a tokenizer in {str(files.folder / 'tokenizer.json')!r}, got: {error}"
            ) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        found.append(tokenizer)
    return found[0], found[1]


def _dimensions(files: ModelFiles) -> int:
    if files.dense:
        return int(files.dense[-1].weight.shape[0])
    width = files.config.get("hidden_size", files.config.get("dim"))
    if not isinstance(width, int):
        raise ConfigError(
            f"expected hidden_size in {str(files.folder / 'config.json')!r}, found none"
        )
    return width * len(files.poolings)


def _storable(text: str) -> str:
    """Pairs of surrogates become their character, lone halves the replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", " ")
