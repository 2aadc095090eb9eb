"""Whatever the bytes are: text, or a sentence why not."""

from __future__ import annotations

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import BadRecordError
from penstock.sources.extract.base import Limits
from penstock.sources.extract.child import answer
from penstock.sources.extract.sniff import Kind
from penstock.sources.extract.text import decode, extract_text
from penstock.testing import documents

LIMITS = Limits(rows=100, pages=10, output_bytes=100_000)
SUFFIXES = ("txt", "md", "html", "pdf", "docx", "csv", "tsv", "json", "jsonl", "parquet", "")
GOOD = (
    documents.pdf(["Hello", "World"], title="T"),
    documents.docx(documents.paragraph("Hello", style="berschrift1"), documents.table([["a"]])),
    b"<html><h1>A</h1><table><tr><td>1</table><ul><li>x</ul>",
    b'{"a": [1, {"b": null}]}\n{"a": 2}\n',
    b"---\ntitle: x\n---\n# A\n",
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good document with some bytes replaced, removed or repeated."""
    data = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        data[start:end] = draw(st.binary(max_size=20)) * draw(st.sampled_from([1, 1, 50]))
    return bytes(data)


@settings(deadline=None)
@given(name=st.sampled_from(SUFFIXES), data=st.one_of(st.binary(max_size=2000), damaged()))
@example(name="md", data=b"---\n---\n")
@example(name="json", data=rb'{"\ud800": ["\udfff"]}')
def test_g13_any_bytes_give_text_or_a_reason(name: str, data: bytes) -> None:
    """Nothing raises, and what is given can be stored anywhere."""
    header, text = answer(f"a.{name}", data, LIMITS)
    json.dumps(header).encode()
    assert "\\u0000" not in json.dumps(header)
    if "error" in header:
        assert header["error"].startswith("expected")
    else:
        assert b"\x00" not in text
        json.dumps(header["metadata"], ensure_ascii=False).encode()
        text.decode()


@given(st.text(st.characters(exclude_characters="\x00\r", exclude_categories=["Cs"])))
def test_text_comes_back_as_it_was(text: str) -> None:
    """In every encoding that is declared by a mark."""
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert decode(text.encode(encoding)) == text
    if not text.startswith("\ufeff"):
        assert decode(text.encode()) == text


@given(st.binary(max_size=300))
def test_markdown_is_text_or_refused(data: bytes) -> None:
    """Front matter or not."""
    try:
        text = extract_text(Kind.MARKDOWN, data).text
    except BadRecordError as error:
        text = error.reason
    assert "\x00" not in text
