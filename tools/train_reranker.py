"""Makes the head of the reranker: what turns MiniLM's tokens into the vectors that are stored.

    uv run python tools/train_reranker.py [FOLDER ...]

writes ``src/penstock/models/graphs/late-interaction.npz``. The head is the directions in which
tokens differ most, evened out a little. It needs no labels: only the texts of folders in the BEIR
layout (``corpus.jsonl``) or, without any, the English prose that every Python brings along (its
help topics). The one that is shipped was made from ``squadshifts-new_wiki``, which no figure is
reported for, so what is reported is about texts that it has not seen.

Training the head on questions (contrastively, with hard negatives, split by document) was tried and
brought nothing on sets that it had not seen: docs/adr/0012-late-interaction.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from build_minilm_graph import paragraphs
from numpy.typing import NDArray

from penstock.evaluate.dataset import read_dataset
from penstock.models.late_interaction import HEAD, save_head, unit
from penstock.models.minilm import best_levels, make_session
from penstock.models.minilm_weights import graph, load_weights, model_folder
from penstock.models.wordpiece import WordPiece
from penstock.stores.postgres.lexical import analyse

DIMENSIONS = 96
EVENED = 0.25
"""Directions are divided by their standard deviation to this power (1 would make all alike)."""
MOST_TEXTS = 600


def main() -> None:
    """Write the head."""
    folder = model_folder()
    words = WordPiece(folder / "tokenizer.json", max_tokens=254)
    weights = load_weights(folder / "model.safetensors", "int8", levels=best_levels())
    session = make_session(graph("int8"), weights)
    texts = corpus([Path(name) for name in sys.argv[1:]]) or paragraphs()
    tokens = np.concatenate(
        [session.run(["layer5.end"], {"tokens": words.encode(text)})[0][0] for text in texts]
    )
    middle, matrix = directions(tokens)
    save_head(HEAD, f"pca{DIMENSIONS}-4bit-1", middle, matrix, kept(words))
    print(f"{HEAD.name}: {HEAD.stat().st_size} bytes from {len(tokens)} tokens")


def corpus(folders: list[Path]) -> list[str]:
    """Texts of some corpora, evenly chosen."""
    found = [d.text for folder in folders for d in read_dataset(folder, queries=1).documents]
    return found[:: max(1, len(found) // MOST_TEXTS)]


def directions(
    hidden: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean of tokens, and the directions in which they differ most, as columns."""
    tokens = unit(hidden)
    middle = tokens.mean(axis=0)
    _, spread, axes = np.linalg.svd(tokens - middle, full_matrices=False)
    evened = (spread[0] / spread[:DIMENSIONS]) ** EVENED
    return middle, (axes[:DIMENSIONS].T * evened).astype(np.float32)


def kept(words: WordPiece) -> NDArray[np.bool_]:
    """Which tokens are stored: those that hold a letter or digit and are no function word."""
    return np.array(
        [
            token not in ("[CLS]", "[SEP]", "[PAD]", "[MASK]")
            and any(sign.isalnum() for sign in token)
            and (token.startswith("##") or not token.isascii() or bool(analyse(token)))
            for token in words.vocabulary()
        ]
    )


if __name__ == "__main__":
    main()
