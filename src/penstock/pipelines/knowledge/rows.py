"""The searched text of a row: which columns, under which labels, named by which key. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from penstock.records import Change, Key, Row, Schema, Unchanged, Value

_FIELD: Final = re.compile(r"\{([^{}]+)\}")
_NULL: Final = "%00"

Values = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class SearchedRow:
    """How rows of one stream are searched: the columns that are embedded and indexed, and the title
    that passages show, in which ``{column}`` stands for a value (None: the table's name).
    ``permissions`` are columns that say who may see the row: they are stored beside the text."""

    columns: tuple[str, ...]
    title: str | None = None
    permissions: tuple[str, ...] = ()

    @property
    def used(self) -> tuple[str, ...]:
        """All columns on which the stored text, its title or its list of permissions depends."""
        names = _FIELD.findall(self.title or "")
        return tuple(dict.fromkeys((*self.columns, *names, *self.permissions)))

    def text(self, values: Values) -> str:
        """The labelled values, without those that are NULL or unknown."""
        parts = []
        for column in self.columns:
            value = values.get(column)
            if isinstance(value, str) and value.strip():
                ended = value if value.rstrip().endswith((".", "!", "?")) else f"{value}."
                parts.append(f"{column.replace('_', ' ')}: {ended}")
        return " ".join(parts)

    def heading(self, stream: str, values: Values) -> str:
        """The title for these values."""
        if self.title is None:
            return table_name(stream)
        return _FIELD.sub(lambda match: str(values.get(match[1]) or ""), self.title).strip()


def table_name(stream: str) -> str:
    """A stream without its schema, as one would say it."""
    return stream.rpartition(".")[2].replace("_", " ")


def document_key(stream: str, key: Key) -> str:
    """The name of a row among the documents of its source: ``table/key1/key2``."""
    parts = (_NULL if part is None else quote(part, safe="") for part in key)
    return "/".join((quote(stream, safe=""), *parts))


def row_values(schema: Schema, row: Row | None, columns: Sequence[str]) -> dict[str, Value]:
    """The values of some columns; columns that the stream does not have are left out."""
    if row is None:
        return {}
    names = schema.names
    return {name: row[names.index(name)] for name in columns if name in names}


def unchanged(values: Values) -> list[str]:
    """The columns whose value the source did not send."""
    return [name for name, value in values.items() if isinstance(value, Unchanged)]


def leaves_text(change: Change, columns: Sequence[str]) -> bool:
    """Whether the change says by itself that none of these columns changed."""
    if change.after is None or change.old_key is not None:
        return False
    # What a source sends of the old row may be the key alone, with None elsewhere: only a value
    # that is there proves something.
    before = row_values(change.schema, change.before, columns)
    after = row_values(change.schema, change.after, columns)
    return bool(after) and all(
        isinstance(value, Unchanged) or (value is not None and value == before.get(name))
        for name, value in after.items()
    )
