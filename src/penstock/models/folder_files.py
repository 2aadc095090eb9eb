"""What a folder of a sentence-transformers model says of it. Reads files, runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import orjson
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.models.base import Role
from penstock.models.safetensors import Tensors

Pooling: TypeAlias = Literal[
    "cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"
]
_POOLINGS: Final = get_args(Pooling)
_GRAPHS: Final = ("onnx/model.onnx", "model.onnx")
_HASHED: Final = 1 << 20
_DEFAULT_TOKENS: Final = 512
_NO_LIMIT: Final = 1_000_000
"""Tokenizers write an absurd number for "no limit"."""
_PROMPTS: Final[Mapping[Role, tuple[str, ...]]] = {
    "document": ("document", "passage", "corpus"),
    "question": ("query", "question"),
}


@dataclass(frozen=True)
class Dense:
    """A matrix behind the pooling, with what is applied to its result."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    tanh: bool

    def __call__(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = self.weight @ vector
        if self.bias is not None:
            result = result + self.bias
        return np.tanh(result) if self.tanh else result


@dataclass(frozen=True)
class ModelFiles:
    """Everything that is needed to run a model, and a name that tells it from others."""

    folder: Path
    graph: Path | None
    config: Mapping[str, Any]
    poolings: tuple[Pooling, ...]
    dense: tuple[Dense, ...]
    positions: int
    lower_case: bool
    include_prompt: bool
    prompts: Mapping[Role, str]
    fingerprint: str

    @property
    def weights(self) -> Path:
        """Where the weights are if there is no graph that holds them."""
        return self.folder / "model.safetensors"


def read_model_files(folder: Path, graph: str | None = None) -> ModelFiles:
    """Read a folder. Raises `ConfigError` for what is missing or cannot be run."""
    if not folder.is_dir():
        raise ConfigError(f"expected the folder of a model at {str(folder)!r}, found none")
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(
            f"expected tokenizer.json in {str(folder)!r}, found none: save the model with a fast "
            "tokenizer"
        )
    found = _graph(folder, graph)
    poolings, dense, include_prompt = _modules(folder)
    sentence = _json(folder / "sentence_bert_config.json")
    config = _json(folder / "config.json")
    return ModelFiles(
        folder=folder,
        graph=found,
        config=config,
        poolings=poolings,
        dense=dense,
        positions=_positions(folder, sentence, config),
        lower_case=bool(sentence.get("do_lower_case")),
        include_prompt=include_prompt,
        prompts=_prompts(_json(folder / "config_sentence_transformers.json")),
        fingerprint=_fingerprint(folder, found),
    )


def _graph(folder: Path, named: str | None) -> Path | None:
    places = (named,) if named is not None else _GRAPHS
    for place in places:
        path = (folder / place).resolve()
        if path.is_relative_to(folder.resolve()) and path.is_file():
            return path
    if named is None and (folder / "model.safetensors").is_file():
        return None
    raise ConfigError(
        f"expected a graph at {' or '.join(places)} in {str(folder)!r}, or model.safetensors, "
        "found none: export the model with backend='onnx' of sentence-transformers"
    )


def _modules(folder: Path) -> tuple[tuple[Pooling, ...], tuple[Dense, ...], bool]:
    """Pooling and matrices, in the order in which they are applied."""
    listed = _json(folder / "modules.json", [])
    poolings: tuple[Pooling, ...] = ()
    dense: list[Dense] = []
    include_prompt = True
    if not listed and (folder / "1_Pooling").is_dir():
        listed = [{"type": "Pooling", "path": "1_Pooling"}]
    for module in listed:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        place = folder / str(module.get("path", ""))
        if not place.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"expected modules inside {str(folder)!r}, got {str(place)!r}")
        if kind == "Pooling":
            settings = _json(place / "config.json")
            poolings = _poolings(settings)
            include_prompt = bool(settings.get("include_prompt", True))
        elif kind == "Dense":
            dense.append(_dense(place))
        elif kind not in ("Transformer", "Normalize"):
            raise ConfigError(
                f"expected the modules Transformer, Pooling, Dense and Normalize in "
                f"{str(folder)!r}, got {kind!r}, which is not supported"
            )
    return poolings or ("mean",), tuple(dense), include_prompt


def _poolings(settings: Mapping[str, Any]) -> tuple[Pooling, ...]:
    named = settings.get("pooling_mode")
    if isinstance(named, str):
        named = [named]
    chosen = named or [
        name
        for name in _POOLINGS
        if settings.get(f"pooling_mode_{name}_tokens")
        or settings.get(f"pooling_mode_{name}_token")
        or settings.get(f"pooling_mode_{name}")
    ]
    unknown = [name for name in chosen if name not in _POOLINGS]
    if unknown or not chosen:
        raise ConfigError(f"expected a pooling of {', '.join(_POOLINGS)}, got {settings!r}")
    return tuple(chosen)


def _dense(place: Path) -> Dense:
    settings = _json(place / "config.json")
    activation = str(settings.get("activation_function", "torch.nn.modules.linear.Identity"))
    name = activation.rsplit(".", 1)[-1]
    if name not in ("Identity", "Tanh"):
        raise ConfigError(f"expected the activation Identity or Tanh in {str(place)!r}, got {name}")
    tensors = Tensors(place / "model.safetensors")
    bias = tensors["linear.bias"] if settings.get("bias", True) else None
    return Dense(
        np.asarray(tensors["linear.weight"], np.float32),
        None if bias is None else np.asarray(bias, np.float32),
        name == "Tanh",
    )


def _positions(folder: Path, sentence: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """How many tokens are read, special ones included."""
    tokenizer = _json(folder / "tokenizer_config.json")
    for value in (
        sentence.get("max_seq_length"),
        tokenizer.get("model_max_length"),
        config.get("max_position_embeddings"),
    ):
        if isinstance(value, int | float) and 0 < value < _NO_LIMIT:
            return int(value)
    return _DEFAULT_TOKENS


def _prompts(settings: Mapping[str, Any]) -> dict[Role, str]:
    named = settings.get("prompts")
    if not isinstance(named, dict):
        return {}
    default = named.get(settings.get("default_prompt_name") or "", "")
    return {
        role: str(next((named[name] for name in names if name in named), default))
        for role, names in _PROMPTS.items()
    }


def _fingerprint(folder: Path, graph: Path | None) -> str:
    """Tells models apart: of large files the size, the beginning and the end."""
    digest = blake2b(digest_size=6)
    weights = [graph] if graph is not None else [folder / "model.safetensors"]
    if graph is not None:
        weights += sorted(graph.parent.glob(f"{graph.name}[._]*data*"))
    small = ("tokenizer.json", "modules.json", "sentence_bert_config.json")
    for path in [*weights, *(folder / n for n in small), *sorted(folder.glob("*/config.json"))]:
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name}:{size}:".encode())
            with path.open("rb") as file:
                digest.update(file.read(_HASHED))
                file.seek(max(0, size - _HASHED))
                digest.update(file.read(_HASHED))
    return digest.hexdigest()


def _json(path: Path, default: Any = None) -> Any:
    """The contents of a file, or nothing of the same kind where there is none."""
    try:
        found = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {} if default is None else default
    except (OSError, orjson.JSONDecodeError) as error:
        raise ConfigError(f"expected JSON in {str(path)!r}, got: {error}") from error
    if not isinstance(found, dict if default is None else type(default)):
        raise ConfigError(f"expected an object in {str(path)!r}, got {type(found).__name__}")
    return found
