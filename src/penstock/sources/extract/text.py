"""Plain text and Markdown: decoding, front matter, title. Pure."""

from __future__ import annotations

import codecs
import re
from typing import Final

from penstock.errors import BadRecordError
from penstock.sources.extract.base import Extracted, MetadataValue
from penstock.sources.extract.sniff import Kind

_TITLE: Final = re.compile(r"^(?:#{1,6}[ \t]+(\S.*?)[ \t]*#*|(\S.*)\n(?:=+|-{3,})[ \t]*)$", re.M)
_UNDERLINED: Final = re.compile(
    r"^(?:([=*#~^+-])\1{2,}[ \t]*\n[ \t]*(\S.*?)[ \t]*\n\1{3,}"
    r"|(\S.*?)[ \t]*\n([=*#~^+-])\4{2,})[ \t]*$",
    re.M,
)
_FRONT: Final = re.compile(r"---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.S | re.M)
_FIELD: Final = re.compile(r"([A-Za-z_][\w .-]{0,63}):(?:[ \t]+(.*))?$")
_LOOK: Final = 4096
_FRONT_LIMIT: Final = 65536
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode(data: bytes) -> str:
    """Text in UTF-8, or in the encoding that its byte order mark declares; lines end in a newline.

    ``BadRecordError`` names the offset of the first byte that is wrong.
    """
    encoding, skip = "utf-8", 0
    if data[:1] in {b"\xef", b"\xff", b"\xfe", b"\x00"}:
        for mark, declared in _MARKS:
            if data.startswith(mark):
                encoding, skip = declared, len(mark)
                break
    try:
        text = data[skip:].decode(encoding) if skip else data.decode()
    except UnicodeDecodeError as error:
        offset = error.start + skip
        found = data[offset : offset + 4]
        msg = (
            f"expected text in {encoding.upper()}, found {found!r} at offset {offset}: "
            "save the file as UTF-8"
        )
        raise BadRecordError(msg, offset=offset) from error
    if "\0" in text:
        msg = f"expected text, found NUL bytes at character {text.index(chr(0))}: a binary file?"
        raise BadRecordError(msg)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def extract_text(kind: Kind, data: bytes) -> Extracted:
    """A text or Markdown file."""
    text = decode(data)
    if kind is Kind.RST:
        underlined = _UNDERLINED.search(text[:_LOOK])
        title = (underlined[2] or underlined[3]) if underlined else None
        return Extracted(text, title, kind.value, {})
    if kind is not Kind.MARKDOWN:
        return Extracted(text, None, kind.value, {})
    metadata: dict[str, MetadataValue] = {}
    if text.startswith("---"):
        match = _FRONT.match(text[:_FRONT_LIMIT])
        if match is not None:
            metadata = front_matter(match[1])
            text = text[match.end() :].lstrip("\n")
    declared = metadata.pop("title", None)
    title = declared if isinstance(declared, str) and declared else _title(text)
    return Extracted(text, title, kind.value, metadata)


def _title(text: str) -> str | None:
    head = text[:_LOOK]
    marked = "#" in head or "\n=" in head or "\n---" in head
    matches = _TITLE.finditer(head) if marked else iter(())
    match = next(matches, None)
    if match is None:
        return None
    before = head[: match.start()]
    if "```" in before or "~~~" in before:
        return None
    # The first of several sections is no title: a list of changes would have another every time,
    # and all of it would be embedded anew.
    level = _level(match)
    if level > 1 and any(_level(other) <= level for other in matches):
        return None
    return match[1] or match[2]


def _level(heading: re.Match[str]) -> int:
    line = heading[0]
    if line.startswith("#"):
        return len(line) - len(line.lstrip("#"))
    return 1 if line.rstrip().endswith("=") else 2


def front_matter(block: str) -> dict[str, MetadataValue]:
    """The fields of a front matter block: texts and lists of texts.

    Nested structures are left out: a metadata filter could not use them, and a full YAML reader
    would follow aliases that grow without limit.
    """
    fields: dict[str, MetadataValue] = {}
    items: list[str] | None = None
    for line in block.split("\n"):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if items is not None and stripped.startswith("- "):
            items.append(_scalar(stripped[2:]))
            continue
        items = None
        match = _FIELD.match(line)
        if match is None:
            continue
        name, value = match[1].strip(), (match[2] or "").strip()
        if value.startswith("[") and value.endswith("]"):
            inner = value[1:-1].strip()
            fields[name] = [_scalar(part) for part in inner.split(",")] if inner else []
        elif value:
            fields[name] = _scalar(value)
        else:
            items = []
            fields[name] = items
    return {name: value for name, value in fields.items() if value != []}


def _scalar(value: str) -> str:
    value = value.strip()
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value
