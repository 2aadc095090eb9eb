"""HTML, Word, PDF and tables as Markdown, by their pure functions."""

from __future__ import annotations

import io
import json

import polars as pl
import pytest

from penstock.errors import BadRecordError
from penstock.sources.extract.base import Limits
from penstock.sources.extract.child import parse
from penstock.sources.extract.docx import extract_docx
from penstock.sources.extract.html import extract_html
from penstock.sources.extract.pdf import extract_pdf
from penstock.sources.extract.sniff import Kind
from penstock.sources.extract.tables import extract_csv, extract_json, extract_parquet
from penstock.testing import documents

LIMITS = Limits()
SMALL = Limits(rows=10, pages=2, output_bytes=1000, archive_entries=20)


def html(text: str) -> str:
    return extract_html(text.encode(), LIMITS).text


def test_html_keeps_structure() -> None:
    """Headings, paragraphs, nested lists, code and tables become Markdown."""
    found = extract_html(
        b"""<!doctype html><html><head><title>The  title</title><meta name=author content=Ann>
        <style>p {}</style></head><body><h2>Fares</h2><p>One <b>bold</b>\n word.<p>Two<br>lines
        <ol><li>first<li>second<ul><li>deep</ul></ol><pre>  x = 1\n  y</pre>
        <table><caption>Cap</caption><tr><th>a</th><th>b|c</th></tr><tr><td>1<td><p>2</p>
        </table>after""",
        LIMITS,
    )
    assert found.title == "The title"
    assert found.metadata == {"author": "Ann"}
    assert found.text == (
        "## Fares\n\nOne bold word.\n\nTwo lines\n\n1. first\n2. second\n  - deep\n\n"
        "```\n  x = 1\n  y\n```\n\nCap\n\n| a | b\\|c |\n|---|---|\n| 1 | 2 |\n\nafter"
    )


def test_html_leaves_out_what_nobody_sees() -> None:
    """Scripts, comments and hidden elements are no text, whatever is nested in them."""
    assert html("a<script>x('</b>')</script><!-- c -->b") == "ab"
    assert html("<div hidden>1<div>2</div>3</div>see") == "see"
    assert html("<p style='DISPLAY : none'>x</p><span style='font-size:0'>y</span>see") == "see"
    assert html("<p aria-hidden=true>x</p><template>t</template>see") == "see"


def test_html_survives_what_is_not_closed() -> None:
    """Unclosed and unopened elements lose no text."""
    assert html("</div></table><p>a<table><tr><td>b") == "a\n\n| b |\n|---|"
    assert html("<ul><li>a") == "- a"
    assert html("<h1>x") == "# x"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("é".encode(), "é"),
        (b'<meta charset="iso-8859-15">\xa4', "€"),
        (b"\x93quoted\x94", "“quoted”"),
        (b'<meta charset="nonsense">\xe9', "é"),
        (b'<meta charset="rot13">\xe9', "é"),
        ("é".encode("utf-16"), "é"),
    ],
)
def test_html_in_other_encodings(data: bytes, text: str) -> None:
    """As browsers do: declared, else Windows-1252."""
    assert extract_html(data, LIMITS).text == text


def test_docx_keeps_structure() -> None:
    """Headings by style, whatever they are called in the author's language; lists; tables."""
    core = '<c xmlns:dc="d"><dc:title>Rules</dc:title><dc:creator>Ann</dc:creator></c>'
    found = extract_docx(
        documents.docx(
            documents.paragraph("Fares & rules", style="berschrift1"),
            documents.paragraph("All fares."),
            documents.paragraph("one", level=0),
            documents.paragraph("deep", level=1),
            documents.table([["a", "b"], ["1", ""]]),
            "<w:p><w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r>"
            "<w:del><w:r><w:delText>deleted</w:delText></w:r></w:del>"
            "<w:r><w:t>shown</w:t></w:r></w:p>",
            parts={"docProps/core.xml": core},
        ),
        LIMITS,
    )
    assert found.title == "Rules"
    assert found.metadata == {"author": "Ann"}
    assert found.text == (
        "# Fares & rules\n\nAll fares.\n\n- one\n  - deep\n\n"
        "| a | b |\n|---|---|\n| 1 |  |\n\nshown"
    )


def test_pdf_pages_are_separated_by_form_feeds() -> None:
    """Each page's text, with the title and the number of pages."""
    found = extract_pdf(documents.pdf(["Page one", "", "Page 3"], title="T", compress=True), LIMITS)
    assert found.text == "Page one\f\fPage 3"
    assert found.title == "T"
    assert found.metadata == {"pages": 3}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"%PDF-1.4 nothing", "found a broken one"),
        (documents.pdf(["", ""]), "found 2 pages without any: no images either"),
        (documents.pdf(["a", "b", "c"]), "expected at most 2 pages, found 3"),
    ],
)
def test_pdf_without_text_says_why(data: bytes, reason: str) -> None:
    """Broken, scanned or too long."""
    with pytest.raises(BadRecordError) as caught:
        extract_pdf(data, SMALL)
    assert reason in str(caught.value)


def test_pdf_with_a_password_is_refused_and_with_an_empty_one_is_read() -> None:
    """Many PDFs are encrypted so that they cannot be edited; those open without a password."""
    from pypdf import PdfReader, PdfWriter

    for password, readable in (("secret", False), ("", True)):
        writer = PdfWriter(PdfReader(io.BytesIO(documents.pdf(["Hello"]))))
        writer.encrypt(password, "owner", algorithm="RC4-128")
        out = io.BytesIO()
        writer.write(out)
        if readable:
            assert extract_pdf(out.getvalue(), LIMITS).text == "Hello"
        else:
            with pytest.raises(BadRecordError, match="found an encrypted one"):
                extract_pdf(out.getvalue(), LIMITS)


def test_csv_becomes_a_table_with_its_header() -> None:
    """The delimiter is found; quotes, line breaks and bars inside of cells do no harm."""
    found = extract_csv(Kind.CSV, b'name;note\r\nAnn;"a|b\nc"\r\n\r\nBob;"x;y"\r\n', LIMITS)
    assert found.text == "| name | note |\n|---|---|\n| Ann | a\\|b c |\n| Bob | x;y |"
    assert found.metadata == {"rows": 2, "columns": ["name", "note"], "row_limit": 100_000}
    assert extract_csv(Kind.TSV, b"a\tb,c\n1\t2\n", LIMITS).text.startswith("| a | b,c |")
    assert extract_csv(Kind.CSV, b"\n\n", LIMITS).text == ""


def test_json_records_become_a_table_and_the_rest_lines() -> None:
    """Numbers keep their digits; missing fields are empty; nesting becomes a path."""
    lines = b'{"a": 1.10, "b": null}\n\n{"a": true, "c": {"d": [1]}}\n'
    assert extract_json(Kind.JSONL, lines, LIMITS).text == (
        '| a | b | c |\n|---|---|---|\n| 1.10 |  |  |\n| true |  | {"d": ["1"]} |'
    )
    found = extract_json(Kind.JSON, b'{"a": {"b": [1, 2]}, "c": "x"}', LIMITS)
    assert found.text == "a.b: 1\na.b: 2\nc: x"


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (Kind.JSONL, b'{"a": 1}\n{"a": \n', "expected JSON in line 2"),
        (Kind.JSON, b"[" * 200_000, "nested too deeply"),
        (Kind.JSONL, b"1\n" * 11, "expected at most 10 rows"),
        (Kind.CSV, b"a\n" * 12, "expected at most 10 rows"),
        (Kind.CSV, b"," * 1001, "expected at most 1,000 columns"),
        (Kind.CSV, b"a\n" + b"x" * 1_000_001, "field larger than field limit"),
        (Kind.CSV, b"a,b\n1,\xff\n", "at offset 6"),
        (Kind.PARQUET, b"PAR1 nothing PAR1", "found a broken one"),
    ],
)
def test_broken_tables_say_where(kind: Kind, data: bytes, reason: str) -> None:
    """Lines, offsets and limits are named."""
    suffix = {Kind.JSONL: "jsonl", Kind.JSON: "json", Kind.CSV: "csv"}.get(kind, "parquet")
    with pytest.raises(BadRecordError) as caught:
        parse(f"a.{suffix}", data, SMALL)
    assert reason in str(caught.value)


def test_parquet_becomes_a_table() -> None:
    """All types as text."""
    out = io.BytesIO()
    pl.DataFrame({"n": [1, None], "s": ["x", "y"], "l": [[1], []]}).write_parquet(out)
    found = extract_parquet(out.getvalue(), LIMITS)
    assert found.text == "| n | s | l |\n|---|---|---|\n| 1 | x | [1] |\n|  | y | [] |"


DOCTYPE = '<!DOCTYPE w [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
EXTERNAL = '<!DOCTYPE w [<!ENTITY x SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (documents.docx("<w:p><w:r><w:t>&b;</w:t></w:r></w:p>", head=DOCTYPE), "document type"),
        (documents.docx("<w:p><w:r><w:t>&x;</w:t></w:r></w:p>", head=EXTERNAL), "document type"),
        (documents.docx("<w:p>"), "expected XML"),
        (documents.docx(parts={"word/document.xml": b"0" * 60_000_000}), "zip bomb"),
        (documents.docx(parts={f"x{i}": b"" for i in range(30)}), "expected at most 20 parts"),
        (documents.docx("a")[:-30], "broken archive"),
        (
            documents.archive({"zl/workbook.xml": b"", "../../etc/passwd": b""}),
            "found a zip archive",
        ),
        (documents.archive({"a.txt": b"hello"}), "found a zip archive"),
    ],
)
def test_hostile_archives_are_refused(data: bytes, reason: str) -> None:
    """Bombs, entities, broken and foreign archives; nothing is unpacked first."""
    with pytest.raises(BadRecordError) as caught:
        extract_docx(data, SMALL)
    assert reason in str(caught.value)


def test_an_archive_that_lies_about_its_size_is_refused() -> None:
    """The claim is checked before unpacking, and what comes out while unpacking."""
    data = bytearray(documents.docx(parts={"word/document.xml": b"0" * 5_000_000}))
    true_size, false_size = (5_000_000).to_bytes(4, "little"), (500).to_bytes(4, "little")
    assert data.count(true_size) == 2
    with pytest.raises(BadRecordError, match="expected"):
        extract_docx(bytes(data.replace(true_size, false_size)), SMALL)


def test_metadata_is_small_and_plain() -> None:
    """It goes into a JSON column."""
    found = parse("a.csv", b"a\n1\n", LIMITS)
    assert json.loads(json.dumps(found.metadata)) == found.metadata
