"""Builds the graphs of all-MiniLM-L6-v2 that are shipped without weights.

    uv run python tools/build_minilm_graph.py

writes ``src/penstock/models/graphs/minilm-{fp32,int8}.onnx``, a few kilobytes each. They take one
text at a time (no padding, no mask): on a CPU a text of some tens of tokens fills the kernels, its
activations stay in the cache, and its vector cannot depend on what else was in the batch.

The weights are named but absent; `penstock.models.minilm_weights` hands them over when a session is
made. How the names relate to the published checkpoint is written there. With ``--ranges`` it also
measures how large activations get (``minilm-ranges.npy``), which the int8 weights are arranged by.
"""

from __future__ import annotations

import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from penstock.models.minilm import make_session
from penstock.models.minilm_weights import load_weights, model_folder
from penstock.models.wordpiece import WordPiece

GRAPHS = Path(__file__).parent.parent / "src" / "penstock" / "models" / "graphs"
LAYERS, HEADS, WIDTH, INNER = 6, 12, 384, 1536
VOCABULARY, POSITIONS = 30522, 512
EPSILON = 1e-12
MICROSOFT = "com.microsoft"


class Graph:
    """Collects nodes and the weights that they expect."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def weight(self, name: str, kind: int, *shape: int) -> str:
        tensor = TensorProto(name=name, data_type=kind, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights")
        self.weights.append(tensor)
        return name

    def constant(self, name: str, kind: int, shape: list[int], values: list[float]) -> str:
        self.weights.append(helper.make_tensor(name, kind, shape, values))
        return name

    def node(self, op: str, inputs: list[str], *outputs: str, domain: str = "", **kw: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, list(outputs), domain=domain, **kw))
        return outputs[0]

    def norm(self, x: str, name: str, out: str) -> str:
        gamma = self.weight(f"{name}.gamma", TensorProto.FLOAT, WIDTH)
        beta = self.weight(f"{name}.beta", TensorProto.FLOAT, WIDTH)
        return self.node("LayerNormalization", [x, gamma, beta], out, axis=-1, epsilon=EPSILON)


def linear(graph: Graph, x: str, name: str, rows: int, columns: int, *, int8: bool) -> str:
    """``x @ weight + bias``."""
    out = f"{name}.out"
    bias = graph.weight(f"{name}.bias", TensorProto.FLOAT, columns)
    if not int8:
        weight = graph.weight(f"{name}.weight", TensorProto.FLOAT, rows, columns)
        product = graph.node("MatMul", [x, weight], f"{name}.product")
        return graph.node("Add", [product, bias], out)
    weight = graph.weight(f"{name}.weight", TensorProto.INT8, rows, columns)
    scale = graph.weight(f"{name}.scale", TensorProto.FLOAT, columns)
    inputs = [x, weight, scale, "", bias]
    return graph.node("DynamicQuantizeMatMul", inputs, out, domain=MICROSOFT)


def attention(graph: Graph, x: str, name: str, *, int8: bool) -> str:
    """Twelve heads over queries, keys and values from one product."""
    out = f"{name}.attended"
    if not int8:
        joined = linear(graph, x, f"{name}.qkv", WIDTH, 3 * WIDTH, int8=False)
        parts = [f"{name}.q", f"{name}.k", f"{name}.v"]
        graph.node("Split", [joined], *parts, axis=-1, num_outputs=3)
        return graph.node("MultiHeadAttention", parts, out, domain=MICROSOFT, num_heads=HEADS)
    weight = graph.weight(f"{name}.qkv.weight", TensorProto.INT8, WIDTH, 3 * WIDTH)
    bias = graph.weight(f"{name}.qkv.bias", TensorProto.FLOAT, 3 * WIDTH)
    scale = graph.weight(f"{name}.qkv.scale", TensorProto.FLOAT, 3 * WIDTH)
    quantised = [f"{name}.x", f"{name}.x_scale", f"{name}.x_zero"]
    graph.node("DynamicQuantizeLinear", [x], *quantised)
    inputs = [quantised[0], weight, bias, quantised[1], scale, "", quantised[2]]
    return graph.node("QAttention", inputs, out, domain=MICROSOFT, num_heads=HEADS)


def residual(graph: Graph, x: str, name: str, *, int8: bool) -> str:
    """What is added back: in int8 the norm's output is smoothed, and made rough again here."""
    if not int8:
        return x
    rough = graph.weight(f"{name}.rough", TensorProto.FLOAT, WIDTH)
    return graph.node("Mul", [x, rough], f"{name}.residual")


def layer(graph: Graph, x: str, number: int, *, int8: bool) -> str:
    """One transformer layer."""
    name = f"layer{number}"
    attended = attention(graph, x, name, int8=int8)
    y = linear(graph, attended, f"{name}.project", WIDTH, WIDTH, int8=int8)
    y = graph.node("Add", [y, residual(graph, x, f"{name}.input", int8=int8)], f"{name}.sum1")
    x = graph.norm(y, f"{name}.norm1", f"{name}.middle")
    y = linear(graph, x, f"{name}.expand", WIDTH, INNER, int8=int8)
    y = graph.node("FastGelu", [y], f"{name}.gelu", domain=MICROSOFT)
    if int8:
        smooth = graph.weight(f"{name}.inner.smooth", TensorProto.FLOAT, INNER)
        y = graph.node("Mul", [y, smooth], f"{name}.inner")
    y = linear(graph, y, f"{name}.contract", INNER, WIDTH, int8=int8)
    y = graph.node("Add", [y, residual(graph, x, f"{name}.middle", int8=int8)], f"{name}.sum2")
    return graph.norm(y, f"{name}.norm2", f"{name}.end")


def embed(graph: Graph, *, int8: bool) -> str:
    """Words plus positions; the table of words is half precision where the rest is int8."""
    kind = TensorProto.FLOAT16 if int8 else TensorProto.FLOAT
    words = graph.node("Gather", [graph.weight("words", kind, VOCABULARY, WIDTH), "tokens"], "word")
    if int8:
        words = graph.node("Cast", [words], "word32", to=TensorProto.FLOAT)
    zero = graph.constant("zero", TensorProto.INT64, [1], [0])
    length = graph.node("Shape", ["tokens"], "length", start=1, end=2)
    table = graph.weight("positions", TensorProto.FLOAT, POSITIONS, WIDTH)
    positions = graph.node("Slice", [table, zero, length], "position")
    return graph.norm(graph.node("Add", [words, positions], "embedded"), "norm0", "layer0.start")


def build(*, int8: bool) -> ModelProto:
    """The whole graph: tokens of one text to its vector of length 1, and to those of the tokens."""
    graph = Graph()
    x = embed(graph, int8=int8)
    for number in range(LAYERS):
        x = layer(graph, x, number, int8=int8)
    axis = graph.constant("axis", TensorProto.INT64, [1], [1])
    mean = graph.node("ReduceMean", [x, axis], "mean", keepdims=0)
    length = graph.node("ReduceL2", [mean, axis], "norm", keepdims=1)
    graph.node("Div", [mean, length], "vector")
    inputs = [helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, "tokens"])]
    last = f"layer{LAYERS - 1}.end"  # one row per token
    outputs = [
        helper.make_tensor_value_info("vector", TensorProto.FLOAT, [1, WIDTH]),
        helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, "tokens", WIDTH]),
    ]
    made = helper.make_graph(graph.nodes, "minilm", inputs, outputs, graph.weights)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(made, opset_imports=opsets, producer_name="penstock")
    model.ir_version = 9
    return model


def ranges(texts: list[str]) -> NDArray[np.float16]:
    """The largest magnitude of each channel that enters a matrix, over some texts."""
    model = build(int8=False)
    inputs = [("end", "attended", "middle", "gelu") for _ in range(LAYERS)]
    names = [
        "layer0.start"
        if (number, part) == (0, "end")
        else f"layer{number - (part == 'end')}.{part}"
        for number, parts in enumerate(inputs)
        for part in parts
    ]
    for name in names:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    folder = model_folder()
    session = make_session(
        model.SerializeToString(), load_weights(folder / "model.safetensors", "fp32")
    )
    words = WordPiece(folder / "tokenizer.json", max_tokens=254)
    largest: dict[str, NDArray[np.float32]] = {}
    for text in texts:
        for name, found in zip(
            names, session.run(names, {"tokens": words.encode(text)}), strict=True
        ):
            high = np.abs(found[0]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, high), high)
    return np.concatenate([largest[name] for name in names]).astype(np.float16)


def paragraphs() -> list[str]:
    """Some English prose that every Python brings along: its help topics."""
    found = [
        " ".join(paragraph.split())
        for _, text in sorted(topics.items())
        for paragraph in text.split("\n\n")
    ]
    fitting = [paragraph for paragraph in found if 120 < len(paragraph) < 900]
    return fitting[:: max(1, len(fitting) // 150)]


def main() -> None:
    """Write the files."""
    GRAPHS.mkdir(exist_ok=True)
    for precision in ("fp32", "int8"):
        model = build(int8=precision == "int8")
        path = GRAPHS / f"minilm-{precision}.onnx"
        path.write_bytes(model.SerializeToString())
        print(f"{path.name}: {path.stat().st_size} bytes, {len(model.graph.node)} nodes")
    if "--ranges" in sys.argv:  # they depend a little on the Python whose help is read
        np.save(GRAPHS / "minilm-ranges.npy", ranges(paragraphs()))


if __name__ == "__main__":
    main()
