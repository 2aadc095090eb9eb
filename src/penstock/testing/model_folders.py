"""A small model in a folder, as sentence-transformers writes one: for tests of what reads them.

Needs the package ``onnx``. Its token vectors are random but fixed, so that every pooling can be
worked out by hand.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.models.minilm_weights import model_folder

WIDTH = 32
_VOCABULARY = 30522


def token_vectors() -> NDArray[np.float32]:
    """The vector of each token."""
    return np.random.default_rng(7).standard_normal((_VOCABULARY, WIDTH)).astype(np.float32)


def write_folder(
    folder: Path,
    *,
    pooling: Mapping[str, Any] | None = None,
    files: Mapping[str, Any] | None = None,
    graph: str = "onnx/model.onnx",
    output: str = "last_hidden_state",
    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids"),
) -> Path:
    """A model with MiniLM's tokenizer whose token vectors are looked up in a table. ``files`` are
    written as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(model_folder() / "tokenizer.json", folder / "tokenizer.json")
    kinds = ("Transformer", "Pooling", "Normalize")
    written: dict[str, Any] = {
        "config.json": {"hidden_size": WIDTH, "model_type": "table"},
        "sentence_bert_config.json": {"max_seq_length": 64, "do_lower_case": False},
        "modules.json": [
            {
                "type": f"sentence_transformers.models.{kind}",
                "path": f"{place}_{kind}" if place else "",
            }
            for place, kind in enumerate(kinds)
        ],
        "1_Pooling/config.json": pooling or {"pooling_mode_mean_tokens": True},
        **(files or {}),
    }
    for name, content in written.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    _write_graph(folder / graph, output, inputs)
    return folder


def _write_graph(path: Path, output: str, inputs: tuple[str, ...]) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape: list[str | int | None] = [1, "tokens"]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Gather", ["table", "input_ids"], [output], axis=0)],
            "table",
            [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in inputs],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [*shape, WIDTH])],
            [numpy_helper.from_array(token_vectors(), "table")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    model.ir_version = 9
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
