"""How many chunks real edits embed anew: ours, a whole document, and pieces of a fixed size.

    python bench/chunks.py [FOLDER WITH *.jsonl.xz EDIT HISTORIES]

Each history is a file of ``{"op", "path", "text"}``, one change a line. Counted is, over all
updates of existing documents, how many embedded texts the new version has that the old had not.
"""

from __future__ import annotations

import json
import lzma
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean

from penstock.pipelines.knowledge.chunker import Chunker, ChunkSettings, Titled

Cut = Callable[[str, str], Sequence[bytes | str]]


def estimated(texts: Sequence[str]) -> list[int]:
    """About as many tokens as WordPiece finds in English."""
    return [len(text) // 4 + 1 for text in texts]


def cutting(settings: ChunkSettings, max_tokens: int) -> Cut:
    chunker = Chunker(settings, max_tokens, estimated)

    def cut(path: str, text: str) -> list[bytes]:
        return [chunk.hash for chunk in chunker.chunk([Titled(path, text)])[0]]

    return cut


def fixed(size: int, overlap: int) -> Cut:
    def cut(_path: str, text: str) -> list[str]:
        return [text[at : at + size] for at in range(0, max(1, len(text)), size - overlap)]

    return cut


WAYS: dict[str, Cut] = {
    "default": cutting(ChunkSettings(), 254),
    "join below 0": cutting(ChunkSettings(join_below=0), 254),
    "join below 0.5": cutting(ChunkSettings(join_below=0.5), 254),
    "join below 1": cutting(ChunkSettings(join_below=1), 254),
    "128 tokens": cutting(ChunkSettings(size=128), 254),
    "1000 characters, 100 overlap": cutting(ChunkSettings(1000, 100, "characters"), 254),
    "fixed 1000 characters, 100 overlap": fixed(1000, 100),
}


def changes(folder: Path) -> Iterator[tuple[str, str, str | None]]:
    for file in sorted(folder.glob("*.jsonl.xz")):
        with lzma.open(file, "rt") as lines:
            for line in lines:
                change = json.loads(line)
                yield file.name, change["path"], change.get("text")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "data/doc_history")
    if not folder.is_dir():
        print(json.dumps({"name": "chunks", "skipped": f"no folder {folder}"}))
        return
    history = list(changes(folder))
    results = []
    for name, cut in WAYS.items():
        now: dict[tuple[str, str], frozenset[bytes | str]] = {}
        anew: list[int] = []
        whole: list[int] = []
        for file, path, text in history:
            if text is None:
                now.pop((file, path), None)
                continue
            chunks = frozenset(cut(path, text))
            before = now.get((file, path))
            if before is not None:
                anew.append(len(chunks - before))
                whole.append(len(chunks))
            now[file, path] = chunks
        results.append(
            {
                "way": name,
                "updates": len(anew),
                "chunks per document": round(mean(whole), 2),
                "embedded per update": round(mean(anew), 2),
                "share of whole": round(sum(anew) / sum(whole), 4),
                "p95": sorted(anew)[int(len(anew) * 0.95)],
            }
        )
    print(json.dumps({"name": "chunks", "results": results}, indent=1))


if __name__ == "__main__":
    main()
