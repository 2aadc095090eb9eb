"""Plain text, Markdown, and what a file is."""

from __future__ import annotations

import pytest

from penstock.errors import BadRecordError
from penstock.sources.extract.sniff import Kind, needs_child, sniff, without_text
from penstock.sources.extract.text import decode, extract_text, front_matter


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.txt", b"hello", Kind.TEXT),
        ("README", b"hello", Kind.TEXT),
        ("a.md", b"# hello", Kind.MARKDOWN),
        ("A.MARKDOWN", b"", Kind.MARKDOWN),
        ("a.html", b"just words", Kind.HTML),
        ("page", b"\n <!DOCTYPE html><p>x", Kind.HTML),
        ("a.txt", b"<html> as an example", Kind.TEXT),
        ("login.pdf", b"<html>please log in", Kind.HTML),
        ("a.txt", b"%PDF-1.7 ...", Kind.PDF),
        ("a.pdf", b"\n\njunk %PDF-1.7", Kind.PDF),
        ("a.txt", b"the magic is %PDF-1.7", Kind.TEXT),
        ("a.doc", b"PK\x03\x04rest", Kind.DOCX),
        ("a.csv", b"a,b", Kind.CSV),
        ("a.tsv", b"a\tb", Kind.TSV),
        ("a.json", b"{}", Kind.JSON),
        ("a.ndjson", b"{}", Kind.JSONL),
        ("x", b"PAR1....", Kind.PARQUET),
        ("u.txt", "\ufeffhé".encode("utf-16"), Kind.TEXT),
    ],
)
def test_first_bytes_decide_and_the_name_fills_in(name: str, data: bytes, kind: Kind) -> None:
    """A wrong extension is seen through; text that mentions a magic number stays text."""
    assert sniff(name, data) is kind


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b"abc\x00def", "expected text, found NUL bytes at offset 3"),
        ("a.txt", b"\x89PNG\r\n\x1a\n....", "expected text, found a PNG image"),
        ("a.pdf", b"just text", "expected a PDF, found b'just text'"),
        ("a.doc", b"not one", "expected an old Office file, found b'not one'"),
        ("a.pptx", b"slides", "expected a presentation (.pptx), found b'slides'"),
        ("a.docx", b"word", "expected a Word document"),
        ("x.rtf", b"{rtf1", "expected an RTF document"),
        ("x.png", b"image", "expected an image"),
    ],
)
def test_what_is_no_document_is_named(name: str, data: bytes, reason: str) -> None:
    """The error says what was expected and what came."""
    with pytest.raises(BadRecordError, match="expected") as caught:
        sniff(name, data)
    assert reason in str(caught.value)


def test_names_without_text_are_known() -> None:
    """Images are passed over by name; a hidden file's name is no extension."""
    assert without_text("a/b.PNG")
    assert not without_text("a.png/readme")
    assert not without_text(".png")
    assert needs_child("a.pdf")
    assert not needs_child("a.md")


def test_text_is_decoded_by_its_mark_and_lines_end_in_newlines() -> None:
    """UTF-8 with and without mark, UTF-16 and UTF-32 with one; CRLF and CR become LF."""
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert decode("grüße\r\nx\ry\n".encode(encoding)) == "grüße\nx\ny\n"
    assert decode(b"\xfe\xff\x00a") == "a"


@pytest.mark.parametrize(
    ("data", "offset"), [(b"abc\xffdef", 3), (b"\xef\xbb\xbfab\xe9", 5), (b"\xff\xfea\x00b", 4)]
)
def test_wrong_bytes_are_named_with_their_offset(data: bytes, offset: int) -> None:
    """The reader learns where to look."""
    with pytest.raises(BadRecordError, match=rf"at offset {offset}: save the file as UTF-8"):
        decode(data)


def test_nul_characters_are_refused_wherever_they_are() -> None:
    """No store can hold them, and a sniff of the beginning does not see them."""
    with pytest.raises(BadRecordError, match="NUL bytes at character 9000"):
        extract_text(Kind.TEXT, b"x" * 9000 + b"\x00")


def test_front_matter_becomes_metadata_and_title() -> None:
    """It is taken off the text; quotes, lists of both forms and comments are understood."""
    text = (
        "---\ntitle: \"Fares: rules\"\ntags: [a, 'b']\n# no\nauthors:\n  - Ann\n  - Bob\n"
        "nested:\n  deep: 1\n---\n\n# Heading\n"
    )
    found = extract_text(Kind.MARKDOWN, text.encode())
    assert found.title == "Fares: rules"
    assert found.text == "# Heading\n"
    assert found.metadata == {"tags": ["a", "b"], "authors": ["Ann", "Bob"]}


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("intro\n\n## Second ##\n", "Second"),
        ("## 1.2\n\nnew\n\n## 1.1\n\nold", None),
        ("Big\n===\n", "Big"),
        ("```\n# comment\n```\n# Real\n", None),
        ("no heading", None),
        ("--- not front\n# T", "T"),
        ("", None),
    ],
)
def test_the_first_heading_is_the_title(text: str, title: str | None) -> None:
    """ATX and setext; a comment in code is no heading."""
    assert extract_text(Kind.MARKDOWN, text.encode()).title == title


def test_front_matter_reads_no_aliases() -> None:
    """A reader that followed them could be made to grow without limit."""
    assert front_matter("a: &x [1, 2]\nb: *x") == {"a": "&x [1, 2]", "b": "*x"}
