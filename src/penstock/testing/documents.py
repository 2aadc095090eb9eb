"""Small documents made by code, good and bad, for tests of extraction."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

_W: Final = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_TYPES: Final = (
    '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/'
    'content-types"><Default Extension="xml" ContentType="application/xml"/></Types>'
)
STYLES: Final = (
    f'<w:styles xmlns:w="{_W}">'
    '<w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>'
    '<w:style w:styleId="berschrift2"><w:name w:val="heading 2"/></w:style></w:styles>'
)


def pdf(pages: Sequence[str], *, title: str | None = None, compress: bool = False) -> bytes:
    """A PDF with one line of text on each page (an empty text: an empty page)."""
    streams = [
        f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode("latin-1") if text else b""
        for text in pages
    ]
    return pdf_of_streams(
        [zlib.compress(stream) if compress else stream for stream in streams],
        filters="/Filter /FlateDecode " if compress else "",
        title=title,
    )


def pdf_of_streams(
    streams: Sequence[bytes], *, filters: str = "", title: str | None = None
) -> bytes:
    """A PDF whose pages draw these content streams as they are."""
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(streams)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(streams)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for index, stream in enumerate(streams):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * index} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        head = f"<< {filters}/Length {len(stream)} >>\nstream\n".encode()
        objects.append(head + stream + b"\nendstream")
    info = ""
    if title is not None:
        objects.append(f"<< /Title ({title}) >>".encode("latin-1"))
        info = f" /Info {len(objects)} 0 R"
    return _assemble(objects, info)


def _assemble(objects: Sequence[bytes], info: str) -> bytes:
    out = io.BytesIO()
    out.write(b"%PDF-1.4\n")
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%b\nendobj\n" % (number, content))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.writelines(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    out.write(f"trailer << /Size {size} /Root 1 0 R{info} >>\nstartxref\n{start}\n%%EOF".encode())
    return out.getvalue()


def paragraph(text: str, *, style: str = "", level: int | None = None) -> str:
    """A paragraph of a Word document; ``level`` makes it an item of a list."""
    properties = f'<w:pStyle w:val="{style}"/>' if style else ""
    if level is not None:
        properties += f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="1"/></w:numPr>'
    content = f'<w:r><w:t xml:space="preserve">{escape(text)}</w:t></w:r>'
    return f"<w:p><w:pPr>{properties}</w:pPr>{content}</w:p>"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table of a Word document."""
    cells = ("".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row) for row in rows)
    return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in cells)}</w:tbl>"


def docx(*blocks: str, parts: Mapping[str, bytes | str] | None = None, head: str = "") -> bytes:
    """A Word document of these blocks; ``parts`` add to the archive or replace what is there;
    ``head`` stands before the root of its XML."""
    body = f'{head}<w:document xmlns:w="{_W}"><w:body>{"".join(blocks)}</w:body></w:document>'
    content: dict[str, bytes | str] = {
        "[Content_Types].xml": _TYPES,
        "word/styles.xml": STYLES,
        "word/document.xml": body,
    }
    return archive(content | dict(parts or {}))


def archive(parts: Mapping[str, bytes | str]) -> bytes:
    """A zip archive, packed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    return out.getvalue()
