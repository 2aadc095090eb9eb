"""What a transaction holds beside rows: messages, and the word that it came from elsewhere. Pure.

A message of ``pg_logical_emit_message`` is a change of the stream ``penstock.messages``, in its
place among the rows of its transaction, so it can say of them what the rows do not: who changed
them (by convention a first message with the prefix ``penstock.actor``), or why. The transaction's
number joins both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from penstock.records import Column, Schema
from penstock.sources.postgres.decoder import LogicalMessage

MESSAGES: Final = "penstock.messages"
"""The stream of logical messages; no table of a source is in a schema of that name."""

_COLUMNS: Final = (
    Column("position", "text", key=True),
    Column("prefix", "text"),
    Column("content", "text"),
    Column("encoding", "text"),
)


@dataclass(frozen=True)
class Keep:
    """What is kept beside rows, and whether transactions that came from elsewhere are."""

    source: str = ""
    messages: bool = False
    own_only: bool = False
    schema: Schema = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "schema", Schema(self.source, MESSAGES, _COLUMNS))


def message_row(position: str, message: LogicalMessage) -> tuple[str, str, str, str]:
    """A message as a row: what is no text (or holds a zero byte) as hexadecimal."""
    try:
        text, encoding = message.content.decode(), "utf-8"
    except UnicodeDecodeError:
        text, encoding = "", "hex"
    if encoding == "hex" or "\x00" in text:
        text, encoding = message.content.hex(), "hex"
    return position, message.prefix, text, encoding
