"""Presentations, workbooks, books, mails, OpenDocument, RTF, drawings and old Office files."""

from __future__ import annotations

import datetime as dt
import io
from email.message import EmailMessage
from typing import Any

import fastavro
import openpyxl
import pytest
import xlwt
from pptx import Presentation
from pptx.util import Inches

from penstock.errors import BadRecordError
from penstock.sources.extract.base import Extracted, Limits
from penstock.sources.extract.child import parse
from penstock.testing import documents

LIMITS = Limits()


def saved(document: Any) -> bytes:
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def read(name: str, data: bytes, limits: Limits = LIMITS) -> Extracted:
    return parse(name, data, limits)


def presentation() -> bytes:
    made = Presentation()
    made.core_properties.title = ""
    for number in (1, 2, 3):
        slide = made.slides.add_slide(made.slide_layouts[1])
        slide.shapes.title.text = f"Line {number}"
        slide.placeholders[1].text = "every ten minutes\nfrom the harbour"
        slide.placeholders[1].text_frame.paragraphs[1].level = 1
        if number == 2:
            slide._element.set("show", "0")
        if number == 3:
            table = slide.shapes.add_table(2, 2, Inches(1), Inches(3), Inches(4), Inches(1)).table
            for row, texts in enumerate((("stop", "time"), ("Quay|1", "9:30"))):
                for column, text in enumerate(texts):
                    table.cell(row, column).text = text
            slide.notes_slide.notes_text_frame.text = "Mention the ferry."
    return saved(made)


def test_pptx_keeps_slides() -> None:
    """A title is a heading, a body a list, a table a table; a hidden slide is an empty page, so
    that the number of a page is the number of its slide."""
    found = read("a.pptx", presentation())
    assert found.text.split("\f") == [
        "## Line 1\n\n- every ten minutes\n  - from the harbour",
        "",
        (
            "## Line 3\n\n- every ten minutes\n  - from the harbour\n\n"
            "| stop | time |\n|---|---|\n| Quay\\|1 | 9:30 |\n\nNotes: Mention the ferry."
        ),
    ]
    assert found.title == "Line 1"
    assert found.metadata["slides"] == 3


def workbook() -> bytes:
    made = openpyxl.Workbook()
    prices: Any = made.active
    prices.title = "Prices"
    prices.append(["Winter prices"])
    prices.append([])
    prices.append(["name", None, "from", "price", "sold", "share"])
    when = dt.datetime.fromisoformat("2026-01-02 12:30")
    prices.append(["ferry|a", None, when.date(), 0.1 + 0.2, True, "=1+1"])
    prices.append(["tram", None, when, 1234567890123, False, "#REF!"])
    made.create_sheet("Secret").append(["hidden"])
    made["Secret"].sheet_state = "hidden"
    made.create_sheet("Far")["XF99"] = "far away"
    return saved(made)


def test_xlsx_keeps_sheets() -> None:
    """Values as people read them; empty columns and hidden sheets left out, numbers kept."""
    found = read("a.xlsx", workbook())
    assert found.text.split("\f") == [
        (
            "## Prices\n\nWinter prices\n\n| name | from | price | sold | share |\n"
            "|---|---|---|---|---|\n"
            "| ferry\\|a | 2026-01-02 | 0.3 | true |  |\n"
            "| tram | 2026-01-02 12:30:00 | 1234567890123 | false | #REF! |"
        ),
        "",
        "## Far\n\nfar away",
    ]
    assert found.metadata["sheets"] == ["Prices", "Far"]


def test_xlsx_limits() -> None:
    """Rows are counted over all sheets; a diagonal does not become a square."""
    with pytest.raises(BadRecordError, match="fewer rows"):
        read("a.xlsx", workbook(), Limits(rows=3))
    made = openpyxl.Workbook()
    sheet: Any = made.active
    for number in range(1, 600):
        sheet.cell(number, number, "x")
    with pytest.raises(BadRecordError, match="at most"):
        read("a.xlsx", saved(made), Limits(output_bytes=1_000_000))


def book(**parts: str) -> bytes:
    container = '<container><rootfiles><rootfile full-path="OEBPS/a.opf"/></rootfiles></container>'
    package = (
        '<package xmlns:dc="d"><metadata><dc:title>The Ferry</dc:title><dc:creator>Ann</dc:creator>'
        "</metadata><manifest>"
        '<item id="b" href="two%20b.xhtml" media-type="application/xhtml+xml"/>'
        '<item id="a" href="one.xhtml" media-type="application/xhtml+xml"/></manifest>'
        '<spine><itemref idref="a"/><itemref idref="b"/></spine></package>'
    )
    return documents.archive(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": container,
            "OEBPS/a.opf": package,
            "OEBPS/two b.xhtml": "<html><body><h1>Second</h1><p>later</p></body></html>",
            "OEBPS/one.xhtml": "<?xml version='1.0'?><html><body><h1>First</h1>Rain</body></html>",
            **parts,
        }
    )


def test_epub_in_the_order_of_its_spine() -> None:
    """Not in the order of the archive."""
    found = read("a.epub", book())
    assert found.text == "# First\n\nRain\f# Second\n\nlater"
    assert (found.title, found.metadata) == ("The Ferry", {"author": "Ann", "chapters": 2})
    encrypted = '<e><CipherReference URI="OEBPS/one.xhtml"/></e>'
    with pytest.raises(BadRecordError, match="copy protection"):
        read("a.epub", book(**{"META-INF/encryption.xml": encrypted}))


def mail() -> EmailMessage:
    made = EmailMessage()
    made["From"] = "Ann <ann@example.org>"
    made["To"] = "bob@example.org"
    made["Subject"] = "Fähre"
    made.set_content("The ferry is late.\n")
    made.add_alternative("<p>The ferry is <b>late</b>.</p>", subtype="html")
    return made


def test_mail_with_attachments_as_sections() -> None:
    """The plain form of the body; each attachment as a file of its name; what cannot be read says
    why and takes nothing else along."""
    made = mail()
    made.add_attachment(b"stop,time\nQuay,9:30\n", maintype="text", subtype="csv", filename="t.csv")
    made.add_attachment(
        b"PK\x03\x04broken", maintype="application", subtype="zip", filename="b.docx"
    )
    made.add_attachment(mail())
    found = read("a.eml", made.as_bytes())
    parts = found.text.split("\f")
    assert parts[0].startswith("From: Ann <ann@example.org>\nTo: bob@example.org\n")
    assert parts[0].endswith("Subject: Fähre\n\nThe ferry is late.")
    assert parts[1] == "# Attachment: t.csv\n\n| stop | time |\n|---|---|\n| Quay | 9:30 |"
    assert "could not be read: expected a document, found a broken archive" in parts[2]
    assert parts[3].startswith("# Attachment: message-4.eml\n\nFrom: Ann")
    assert found.title == "Fähre"
    assert found.metadata["attachments"] == ["t.csv", "b.docx", "message-4.eml"]
    assert found.metadata["unreadable_attachments"] == ["b.docx"]


def test_a_mail_is_known_by_its_heads() -> None:
    """A text with the wrong name is no mail; HTML alone is a body too."""
    with pytest.raises(BadRecordError, match="expected a mail with a sender"):
        read("a.eml", b"just a text\n\nwithout heads")
    found = read("a.eml", b"Subject: x\nContent-Type: text/html; charset=nonsense\n\n<h1>Hi</h1>")
    assert found.text == "Subject: x\n\n# Hi"


def opendocument(kind: str, body: str) -> bytes:
    names = ("office", "text", "table", "draw")
    spaces = " ".join(f'xmlns:{name}="{name}"' for name in names)
    content = f"<office:document {spaces}><office:body>{body}</office:body></office:document>"
    mimetype = f"application/vnd.oasis.opendocument.{kind}"
    meta = '<m xmlns:dc="d"><dc:creator>Ann</dc:creator></m>'
    return documents.archive({"mimetype": mimetype, "content.xml": content, "meta.xml": meta})


ROW = (
    "<table:table-row><table:table-cell><text:p>stop</text:p></table:table-cell>"
    '<table:table-cell table:number-columns-repeated="16000"/></table:table-row>'
    "<table:table-row><table:table-cell><text:p>Quay</text:p></table:table-cell>"
    '<table:table-cell table:number-columns-repeated="2"><text:p>9</text:p></table:table-cell>'
    "</table:table-row>"
)


def test_opendocument() -> None:
    """Texts with headings and lists; sheets and slides as pages; deleted text left out."""
    found = read(
        "a.odt",
        opendocument(
            "text",
            "<text:tracked-changes><text:p>gone</text:p></text:tracked-changes><text:h "
            'text:outline-level="2">Lines</text:h><text:p>By<text:s/>ferry</text:p><text:list>'
            f"<text:list-item><text:p>one</text:p></text:list-item></text:list><table:table>{ROW}"
            "</table:table>",
        ),
    )
    assert found.text == (
        "## Lines\n\nBy ferry\n\n- one\n\n| stop |  |  |\n|---|---|---|\n| Quay | 9 | 9 |"
    )
    assert (found.title, found.metadata) == ("Lines", {"author": "Ann"})
    sheets = "".join(f'<table:table table:name="S{n}">{ROW}</table:table>' for n in (1, 2))
    pages = read("a.ods", opendocument("spreadsheet", sheets)).text.split("\f")
    assert [page.partition("\n")[0] for page in pages] == ["## S1", "## S2"]
    slides = (
        "<draw:page><text:p>one</text:p></draw:page><draw:page><text:p>two</text:p></draw:page>"
    )
    assert read("a.odp", opendocument("presentation", slides)).text == "one\ftwo"


def test_rtf() -> None:
    """Code pages, numbered characters with their stand-ins, tables, hidden text, the title."""
    found = read(
        "a.rtf",
        rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}{\info{\title The ferry}{\author Ann}}"
        rb"F\'e4hre \u8364?5\{x\} {\v secret}{\*\unknown gone}\par\uc2\u26085xx end\par"
        rb"\trowd\intbl stop\cell time\cell\row\intbl Quay\cell 9:30\cell\row\pard after\par}",
    )
    assert found.text == (
        "Fähre €5{x}\n\n日 end\n\n| stop | time |\n|---|---|\n| Quay | 9:30 |\n\nafter"
    )
    assert found.title == "The ferry"
    with pytest.raises(BadRecordError, match="ends in the middle"):
        read("a.rtf", rb"{\rtf1 half")


def test_svg_has_its_words() -> None:
    """Not its markup."""
    found = read("a.svg", b"<svg><title>Map</title><text>North <tspan>quay</tspan></text></svg>")
    assert (found.text, found.title) == ("Map\n\nNorth quay", "Map")


def test_avro_is_a_table() -> None:
    """With its fields as the header; a cut file is refused."""
    schema = {
        "type": "record",
        "name": "r",
        "fields": [{"name": "stop", "type": "string"}, {"name": "n", "type": ["null", "int"]}],
    }
    out = io.BytesIO()
    fastavro.writer(out, schema, [{"stop": "Quay", "n": 1}, {"stop": "Inn", "n": None}])
    found = read("a.avro", out.getvalue())
    assert found.text == "| stop | n |\n|---|---|\n| Quay | 1 |\n| Inn |  |"
    with pytest.raises(BadRecordError, match="expected an Avro file"):
        read("a.avro", out.getvalue()[:-5])


@pytest.mark.package("kreuzberg")
def test_old_office_files() -> None:
    """Read by kreuzberg; one with a password is refused before."""
    made = xlwt.Workbook()
    made.add_sheet("Old").write(0, 0, "zeppelin")
    assert "zeppelin" in read("a.xls", saved(made)).text
    magic = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)
    with pytest.raises(BadRecordError, match="encrypted"):
        read("a.docx", magic + "EncryptedPackage".encode("utf-16-le"))
    with pytest.raises(BadRecordError, match="unknown kind"):
        read("a.doc", magic)
    with pytest.raises(BadRecordError, match="broken one"):
        read("a.doc", magic + "WordDocument".encode("utf-16-le"))


def test_what_an_archive_holds_decides() -> None:
    """A wrong extension does no harm."""
    assert read("a.docx", presentation()).metadata["slides"] == 3
    assert read("a.pptx", workbook()).metadata["sheets"] == ["Prices", "Far"]
    assert read("a", book()).title == "The Ferry"
    with pytest.raises(BadRecordError, match="found a zip archive"):
        read("a.xlsx", documents.archive({"x": "y"}))
