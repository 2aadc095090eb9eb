"""Records with a known truth, from CSV files: for measuring who is taken for whom."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from penstock.errors import ConfigError

_NUMBERED: Final = re.compile(r"([^\W\d_]+[-_ ]\d+)[-_ ]\S.*")
_DELIMITERS: Final = ",;\t|"
_LONGEST_FIELD: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class Labelled:
    """Rows, where each came from, and who each is in truth."""

    rows: tuple[Mapping[str, str], ...]
    sources: tuple[str, ...]
    truth: tuple[str, ...]
    truth_rule: str


def read_labelled(
    files: Sequence[Path],
    truth: str,
    *,
    ignore: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
) -> Labelled:
    """Read files with the same columns; ``rename`` brings other names to the same ones first.

    Neither ``truth`` nor ``ignore`` is among the columns of the rows. `ConfigError` names the file
    and what is amiss.
    """
    rows: list[Mapping[str, str]] = []
    sources: list[str] = []
    labels: list[str] = []
    unused = set(ignore)
    for name, file in zip(_names(files), files, strict=True):
        header, lines = _read(file, rename or {})
        if truth not in header:
            raise ConfigError(
                f"expected the column {truth!r} with the truth in {str(file)!r}, found "
                f"{', '.join(map(repr, header))}: name one of these, or give `--rename OLD=NEW`"
            )
        unused -= set(header)
        left = [column for column in header if column != truth and column not in ignore]
        for line in lines:
            labels.append(line.get(truth, ""))
            sources.append(name)
            rows.append({column: line[column] for column in left if line.get(column)})
    if unused:
        raise ConfigError(
            f"expected the columns to ignore among those of the files, found no {sorted(unused)}"
        )
    if len(rows) < 2:
        raise ConfigError(f"expected at least two records, found {len(rows)}")
    understood, rule = _understood(labels)
    return Labelled(tuple(rows), tuple(sources), tuple(understood), rule)


def _understood(labels: Sequence[str]) -> tuple[list[str], str]:
    """Equal values are one person; a record without a value is nobody else. Where no value occurs
    twice and all have the form PREFIX-NUMBER-SUFFIX (``rec-123-org``, ``rec-123-dup-0``), it is
    PREFIX-NUMBER that tells."""
    given = [label for label in labels if label]
    if len(set(given)) == len(given) and given:
        parts = [_NUMBERED.fullmatch(label) for label in given]
        if all(parts):
            found = {label: part[1] for label, part in zip(given, parts, strict=True) if part}
            labels = [found.get(label, "") for label in labels]
            if len(set(found.values())) == len(given):
                raise _no_truth()
            return _each(labels), "PREFIX-NUMBER of PREFIX-NUMBER-SUFFIX"
        raise _no_truth()
    return _each(labels), "equal values"


def _each(labels: Sequence[str]) -> list[str]:
    return [label or f"\x00{number}" for number, label in enumerate(labels)]


def _no_truth() -> ConfigError:
    return ConfigError(
        "expected a truth that some records have in common, found a different value in each: name "
        "the column that says who is who, not the one that numbers the rows"
    )


def _names(files: Sequence[Path]) -> list[str]:
    """A name for each file: its stem, or all of its path where stems are equal."""
    stems = [file.stem for file in files]
    return [s if stems.count(s) == 1 else str(f) for s, f in zip(stems, files, strict=True)]


def _read(file: Path, rename: Mapping[str, str]) -> tuple[list[str], list[dict[str, str]]]:
    try:
        text = _text(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"expected a CSV file, could not read {str(file)!r}: {error}") from error
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        lines = list(csv.reader(text.splitlines(keepends=True), delimiter=delimiter,
                                skipinitialspace=True))  # fmt: skip
    except csv.Error as error:
        raise ConfigError(f"expected CSV in {str(file)!r}, got what is none: {error}") from error
    finally:
        csv.field_size_limit(before)
    if not lines:
        raise ConfigError(f"expected a header and records in {str(file)!r}, found nothing")
    header = [_column(name, rename) for name in lines[0]]
    if len(set(header)) < len(header):
        raise ConfigError(f"expected different names of columns in {str(file)!r}, got {header}")
    rows = [
        dict(zip(header, (value.strip() for value in line), strict=False))
        for line in lines[1:]
        if any(value.strip() for value in line)
    ]
    return header, rows


def _column(name: str, rename: Mapping[str, str]) -> str:
    """A column's name; braces have a meaning in rules."""
    plain = name.strip().strip('"')
    return rename.get(plain, plain).replace("{", "(").replace("}", ")")


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")
