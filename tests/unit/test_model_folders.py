"""Models in folders: what their files say is what is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from penstock.errors import ConfigError
from penstock.models.adjusted import AdjustedEmbedder
from penstock.models.base import question_vectors
from penstock.models.folder import FolderEmbedder, pool
from penstock.models.minilm import MiniLMEmbedder
from penstock.models.minilm_weights import model_folder
from penstock.testing.model_folders import WIDTH, token_vectors, write_folder

TEXT = "The ferry to Lanra leaves at nine."


def tokens_of(text: str) -> Any:
    ids = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    ids.no_padding()
    ids.no_truncation()
    return token_vectors()[ids.encode(text).ids]


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


async def vector_of(folder: Path, text: str = TEXT, *, question: bool = False) -> Any:
    embedder = FolderEmbedder(folder, threads=1)
    try:
        if question:
            return (await question_vectors(embedder, [text]))[0]
        return (await embedder.embed([text]))[0]
    finally:
        await embedder.close()


async def test_weights_without_a_graph_give_the_published_vectors() -> None:
    """The folder of all-MiniLM-L6-v2 gives what our own graph of it gives in fp32."""
    folder, own = FolderEmbedder(model_folder(), threads=1), MiniLMEmbedder(precision="fp32")
    texts = [TEXT, "", "x " * 300, "Zimmer mit Meerblick kosten 140 €."]
    found, expected = await folder.embed(texts), await own.embed(texts)
    assert (found * expected).sum(axis=1).min() > 0.99999
    assert (folder.max_tokens, folder.dimensions) == (254, 384)
    assert folder.count_tokens(texts) == own.count_tokens(texts)
    await folder.close()
    await own.close()


POOLINGS: dict[str, tuple[dict[str, Any], Any]] = {
    "mean": ({"pooling_mode_mean_tokens": True}, lambda t: t.mean(axis=0)),
    "cls": ({"pooling_mode_cls_token": True}, lambda t: t[0]),
    "max": ({"pooling_mode_max_tokens": True}, lambda t: t.max(axis=0)),
    "last": ({"pooling_mode_lasttoken": True}, lambda t: t[-1]),
    "sqrt": (
        {"pooling_mode_mean_sqrt_len_tokens": True},
        lambda t: t.sum(axis=0) / np.sqrt(len(t)),
    ),
    "weighted": (
        {"pooling_mode_weightedmean_tokens": True},
        lambda t: np.arange(1, len(t) + 1) @ t / np.arange(1, len(t) + 1).sum(),
    ),
    "both": (
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        lambda t: np.concatenate([t[0], t.mean(axis=0)]),
    ),
    "by name": ({"pooling_mode": "cls"}, lambda t: t[0]),
}


@pytest.mark.parametrize("name", POOLINGS)
async def test_pooling_is_the_folders(tmp_path: Path, name: str) -> None:
    """Each way of making one vector of many, and two of them side by side."""
    settings, expected = POOLINGS[name]
    found = await vector_of(write_folder(tmp_path, pooling=settings))
    assert np.allclose(found, unit(expected(tokens_of(TEXT))), atol=1e-5)


async def test_prefixes_are_the_folders(tmp_path: Path) -> None:
    """Documents and questions are prefixed as the model was trained."""
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}}
    folder = write_folder(tmp_path, files={"config_sentence_transformers.json": prompts})
    found = await vector_of(folder)
    assert np.allclose(found, unit(tokens_of(f"passage: {TEXT}").mean(axis=0)), atol=1e-5)
    found = await vector_of(folder, question=True)
    assert np.allclose(found, unit(tokens_of(f"query: {TEXT}").mean(axis=0)), atol=1e-5)


async def test_a_prompt_that_is_not_pooled(tmp_path: Path) -> None:
    """Instructor models leave the prompt's tokens out of the mean."""
    prompts = {"prompts": {"document": "represent this: "}}
    pooling = {"pooling_mode_mean_tokens": True, "include_prompt": False}
    found = await vector_of(
        write_folder(
            tmp_path, pooling=pooling, files={"config_sentence_transformers.json": prompts}
        )
    )
    tokens = tokens_of(f"represent this: {TEXT}")
    assert np.allclose(found, unit(pool(tokens, "mean", 3)), atol=1e-5)
    assert not np.allclose(found, unit(tokens.mean(axis=0)), atol=1e-3)


async def test_a_graph_that_gives_the_whole_vector(tmp_path: Path) -> None:
    """Names of inputs and outputs are the graph's; the graph may lie beside the tokenizer."""
    folder = write_folder(
        tmp_path, graph="model.onnx", output="token_embeddings", inputs=("input_ids",)
    )
    assert np.allclose(await vector_of(folder), unit(tokens_of(TEXT).mean(axis=0)), atol=1e-5)


async def test_texts_are_cut_at_the_folders_length(tmp_path: Path) -> None:
    """Special tokens and the prefix count."""
    long = "nine " * 200
    folder = write_folder(tmp_path, files={"sentence_bert_config.json": {"max_seq_length": 16}})
    embedder = FolderEmbedder(folder, threads=1)
    assert embedder.max_tokens == 14
    await embedder.close()
    assert np.allclose(await vector_of(folder, long), await vector_of(folder, "nine " * 14))


async def test_other_weights_have_another_name(tmp_path: Path) -> None:
    """So their vectors are never mixed; the same folder has the same name."""
    folder = write_folder(tmp_path / "model")
    first, again = FolderEmbedder(folder), FolderEmbedder(folder)
    graph = folder / "onnx" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[-1000] ^= 1
    graph.write_bytes(content)
    other = FolderEmbedder(folder)
    prefixed = FolderEmbedder(folder, prefixes={"document": "passage: "})
    assert first.name == again.name != other.name != prefixed.name
    for embedder in (first, again, other, prefixed):
        await embedder.close()


async def test_matryoshka(tmp_path: Path) -> None:
    """The first numbers, at length 1, under a name of their own."""
    inner = FolderEmbedder(write_folder(tmp_path), threads=1)
    embedder = AdjustedEmbedder(inner, dimensions=8, storage="binary")
    whole, cut = await inner.embed([TEXT]), await embedder.embed([TEXT])
    assert np.allclose(cut[0], unit(whole[0][:8]), atol=1e-6)
    assert embedder.name == f"{inner.name}/8#binary"
    with pytest.raises(ConfigError, match=f"at most the {WIDTH}"):
        AdjustedEmbedder(inner, dimensions=WIDTH + 1)
    await embedder.close()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"graph": "other.onnx"}, None),
        ({"files": {"modules.json": [{"type": "models.CNN", "path": ""}]}}, "'CNN'"),
        ({"files": {"modules.json": [{"type": "Pooling", "path": "../../etc"}]}}, "inside"),
        ({"pooling": {"pooling_mode_other_tokens": True}}, "expected a pooling"),
        ({"files": {"config.json": {}}}, "hidden_size"),
    ],
)
def test_what_cannot_be_run_is_said(
    tmp_path: Path, change: dict[str, Any], sentence: str | None
) -> None:
    """Before anything starts, with the reason."""
    with pytest.raises(ConfigError, match=sentence or "expected a graph at"):
        FolderEmbedder(write_folder(tmp_path / "model", **change))


async def test_a_decoder_is_refused(tmp_path: Path) -> None:
    """A graph that wants what we cannot give says so when it is loaded."""
    folder = write_folder(tmp_path, inputs=("input_ids", "past_key_values.0.key"))
    embedder = FolderEmbedder(folder)
    with pytest.raises(ConfigError, match=r"past_key_values\.0\.key"):
        embedder.load()
    await embedder.close()
