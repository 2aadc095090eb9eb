"""Documents of every format cut and damaged at random places, for minutes."""

from __future__ import annotations

import io
import random

import fastavro
import polars as pl
import psutil
import pytest
import xlwt
from PIL import Image, ImageDraw, ImageFont

from penstock.errors import BadRecordError
from penstock.sources.extract import ChildExtractor, Limits
from penstock.testing import documents, office

TRIES = 40
GROWTH = 64 << 20
GOOD = documents.pdf(["a good page"])


def formats() -> dict[str, bytes]:
    book, sheet = io.BytesIO(), xlwt.Workbook()
    sheet.add_sheet("a").write(0, 0, "text")
    sheet.save(book)
    parquet, avro, image = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pl.DataFrame({"a": ["x"] * 100}).write_parquet(parquet)
    schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "string"}]}
    fastavro.writer(avro, schema, [{"a": "x"}] * 100)
    picture = Image.new("RGB", (300, 80), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((10, 10), "text", font=ImageFont.load_default(30), fill="black")
    picture.save(image, "PNG")
    table = [[f"{n}", "text"] for n in range(50)]
    return {
        "a.pdf": documents.pdf(["one", "two"], compress=True),
        "a.docx": documents.docx(documents.paragraph("x" * 500), documents.table(table)),
        "a.pptx": office.pptx([("Title", "text")] * 5),
        "a.xlsx": office.xlsx({"a": table}),
        "a.epub": office.epub(["<h1>x</h1>text"] * 5),
        "a.odt": office.opendocument("text", "<text:p>x</text:p>" * 50),
        "a.eml": office.mail("text", attachments={"a.docx": documents.docx("x"), "b.csv": "a,b"}),
        "a.rtf": b"{\\rtf1\\ansi " + b"{\\b text}\\par " * 50 + b"}",
        "a.svg": b"<svg>" + b"<text>x</text>" * 50 + b"</svg>",
        "a.html": b"<table><tr><td>x</table><p>text" * 50,
        "a.jsonl": b'{"a": "x"}\n' * 50,
        "a.csv": b'a,"b"\n1,2\n' * 50,
        "a.xls": book.getvalue(),
        "a.parquet": parquet.getvalue(),
        "a.avro": avro.getvalue(),
        "a.png": image.getvalue(),
    }


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Cut off, holed, overwritten or doubled somewhere."""
    at = chance.randrange(len(data))
    how = chance.randrange(4)
    if how == 0:
        return data[:at]
    if how == 1:
        return data[:at] + data[at + chance.randrange(1, 64) :]
    if how == 2:
        return data[:at] + chance.randbytes(chance.randrange(1, 16)) + data[at + 8 :]
    return data[:at] + data[at // 2 :]


async def text_or_reason(extractor: ChildExtractor, name: str, data: bytes) -> str:
    try:
        return f"expected: {(await extractor.extract(name, data)).text}"
    except BadRecordError as error:
        return error.reason


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", list(formats()))
async def test_g13_damaged_documents_end_with_text_or_a_sentence(name: str) -> None:
    """Never with a traceback, never with a parent that grows; the good one after it is read."""
    extractor = ChildExtractor(Limits(wall_s=30.0), children=1)
    chance = random.Random(name)
    data = formats()[name]
    await extractor.extract("good.pdf", GOOD)
    before = psutil.Process().memory_info().rss
    for number in range(TRIES):
        said = await text_or_reason(extractor, name, damaged(data, chance))
        assert said.startswith("expected"), (name, number, said)
        assert "\0" not in said
        assert (await extractor.extract("good.pdf", GOOD)).text == "a good page"
    assert psutil.Process().memory_info().rss - before < GROWTH
    await extractor.close()
