"""sentence-transformers and OpenVINO on the same weights, for bench/embed.py, which starts this
with the interpreter of an environment that has torch, sentence-transformers, openvino and nncf.

    python bench/peer_embedders.py MODEL_FOLDER TEXTS.json

Prints the names of what could be made as a JSON list, and why the others could not; then reads
lines: a name, and for each prints the seconds and the processor seconds that the texts took; or a
name, a blank and a path, where their vectors are stored.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Embed = Callable[[list[str]], Any]
THREADS = len(os.sched_getaffinity(0))
CALIBRATED_ON = 200


def sentence_transformers(folder: str) -> tuple[Any, Embed]:
    """As their users call it; batches of 32 are its default."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(THREADS)
    model = SentenceTransformer(folder, device="cpu")

    def embed(texts: list[str]) -> Any:
        return model.encode(texts, normalize_embeddings=True, show_progress_bar=False)

    return model, embed


def batches(tokenizer: Any, texts: list[str], size: int = 16) -> Any:
    """By length, padded to the longest of each."""
    encoded = tokenizer(texts, truncation=True, max_length=256)["input_ids"]
    order = sorted(range(len(texts)), key=lambda number: len(encoded[number]))
    for start in range(0, len(order), size):
        taken = order[start : start + size]
        tokens = np.zeros((len(taken), len(encoded[taken[-1]])), np.int64)
        mask = np.zeros_like(tokens)
        for row, number in enumerate(taken):
            tokens[row, : len(encoded[number])] = encoded[number]
            mask[row, : len(encoded[number])] = 1
        yield taken, {
            "input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)
        }  # fmt: skip


def openvino(model: Any, texts: list[str]) -> dict[str, Embed]:
    """The same model through OpenVINO in each precision."""
    import nncf
    import openvino as ov

    bert, tokenizer = model[0].auto_model, model.tokenizer
    example = tokenizer(["an example"], return_tensors="pt")
    converted = ov.convert_model(bert, example_input=dict(example))
    calibration = [inputs for _, inputs in batches(tokenizer, texts[:CALIBRATED_ON], 1)]
    rounded = nncf.quantize(
        converted, nncf.Dataset(calibration), model_type=nncf.ModelType.TRANSFORMER
    )
    core = ov.Core()
    made: dict[str, Embed] = {}
    kinds = {"fp32": (converted, "f32"), "bf16": (converted, "bf16"), "int8": (rounded, "f32")}
    for name, (graph, hint) in kinds.items():
        options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": THREADS}
        compiled = core.compile_model(graph, "CPU", options)

        def embed(texts: list[str], compiled: Any = compiled) -> Any:
            vectors = np.zeros((len(texts), 384), np.float32)
            for taken, inputs in batches(tokenizer, texts):
                hidden, mask = compiled(inputs)[0], inputs["attention_mask"][..., None]
                mean = (hidden * mask).sum(axis=1) / mask.sum(axis=1)
                vectors[taken] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
            return vectors

        made[f"OpenVINO {name}"] = embed
    return made


def main() -> None:
    """Make what can be made, then measure what is asked for."""
    folder, path = sys.argv[1:3]
    texts: list[str] = json.loads(Path(path).read_text(encoding="utf-8"))
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like
    model, plain = sentence_transformers(folder)
    engines: dict[str, Embed] = {"sentence-transformers fp32": plain}
    why = ""
    try:
        engines |= openvino(model, texts)
    except Exception as error:  # noqa: BLE001  # an experiment: what it says is all we want
        why = f"{type(error).__name__}: {error}"[:300]
    for embed in engines.values():
        embed(texts[:32])
    print(json.dumps({"engines": list(engines), "missing": why}), file=answers, flush=True)
    for line in sys.stdin:
        name, _, target = line.strip().partition("\t")
        wall, cpu = time.perf_counter(), time.process_time()
        vectors = engines[name](texts)
        taken = [time.perf_counter() - wall, time.process_time() - cpu]
        if target:
            np.save(target, np.asarray(vectors, np.float32))
        print(json.dumps(taken), file=answers, flush=True)


if __name__ == "__main__":
    main()
