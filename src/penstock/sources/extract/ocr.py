"""Text on images and scanned pages, recognised by models that come in the package (extra ``ocr``);
nothing is downloaded."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from penstock.errors import BadRecordError, MissingExtraError
from penstock.sources.extract.base import Extracted, Limits, NeedsOcrError

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE: Final = 2000
"""Larger pictures are made smaller: the models see no more of them."""
_SURE: Final = 0.5
_FORMATS: Final = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")


def extract_image(data: bytes, limits: Limits) -> Extracted:
    """The text of each frame (a TIFF may have many), separated by a form feed."""
    if not limits.ocr:
        raise NeedsOcrError
    _engine()
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # our own limit says more
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            pages = [recognised(frame) for frame in _frames(image, limits)]
            media_type = f"image/{(image.format or '').lower()}"
    except UnidentifiedImageError as error:
        raise BadRecordError("expected an image, found a broken or an unknown one") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise BadRecordError(f"expected an image, found a broken one: {error}") from error
    return Extracted("\f".join(pages), None, media_type, {"pages": len(pages), "ocr": True})


def _frames(image: Image, limits: Limits) -> Iterator[Image]:
    count = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if count > limits.ocr_pages:
        msg = f"expected at most {limits.ocr_pages:,} pages to recognise, found {count:,}: split it"
        raise BadRecordError(msg)
    for number in range(count):
        if number:
            image.seek(number)
        check_size(image.width, image.height, limits)
        image.draft("RGB", (_SIDE, _SIDE))
        yield image.convert("RGB")


def check_size(width: int, height: int, limits: Limits) -> None:
    """Refuse an image by what its head says, before it is unpacked."""
    if width * height > limits.pixels:
        msg = f"expected an image of at most {limits.pixels:,} pixels, found {width:,} x {height:,}"
        raise BadRecordError(msg)


def pdf_pages(data: bytes, numbers: Sequence[int], limits: Limits) -> dict[int, str]:
    """The text on these pages of a PDF (counted from 0), drawn and recognised."""
    _engine()
    if len(numbers) > limits.ocr_pages:
        msg = (
            f"expected at most {limits.ocr_pages:,} scanned pages, found {len(numbers):,}: split it"
        )
        raise BadRecordError(msg)
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
        found: dict[int, str] = {}
        for number in numbers:
            page = document[number]
            side = max(page.get_width(), page.get_height(), 1.0)
            bitmap = page.render(scale=min(_SIDE / side, 4.0))
            found[number] = recognised(bitmap.to_pil())
            bitmap.close()
            page.close()
        document.close()
    except pypdfium2.PdfiumError as error:
        raise BadRecordError(f"expected scanned pages, found a broken PDF: {error}") from error
    return found


@lru_cache(maxsize=1)
def _engine() -> Any:
    try:
        import pypdfium2  # noqa: F401 - missing is missing, whatever is read first
        from rapidocr import RapidOCR
    except ImportError as error:
        raise MissingExtraError("reading images and scanned pages", "ocr") from error
    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


def recognised(image: Image) -> str:
    """The text on a picture, line by line."""
    import numpy as np

    image.thumbnail((_SIDE, _SIDE))
    result = _engine()(np.asarray(image.convert("RGB")))
    if result.txts is None or result.boxes is None:
        return ""
    found = zip(result.boxes.tolist(), result.txts, result.scores, strict=True)
    return arranged([(box, text) for box, text, score in found if score >= _SURE])


def arranged(boxes: Sequence[tuple[Sequence[Sequence[float]], str]]) -> str:
    """Boxes with text in lines, left to right; a gap as high as a line ends a paragraph."""
    lines: list[tuple[float, float, list[tuple[float, str]]]] = []
    placed = sorted(
        (min(y for _, y in box), max(y for _, y in box), min(x for x, _ in box), text)
        for box, text in boxes
    )
    for top, bottom, left, text in placed:
        if lines and (top + bottom) / 2 < lines[-1][1] and top < lines[-1][1]:
            lines[-1][2].append((left, text))
        else:
            lines.append((top, bottom, [(left, text)]))
    out: list[str] = []
    for index, (top, bottom, words) in enumerate(lines):
        if index:
            gap = top - lines[index - 1][1]
            out.append("\n\n" if gap > (bottom - top) else "\n")
        out.append(" ".join(text for _, text in sorted(words)))
    return "".join(out)
