"""Small presentations, workbooks, books and mails made by code, for tests of extraction. Parts can
be replaced, so that hostile ones are made of good ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from penstock.testing.documents import archive

_RELATION: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_DRAWING: Final = "http://schemas.openxmlformats.org/drawingml/2006/main"
_SLIDES: Final = "http://schemas.openxmlformats.org/presentationml/2006/main"
_SHEETS: Final = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
Parts = Mapping[str, bytes | str]


def _relations(kind: str, targets: Sequence[str]) -> str:
    inner = "".join(
        f'<Relationship Id="r{number}" Type="{_RELATION}/{kind}" Target="{target}"/>'
        for number, target in enumerate(targets, 1)
    )
    return f"<Relationships>{inner}</Relationships>"


def pptx(slides: Sequence[tuple[str, str]], *, parts: Parts | None = None) -> bytes:
    """A presentation of slides with a title and a text."""
    made: dict[str, bytes | str] = {
        "ppt/presentation.xml": f'<p:presentation xmlns:p="{_SLIDES}" xmlns:r="{_RELATION}">'
        "<p:sldIdLst>"
        + "".join(f'<p:sldId id="{n}" r:id="r{n}"/>' for n in range(1, len(slides) + 1))
        + "</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": _relations(
            "slide", [f"slides/slide{n}.xml" for n in range(1, len(slides) + 1)]
        ),
    }
    for number, (title, text) in enumerate(slides, 1):
        shapes = "".join(
            f'<p:sp><p:nvSpPr><p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr><p:txBody><a:p><a:r>'
            f"<a:t>{escape(words)}</a:t></a:r></a:p></p:txBody></p:sp>"
            for kind, words in (("title", title), ("body", text))
        )
        made[f"ppt/slides/slide{number}.xml"] = (
            f'<p:sld xmlns:p="{_SLIDES}" xmlns:a="{_DRAWING}">{shapes}</p:sld>'
        )
    return archive(made | dict(parts or {}))


def xlsx(sheets: Mapping[str, Sequence[Sequence[str]]], *, parts: Parts | None = None) -> bytes:
    """A workbook of sheets with texts in their cells."""
    names = "".join(
        f'<sheet name={quoteattr(name)} sheetId="{n}" r:id="r{n}"/>'
        for n, name in enumerate(sheets, 1)
    )
    made: dict[str, bytes | str] = {
        "xl/workbook.xml": f'<workbook xmlns="{_SHEETS}" xmlns:r="{_RELATION}">'
        f"<sheets>{names}</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": _relations(
            "worksheet", [f"worksheets/sheet{n}.xml" for n in range(1, len(sheets) + 1)]
        ),
    }
    for number, rows in enumerate(sheets.values(), 1):
        cells = (
            "".join(f'<c t="inlineStr"><is><t>{escape(cell)}</t></is></c>' for cell in row)
            for row in rows
        )
        data = "".join(f"<row>{row}</row>" for row in cells)
        made[f"xl/worksheets/sheet{number}.xml"] = (
            f'<worksheet xmlns="{_SHEETS}"><sheetData>{data}</sheetData></worksheet>'
        )
    return archive(made | dict(parts or {}))


def epub(chapters: Sequence[str], *, title: str = "A book", parts: Parts | None = None) -> bytes:
    """A book of chapters in HTML."""
    items = "".join(
        f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>'
        for n in range(1, len(chapters) + 1)
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(1, len(chapters) + 1))
    made: dict[str, bytes | str] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<container><rootfiles><rootfile full-path="b/book.opf"/>'
        "</rootfiles></container>",
        "b/book.opf": '<package xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>'
        f"{escape(title)}</dc:title></metadata><manifest>{items}</manifest><spine>{spine}</spine>"
        "</package>",
    }
    for number, chapter in enumerate(chapters, 1):
        made[f"b/c{number}.xhtml"] = f"<html><body>{chapter}</body></html>"
    return archive(made | dict(parts or {}))


def opendocument(kind: str, body: str, *, parts: Parts | None = None, head: str = "") -> bytes:
    """An OpenDocument file: ``kind`` is text, spreadsheet or presentation."""
    names = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for name in ("office", "text", "table", "draw")
    )
    made: dict[str, bytes | str] = {
        "mimetype": f"application/vnd.oasis.opendocument.{kind}",
        "content.xml": f"{head}<office:document-content {names}><office:body>{body}</office:body>"
        "</office:document-content>",
    }
    return archive(made | dict(parts or {}))


def mail(text: str, *, subject: str = "A mail", attachments: Parts | None = None) -> bytes:
    """A mail with attachments by name."""
    made = EmailMessage()
    made["From"] = "Ann <ann@example.org>"
    made["To"] = "bob@example.org"
    made["Subject"] = subject
    made.set_content(text)
    for name, content in (attachments or {}).items():
        data = content.encode() if isinstance(content, str) else content
        made.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    return made.as_bytes()
