"""BERT, RoBERTa and XLM-RoBERTa in numpy, for folders that hold weights and no graph.

One text at a time, in fp32: slower than a graph, and exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.models.safetensors import Tensors

Floats = NDArray[np.float32]

_FAMILIES: Final = ("bert", "roberta", "xlm-roberta", "camembert")


class Bert:
    """Token vectors of one text: ``model(ids, types)`` has shape (tokens, width)."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        family = config.get("model_type")
        if family not in _FAMILIES:
            raise ConfigError(
                f"expected an ONNX graph, or weights of {', '.join(_FAMILIES)} in "
                f"{str(path.parent)!r}, got {family!r}: export the model with backend='onnx' of "
                "sentence-transformers"
            )
        if config.get("hidden_act", "gelu") != "gelu":
            raise ConfigError(f"expected the activation gelu, got {config['hidden_act']!r}")
        tensors = Tensors(path)
        self._heads = int(config["num_attention_heads"])
        self._layers = int(config["num_hidden_layers"])
        self._epsilon = float(config.get("layer_norm_eps", 1e-12))
        # RoBERTa's positions begin behind that of the padding.
        self._first = 0 if family == "bert" else int(config.get("pad_token_id", 1)) + 1
        prefix = next((p for p in ("", "bert.", "roberta.") if _has(tensors, p)), None)
        if prefix is None:
            raise ConfigError(f"expected the weights of a {family} in {str(path)!r}, got others")
        self._of = {name: np.asarray(tensors[prefix + name], np.float32) for name in self._names()}

    def __call__(self, ids: NDArray[np.int64], types: NDArray[np.int64]) -> Floats:
        of = self._of
        places = np.arange(len(ids)) + self._first
        x = of["embeddings.word_embeddings.weight"][ids]
        x = x + of["embeddings.position_embeddings.weight"][places]
        x = x + of["embeddings.token_type_embeddings.weight"][types]
        x = self._norm(x, "embeddings.LayerNorm")
        for number in range(self._layers):
            layer = f"encoder.layer.{number}"
            around = self._linear(self._attend(x, layer), f"{layer}.attention.output.dense")
            x = self._norm(x + around, f"{layer}.attention.output.LayerNorm")
            inner = _gelu(self._linear(x, f"{layer}.intermediate.dense"))
            x = x + self._linear(inner, f"{layer}.output.dense")
            x = self._norm(x, f"{layer}.output.LayerNorm")
        return x

    def _attend(self, x: Floats, layer: str) -> Floats:
        count, width = x.shape
        shape = (count, self._heads, width // self._heads)
        query, key, value = (
            self._linear(x, f"{layer}.attention.self.{name}").reshape(shape).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(np.float32(shape[2]))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        attended: Floats = (scores @ value).transpose(1, 0, 2).reshape(count, width)
        return attended

    def _linear(self, x: Floats, name: str) -> Floats:
        result: Floats = x @ self._of[f"{name}.weight"].T + self._of[f"{name}.bias"]
        return result

    def _norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(self._epsilon))
        result: Floats = centred / spread * self._of[f"{name}.weight"] + self._of[f"{name}.bias"]
        return result

    def _names(self) -> list[str]:
        of = "embeddings"
        names = [f"{of}.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")]
        parts = ["attention.self.query", "attention.self.key", "attention.self.value"]
        parts += ["attention.output.dense", "attention.output.LayerNorm"]
        parts += ["intermediate.dense", "output.dense", "output.LayerNorm"]
        modules = [f"{of}.LayerNorm"]
        modules += [f"encoder.layer.{n}.{part}" for n in range(self._layers) for part in parts]
        return names + [f"{module}.{what}" for module in modules for what in ("weight", "bias")]


def _has(tensors: Tensors, prefix: str) -> bool:
    return f"{prefix}embeddings.word_embeddings.weight" in tensors


def _gelu(x: Floats) -> Floats:
    """The exact one: the error function to 1.5e-7 (Abramowitz and Stegun 7.1.26)."""
    z = np.abs(x) * np.float32(0.7071067811865476)
    t = 1.0 / (1.0 + 0.3275911 * z)
    series = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    erf = np.sign(x) * (1.0 - series * np.exp(-z * z))
    result: Floats = (0.5 * x * (1.0 + erf)).astype(np.float32)
    return result
