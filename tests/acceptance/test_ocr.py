"""Images and scanned pages become text in the child process, or say why not."""

from __future__ import annotations

import io
import sys
from collections.abc import AsyncIterator

import pytest
from PIL import Image, ImageDraw, ImageFont

from penstock.errors import BadRecordError, MissingExtraError
from penstock.sources.extract import ChildExtractor, Limits
from penstock.sources.extract.base import NeedsOcrError
from penstock.sources.extract.child import parse
from penstock.sources.extract.ocr import arranged
from penstock.testing import documents

pytestmark = pytest.mark.package("rapidocr")


def picture(*lines: str) -> Image.Image:
    image = Image.new("RGB", (900, 120 + 90 * len(lines)), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((60, 60 + 90 * number), line, font=ImageFont.load_default(36), fill="black")
    return image


def encoded(image: Image.Image, kind: str, *more: Image.Image) -> bytes:
    out = io.BytesIO()
    options = {"save_all": True, "append_images": list(more)} if more else {}
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture
async def extractor() -> AsyncIterator[ChildExtractor]:
    extractor = ChildExtractor(children=1)
    yield extractor
    await extractor.close()


@pytest.mark.timeout(300)
async def test_images_and_scanned_pages_become_text(extractor: ChildExtractor) -> None:
    """PNG, JPEG, a TIFF of two pages, and a PDF of a page with text and a scanned one."""
    image = picture("Zeppelin tickets", "nine euros")
    for kind in ("PNG", "JPEG"):
        found = await extractor.extract(f"a.{kind.lower()}", encoded(image, kind))
        assert "Zeppelin tickets" in found.text
        assert found.media_type == f"image/{kind.lower()}"
    pages = encoded(image, "TIFF", picture("Submarine ferry"))
    found = await extractor.extract("a.tiff", pages)
    assert "Submarine ferry" in found.text.split("\f")[1]
    assert found.metadata["pages"] == 2
    found = await extractor.extract("a.pdf", mixed())
    first, second = found.text.split("\f")
    assert first == "Written page"
    assert "Zeppelin" in second
    assert found.metadata["ocr"] is True
    assert str(found.metadata["places"]).startswith("page ")


def mixed() -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(PdfReader(io.BytesIO(documents.pdf(["Written page"]))))
    scan = encoded(picture("Zeppelin tickets", "nine euros"), "PDF")
    writer.append(io.BytesIO(scan))
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_without_the_extra_nothing_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan says which extra it needs; a page among others is named in the metadata."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    scan = encoded(picture("Zeppelin"), "PDF")
    with pytest.raises(MissingExtraError, match=r"1 scanned pages without text needs .*\[ocr]"):
        parse("a.pdf", scan, Limits())
    found = parse("a.pdf", mixed(), Limits())
    assert found.metadata["scanned_pages_without_text"] == ["2"]
    from penstock.sources.extract import ocr

    ocr._engine.cache_clear()
    with pytest.raises(MissingExtraError, match=r"needs .*\[ocr]"):
        parse("a.png", encoded(picture("Zeppelin"), "PNG"), Limits(ocr=True))


def test_recognition_is_asked_for_first() -> None:
    """So that its own limits hold."""
    with pytest.raises(NeedsOcrError):
        parse("a.png", encoded(picture("x"), "PNG"), Limits())
    with pytest.raises(NeedsOcrError):
        parse("a.pdf", mixed(), Limits())


@pytest.mark.timeout(120)
async def test_recognition_has_its_own_limit() -> None:
    """By the clock, whatever other documents may take."""
    extractor = ChildExtractor(Limits(ocr_s=0.01))
    with pytest.raises(BadRecordError, match=r"read in 0\.01 s, took longer"):
        await extractor.extract("a.png", encoded(picture("x"), "PNG"))
    assert (await extractor.extract("a.pdf", documents.pdf(["good"]))).text == "good"
    await extractor.close()


def test_lines_from_boxes() -> None:
    """Boxes side by side are one line; a gap as high as a line ends a paragraph."""

    def box(x: float, y: float) -> list[list[float]]:
        return [[x, y], [x + 50, y], [x + 50, y + 10], [x, y + 10]]

    text = arranged([(box(100, 1), "b"), (box(0, 0), "a"), (box(0, 14), "c"), (box(0, 60), "d")])
    assert text == "a b\nc\n\nd"
