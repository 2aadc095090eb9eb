"""Documents made to break what reads them: each ends with a sentence, in a child, and others go
on. The memory of the parent stays as it was."""

from __future__ import annotations

import io
import random
import struct
import time
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable

import psutil
import pytest
from pypdf import PdfReader, PdfWriter
from pypdf.generic import DictionaryObject, NameObject

from penstock.errors import BadRecordError
from penstock.sources.extract import ChildExtractor, Limits
from penstock.testing import documents, office

GOOD = documents.pdf(["a good page"])
PARENT_GROWTH = 64 << 20
XXE = '<!DOCTYPE x [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + "]>"
)
SLIDE = "ppt/slides/slide1.xml"
SHEET = "xl/worksheets/sheet1.xml"
ONE = [("Title", "text")]


def png(width: int, height: int) -> bytes:
    """An image that claims to be large, of a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))
        )

    head = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000), 9)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def outline_loop() -> bytes:
    """Two items of an outline that follow each other for ever."""
    writer = PdfWriter(PdfReader(io.BytesIO(GOOD)))
    first = writer.add_outline_item(title="one", page_number=0)
    second = writer.add_outline_item(title="two", page_number=0)
    item = second.get_object()
    assert isinstance(item, DictionaryObject)
    item[NameObject("/Next")] = first
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def mail_of(count: int) -> bytes:
    return office.mail("x", attachments={f"{n}.txt": "an attachment" for n in range(count)})


def nested_mails(depth: int) -> bytes:
    inner = b"Subject: deep\n\nbottom"
    for _ in range(depth):
        inner = b"Subject: outer\nContent-Type: message/rfc822\n\n" + inner
    return inner


def nested_multiparts(depth: int) -> bytes:
    lines = [b"Subject: deep"]
    for number in range(depth):
        boundary = b"b%d" % number
        lines.append(b"Content-Type: multipart/mixed; boundary=%b\n\n--%b" % (boundary, boundary))
    return b"\n".join([*lines, b"\n\nbottom"])


def encrypted(data: bytes) -> bytes:
    """The same archive with every part marked as encrypted."""
    changed = bytearray(data)
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = changed.find(mark)
        while at >= 0:
            changed[at + flags] |= 1
            at = changed.find(mark, at + 4)
    return bytes(changed)


def zeros_in_zeros() -> bytes:
    """A part that unpacks to 300 MB and claims a few bytes."""
    data = bytearray(office.pptx(ONE, parts={SLIDE: b" " * 300_000_000}))
    for mark, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.find(mark)
        while at >= 0:
            if struct.unpack_from("<I", data, at + place)[0] == 300_000_000:
                struct.pack_into("<I", data, at + place, 100)
            at = data.find(mark, at + 4)
    return bytes(data)


REFUSED: dict[str, Callable[[], bytes]] = {
    "bomb.pptx": lambda: office.pptx(ONE, parts={SLIDE: b" " * 100_000_000}),
    "liar.pptx": zeros_in_zeros,
    "bomb.xlsx": lambda: office.xlsx({"a": []}, parts={"xl/sharedStrings.xml": b" " * 90_000_000}),
    "many.xlsx": lambda: office.xlsx(
        {f"s{n}": [] for n in range(300)},
        parts={f"xl/worksheets/sheet{n}.xml": b"<a/>" + b" " * 990_000 for n in range(300)},
    ),
    "bomb.epub": lambda: office.epub([], parts={"b/book.opf": b" " * 90_000_000}),
    "bomb.odt": lambda: office.opendocument("text", "", parts={"content.xml": b" " * 90_000_000}),
    "entries.xlsx": lambda: b"PK\x03\x04" + b"PK\x01\x02" * 100_000,
    "xxe.docx": lambda: documents.docx("<w:p><w:r><w:t>&x;</w:t></w:r></w:p>", head=XXE),
    "xxe.pptx": lambda: office.pptx(ONE, parts={SLIDE: f"{XXE}<s><t>&x;</t></s>"}),
    "xxe.xlsx": lambda: office.xlsx({"a": []}, parts={SHEET: f"{XXE}<s><c><v>&x;</v></c></s>"}),
    "xxe.epub": lambda: office.epub(["x"], parts={"b/book.opf": f"{XXE}<package>&x;</package>"}),
    "xxe.odt": lambda: office.opendocument("text", "<text:p>&x;</text:p>", head=XXE),
    "xxe.svg": f"{XXE}<svg><text>&x;</text></svg>".encode,
    "laughs.docx": lambda: documents.docx("<w:p><w:r><w:t>&j;</w:t></w:r></w:p>", head=LAUGHS),
    "laughs.pptx": lambda: office.pptx(ONE, parts={SLIDE: f"{LAUGHS}<s><t>&j;</t></s>"}),
    "laughs.xlsx": lambda: office.xlsx({"a": []}, parts={SHEET: f"{LAUGHS}<s><v>&j;</v></s>"}),
    "laughs.epub": lambda: office.epub(["x"], parts={"b/book.opf": f"{LAUGHS}<p>&j;</p>"}),
    "laughs.odt": lambda: office.opendocument("text", "<text:p>&j;</text:p>", head=LAUGHS),
    "laughs.svg": f"{LAUGHS}<svg><text>&j;</text></svg>".encode,
    "locked.docx": lambda: encrypted(documents.docx("x")),
    "locked.pptx": lambda: encrypted(office.pptx(ONE)),
    "locked.xlsx": lambda: encrypted(office.xlsx({"a": [["x"]]})),
    "locked-by-office.xlsx": lambda: (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + "EncryptedPackage".encode("utf-16-le")
    ),
    "huge.png": lambda: png(60_000, 60_000),
    "claims.png": lambda: png(9_000, 9_000),
    "noise.tiff": lambda: b"II*\x00" + random.Random(1).randbytes(10_000),
    "nested.eml": lambda: nested_multiparts(1000),
    "deep-mails.eml": lambda: nested_mails(1000),
    "parts.eml": lambda: mail_of(1001),
    "groups.rtf": lambda: b"{\\rtf1" + b"{" * 1_000_000,
    "bin.rtf": lambda: rb"{\rtf1 \bin999999999 x}",
    "noise.doc": lambda: (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
        + random.Random(2).randbytes(20_000)
        + "WordDocument".encode("utf-16-le")
    ),
    "noise.avro": lambda: b"Obj\x01" + random.Random(3).randbytes(10_000),
    "wide.xlsx": lambda: office.xlsx(
        {"a": []}, parts={SHEET: '<s><row><c r="ZZZZ1"><v>1</v></c></row></s>'}
    ),
    "text.pptx": lambda: b"just text",
    "slides.png": lambda: b"GARBAGE" + office.pptx(ONE),
}
ENDED: dict[str, Callable[[], bytes]] = {
    "outline.pdf": outline_loop,
    "tags.pptx": lambda: office.pptx(ONE, parts={SLIDE: "<a>" * 300_000}),
    "tags.xlsx": lambda: office.xlsx({"a": []}, parts={SHEET: "<row><c>" * 120_000}),
    "tags.epub": lambda: office.epub(["<div>" * 200_000]),
    "tags.odt": lambda: office.opendocument("text", "<text:list>" * 90_000),
    "tags.svg": lambda: b"<svg>" + b"<text>" * 1_000_000,
    "repeated.ods": lambda: office.opendocument(
        "spreadsheet",
        '<table:table><table:table-row><table:table-cell table:number-columns-repeated="99999999">'
        "<text:p>x</text:p></table:table-cell></table:table-row></table:table>",
    ),
    "words.rtf": lambda: b"{\\rtf1 " + b"\\u-99999 " * 100_000 + b"}",
    "quine.eml": lambda: office.mail("x", attachments={"a.eml": nested_mails(50)}),
    "attachments.eml": lambda: mail_of(900),
    "bomb-inside.eml": lambda: office.mail(
        "x", attachments={"bomb.pptx": office.pptx(ONE, parts={SLIDE: b" " * 100_000_000})}
    ),
    "missing.pptx": lambda: office.pptx([], parts={"ppt/_rels/presentation.xml.rels": ""}),
    "strings.xlsx": lambda: office.xlsx(
        {"a": []}, parts={SHEET: '<s><row r="99999999999"><c t="s"><v>9e9</v></c></row></s>'}
    ),
    "paths.epub": lambda: office.epub(
        [], parts={"META-INF/container.xml": '<c><rootfile full-path="../../etc/passwd"/></c>'}
    ),
}


@pytest.fixture
async def extractor() -> AsyncIterator[ChildExtractor]:
    extractor = ChildExtractor(Limits(wall_s=30.0), children=1)
    yield extractor
    await extractor.close()


async def said(extractor: ChildExtractor, name: str, data: bytes) -> str | BadRecordError:
    """The text, or why there is none; afterwards a good document is read."""
    try:
        found: str | BadRecordError = (await extractor.extract(name, data)).text
    except BadRecordError as error:
        found = error
    assert (await extractor.extract("good.pdf", GOOD)).text == "a good page", name
    return found


@pytest.mark.package("rapidocr")
@pytest.mark.timeout(300)
async def test_g13_bombs_and_traps_are_refused_with_a_sentence(extractor: ChildExtractor) -> None:
    """None is read, takes long, costs the parent memory, or has a secret in its answer."""
    process = psutil.Process()
    for name, make in REFUSED.items():
        data = make()
        before, began = process.memory_info().rss, time.monotonic()
        found = await said(extractor, name, data)
        assert isinstance(found, BadRecordError), (name, found[:200])
        assert "expected" in found.reason, name
        assert "parser failed" not in found.reason, (name, found.reason)
        assert "root:" not in found.reason, name
        assert time.monotonic() - began < 40, name
        assert process.memory_info().rss - before < PARENT_GROWTH, name


@pytest.mark.timeout(300)
async def test_g13_what_never_ends_is_read_or_refused(extractor: ChildExtractor) -> None:
    """A million tags, an outline that leads back to itself, cells repeated for ever."""
    process = psutil.Process()
    for name, make in ENDED.items():
        data = make()
        before, began = process.memory_info().rss, time.monotonic()
        found = await said(extractor, name, data)
        if isinstance(found, BadRecordError):
            assert found.reason.startswith("expected"), name
        else:
            assert len(found) < 5_000_000, name
        assert time.monotonic() - began < 40, name
        assert process.memory_info().rss - before < PARENT_GROWTH, name


async def test_attachments_break_alone(extractor: ChildExtractor) -> None:
    """A bomb in a mail is a sentence in its section; the mail and the next attachment are read."""
    bomb = documents.archive({"word/document.xml": b" " * 90_000_000})
    data = office.mail("the body", attachments={"a.docx": bomb, "b.txt": "the second"})
    found = await extractor.extract("a.eml", data)
    body, first, second = found.text.split("\f")
    assert body.endswith("the body")
    assert "a zip bomb?" in first
    assert second.endswith("the second")
    assert found.metadata["unreadable_attachments"] == ["a.docx"]


async def test_a_part_that_lies_about_its_size(extractor: ChildExtractor) -> None:
    """The claim in the head of a zip part is not what limits its unpacking."""
    with zipfile.ZipFile(io.BytesIO(zeros_in_zeros())) as archive:
        assert archive.getinfo(SLIDE).file_size == 100
    found = await said(extractor, "a.pptx", zeros_in_zeros())
    assert isinstance(found, BadRecordError)
