"""Datasets in the BEIR layout: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/*.tsv``."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from penstock.errors import ConfigError
from penstock.stores.base import Filter

TITLE: Final = "title"
"""The field that documents have outside of their metadata."""


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    """One document of the corpus."""

    id: str
    title: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """One question. ``where`` restricts it to some documents; ``answers`` are texts that answer it;
    ``answerable`` is None where nobody says."""

    id: str
    text: str
    gains: Mapping[str, int]
    where: Filter = field(default_factory=Filter)
    answers: tuple[str, ...] = ()
    answerable: bool | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A corpus with judged questions."""

    documents: Sequence[CorpusDocument]
    queries: Sequence[Query]


def read_dataset(folder: Path, *, queries: int | None = None, filter_field: str = TITLE) -> Dataset:
    """Read a dataset; with ``queries``, only the first so many. Questions that have a metadata
    field ``filter_field`` are restricted to the documents that have the same. `ConfigError` names
    what is amiss with file and line."""
    documents = [
        CorpusDocument(
            _id(line, where),
            str(line.get("title") or ""),
            str(line.get("text") or ""),
            line.get("metadata") or {},
        )
        for where, line in _lines(folder / "corpus.jsonl")
    ]
    if not documents:
        raise ConfigError(f"expected documents in {str(folder / 'corpus.jsonl')!r}, found none")
    gains = _gains(folder)
    asked = [
        _query(line, where, gains, filter_field)
        for where, line in _lines(folder / "queries.jsonl", most=queries)
    ]
    if not asked:
        raise ConfigError(f"expected questions in {str(folder / 'queries.jsonl')!r}, found none")
    return Dataset(documents, asked)


def sampled(queries: Sequence[Query], most: int | None, seed: int) -> list[Query]:
    """So many of the questions by chance, the same ones for the same seed, in their order."""
    if most is None or len(queries) <= most:
        return list(queries)
    chosen = sorted(random.Random(seed).sample(range(len(queries)), most))
    return [queries[place] for place in chosen]


def fingerprint(parts: Iterable[CorpusDocument] | Iterable[Query]) -> str:
    """A short name of documents or questions with all that they say: results of others do not
    compare."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(orjson.dumps(part, option=orjson.OPT_SORT_KEYS) + b"\n")
    return digest.hexdigest()[:16]


def expect_field(data: Dataset, name: str) -> None:
    """`ConfigError` unless questions and documents share this field."""
    of_documents = {key for document in data.documents for key in document.metadata} | {TITLE}
    asks = any(query.where != Filter() for query in data.queries)
    if name not in of_documents or not asks:
        who = "question" if name in of_documents else "document"
        raise ConfigError(
            f"expected a field that questions and documents have in their metadata to filter by, "
            f"but no {who} has {name!r}: documents have {', '.join(sorted(of_documents))}"
        )


def _query(
    line: Mapping[str, Any], where: str, gains: Mapping[str, dict[str, int]], filter_field: str
) -> Query:
    metadata = line.get("metadata") or {}
    answers = tuple(str(answer) for answer in metadata.get("answers") or ())
    answerable = metadata.get("answerable")
    return Query(
        _id(line, where),
        str(line.get("text") or ""),
        gains.get(str(line["_id"]), {}),
        _filter(filter_field, metadata.get(filter_field)),
        answers,
        bool(answers) or None if answerable is None else bool(answerable),
    )


def _filter(name: str, value: Any) -> Filter:
    if value is None:
        return Filter()
    return Filter(title=str(value)) if name == TITLE else Filter(metadata={name: value})


def _gains(folder: Path) -> dict[str, dict[str, int]]:
    """Judgements of all files in ``qrels``; ``test.tsv`` alone where there is one."""
    files = sorted((folder / "qrels").glob("*.tsv"))
    files = [file for file in files if file.name == "test.tsv"] or files
    if not files:
        raise ConfigError(f"expected judgements in {str(folder / 'qrels')!r}, found no .tsv file")
    gains: dict[str, dict[str, int]] = {}
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            parts = line.split("\t")
            if number == 1 and not parts[-1].lstrip("-").isdigit():
                continue
            if len(parts) < 3 or not parts[-1].lstrip("-").isdigit():
                raise ConfigError(
                    f"{file}:{number}: expected query, document and score between tabs, "
                    f"got {line[:80]!r}"
                )
            gains.setdefault(parts[0], {})[parts[-2]] = int(parts[-1])
    return gains


def _lines(path: Path, *, most: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if most is not None and number > most:
                    return
                if line.strip():
                    yield f"{path}:{number}", _object(path, number, line)
    except OSError as error:
        raise ConfigError(f"expected to read {str(path)!r}, got: {error}") from error


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{path}:{number}: expected a JSON object, got: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}:{number}: expected a JSON object, got {line[:40]!r}")
    return value


def _id(line: Mapping[str, Any], where: str) -> str:
    if "_id" not in line:
        raise ConfigError(f"{where}: expected a field '_id', got {sorted(line)}")
    return str(line["_id"])
