"""A cross-encoder in a folder: a tiny graph whose score can be worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from penstock.errors import ConfigError
from penstock.models.cross_encoder import CrossEncoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "yes", "no", "maybe"]
YES = WORDS.index("yes")


def model(folder: Path, *, classes: int = 1) -> Path:
    """Its logit is how often the passage (not the question, not the filling) says yes, less one."""
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 32}))
    names = ("input_ids", "attention_mask", "token_type_ids")
    ints = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "w"]) for name in names]
    nodes = [
        helper.make_node("Equal", ["input_ids", "yes"], ["is_yes"]),
        helper.make_node("Cast", ["is_yes"], ["counts"], to=TensorProto.INT64),
        helper.make_node("Mul", ["counts", "token_type_ids"], ["of_passage"]),
        helper.make_node("Mul", ["of_passage", "attention_mask"], ["real"]),
        helper.make_node("Cast", ["real"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats", "axis"], ["sums"], keepdims=1),
        helper.make_node("Sub", ["sums", "one"], ["logit"]),
        helper.make_node("MatMul", ["logit", "spread"], ["logits"]),
    ]
    spread = np.array([[1.0]] if classes == 1 else [[0.0, 1.0, 5.0][:classes]], np.float32)
    fixed: dict[str, Any] = {
        "yes": np.array(YES, np.int64),
        "axis": np.array([1], np.int64),
        "one": np.array(1.0, np.float32),
        "spread": spread,
    }
    graph = helper.make_graph(
        nodes, "tiny", ints,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(value, name) for name, value in fixed.items()],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "model.onnx")
    return folder


def share(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


@pytest.mark.parametrize("classes", [1, 2])
async def test_each_text_has_its_own_score_in_the_order_given(tmp_path: Path, classes: int) -> None:
    """Whatever their lengths, which are filled up beside each other; twice as many as one batch."""
    encoder = CrossEncoder(model(tmp_path / "m", classes=classes))
    texts = ["no", "yes yes yes", "", "maybe yes no", *["no " * n + "yes" for n in range(12)]]
    found = await encoder.scores("yes yes", texts)
    wanted = [share(text.split().count("yes") - 1) for text in texts]
    assert found == pytest.approx(wanted, abs=1e-6)
    assert await encoder.scores("yes", []) == []
    await encoder.close()


async def test_a_long_passage_is_cut_and_not_the_question(tmp_path: Path) -> None:
    """32 tokens: 3 special ones, 4 of the question, 25 of the passage."""
    encoder = CrossEncoder(model(tmp_path / "m"))
    assert await encoder.scores("no no no no", ["yes " * 500]) == pytest.approx([share(24)])
    shorter = CrossEncoder(tmp_path / "m", max_tokens=16)
    assert await shorter.scores("no", ["yes " * 500]) == pytest.approx([share(11)])


async def test_what_is_no_such_model_is_told(tmp_path: Path) -> None:
    """Nothing there, no tokenizer, no graph, a graph that is none, one for something else."""
    with pytest.raises(ConfigError, match="expected a graph in"):
        CrossEncoder(tmp_path / "nothing")
    folder = model(tmp_path / "three", classes=3)
    with pytest.raises(ConfigError, match="is it a reranker"):
        await CrossEncoder(folder).scores("yes", ["no"])
    (folder / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="onnxruntime can run"):
        await CrossEncoder(folder).scores("yes", ["no"])
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="expected a tokenizer"):
        CrossEncoder(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"expected a model's config.json"):
        CrossEncoder(folder)
