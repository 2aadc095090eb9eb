"""The words in a drawing (.svg)."""

from __future__ import annotations

from penstock.sources.extract.base import Extracted, Limits, Writer
from penstock.sources.extract.sniff import Kind
from penstock.sources.extract.zipped import Attributes, local, parse_xml

_TEXTS = frozenset({"text", "title", "desc"})


def extract_svg(data: bytes, limits: Limits) -> Extracted:
    """Its title, description and texts, each a paragraph."""
    writer = Writer(limits.output_bytes)
    parts: list[str] = []
    inside: list[str] = []
    title: list[str] = []

    def start(tag: str, _attributes: Attributes) -> None:
        if local(tag) in _TEXTS:
            inside.append(local(tag))

    def end(tag: str) -> None:
        if local(tag) not in _TEXTS or not inside:
            return
        name = inside.pop()
        text = " ".join("".join(parts).split())
        if inside or not text:
            return
        parts.clear()
        writer.block(text)
        if name == "title" and not title:
            title.append(text[:1000])

    def characters(data: str) -> None:
        if inside:
            parts.append(data)

    parse_xml(data, start, end, characters, doctype=True)
    return Extracted(writer.text(), title[0] if title else None, Kind.SVG.value, {})
