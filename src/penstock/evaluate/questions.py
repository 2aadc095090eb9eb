"""Questions of one's own, about the documents of a project: JSON lines.

    {"question": "Until when can I cancel?", "relevant": ["refunds.md"], "answers": ["24 hours"]}
    {"question": "Who won the cup?", "answerable": false}
    {"question": "Is there parking?", "relevant": ["hotel.md"], "where": {"language": "en"}}

``relevant`` are keys of documents, ``where`` is a filter: ``source``, ``path``, ``title``, or a
field of the documents' metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from penstock.errors import ConfigError
from penstock.evaluate.dataset import Query
from penstock.serving.context import LONGEST_QUESTION
from penstock.stores.base import Filter

_FIELDS: Final = ("id", "question", "relevant", "answers", "answerable", "where")
_EXAMPLE: Final = '{"question": "...", "relevant": ["key"], "answers": ["..."]}'


def read_questions(path: Path) -> list[Query]:
    """The questions of a file, each with its ``id`` or else its line as its name. `ConfigError`
    names the first lines that are amiss, all with their numbers."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"expected to read {str(path)!r}, got: {error}") from error
    found: dict[str, Query] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            query = _question(line, number)
        except ConfigError as error:
            problems.append(f"{path}, line {number}: {error}")
            continue
        if query.id in found:
            problems.append(f"{path}, line {number}: expected each id once, got {query.id!r} again")
        found[query.id] = query
    if problems:
        more = [f"{len(problems) - 10} more lines are amiss"] if len(problems) > 10 else []
        raise ConfigError("\n".join([*problems[:10], *more]))
    if not found:
        raise ConfigError(f"expected questions in {str(path)!r}, one a line: {_EXAMPLE}")
    return list(found.values())


def _question(line: bytes, number: int) -> Query:
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"expected JSON such as {_EXAMPLE}, got: {error}") from error
    if not isinstance(entry, dict):
        raise ConfigError(f"expected an object such as {_EXAMPLE}, got {type(entry).__name__}")
    if unknown := sorted(set(entry) - set(_FIELDS)):
        raise ConfigError(f"expected the fields {', '.join(_FIELDS)}, got {unknown[0]!r} as well")
    text = entry.get("question")
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"expected a text in 'question', got {text!r}")
    if len(text) > LONGEST_QUESTION:
        raise ConfigError(f"expected at most {LONGEST_QUESTION} characters, got {len(text)}")
    relevant, answers = _texts(entry, "relevant"), _texts(entry, "answers")
    return Query(
        str(entry.get("id", number)),
        text,
        dict.fromkeys(relevant, 1),
        _where(entry.get("where")),
        answers,
        _answerable(entry.get("answerable"), expects=bool(relevant or answers)),
    )


def _texts(entry: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = entry.get(name) or []
    if not isinstance(values, list) or not all(
        isinstance(text, str) and text.strip() for text in values
    ):
        raise ConfigError(f"expected a list of texts in {name!r}, got {values!r}")
    return tuple(dict.fromkeys(values))


def _answerable(value: object, *, expects: bool) -> bool | None:
    if value is None:
        return expects or None
    if not isinstance(value, bool):
        raise ConfigError(f"expected true or false in 'answerable', got {value!r}")
    if expects and not value:
        raise ConfigError(
            "expected neither 'answers' nor 'relevant' beside 'answerable': false, got some"
        )
    return value


def _where(value: object) -> Filter:
    if value is None:
        return Filter()
    if not isinstance(value, dict):
        raise ConfigError(f'expected a filter as {{"language": "en"}} in \'where\', got {value!r}')
    rest = dict(value)
    named = {name: rest.pop(name) for name in ("source", "path", "title") if name in rest}
    for name, text in named.items():
        if not isinstance(text, str):
            raise ConfigError(f"expected a text in 'where.{name}', got {text!r}")
    source = named.get("source")
    return Filter(
        sources=None if source is None else [source],
        path=named.get("path"),
        title=named.get("title"),
        metadata=rest,
    )
