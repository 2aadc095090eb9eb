"""PDF to text, one page after the other."""

from __future__ import annotations

import importlib.util
import io
from typing import TYPE_CHECKING, Final

from penstock.errors import BadRecordError, MissingExtraError
from penstock.sources.extract.base import Extracted, Limits, MetadataValue, NeedsOcrError
from penstock.sources.extract.sniff import Kind

if TYPE_CHECKING:
    from pypdf import PdfReader

_MOST_NAMED: Final = 1000


def extract_pdf(data: bytes, limits: Limits) -> Extracted:
    """The text layer; pages are separated by a form feed."""
    import pypdf
    from pypdf.errors import PyPdfError

    try:
        reader = pypdf.PdfReader(io.BytesIO(data), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise BadRecordError("expected a PDF without a password, found an encrypted one")
        count = len(reader.pages)
    except PyPdfError as error:
        raise BadRecordError(f"expected a PDF, found a broken one: {error}") from error
    except NotImplementedError as error:
        raise BadRecordError(f"expected a readable PDF, found one that needs: {error}") from error
    if count > limits.pages:
        raise BadRecordError(f"expected at most {limits.pages:,} pages, found {count:,}: split it")
    pages, unreadable = _pages(reader, count, limits)
    scanned = _recognise(data, reader, pages, unreadable, limits)
    _check(pages, unreadable, scanned)
    facts: dict[str, MetadataValue] = {"pages": count}
    if unreadable:
        facts["unreadable_pages"] = unreadable
    silent = [str(number + 1) for number in scanned if not pages[number].strip()]
    if silent:
        facts["scanned_pages_without_text"] = silent[:_MOST_NAMED]
    if len(silent) < len(scanned):
        facts["ocr"] = True
    title = _describe(reader, facts)
    return Extracted("\f".join(pages), title, Kind.PDF.value, facts)


def _recognise(
    data: bytes, reader: PdfReader, pages: list[str], unreadable: list[str], limits: Limits
) -> list[int]:
    """Fill pages that are images of text where the extra is there; which these are."""
    scanned = [
        number
        for number, page in enumerate(pages)
        if not page.strip() and str(number + 1) not in unreadable and _has_image(reader, number)
    ]
    if scanned and importlib.util.find_spec("rapidocr") is not None:
        if not limits.ocr:
            raise NeedsOcrError
        from penstock.sources.extract.ocr import pdf_pages

        for number, text in pdf_pages(data, scanned, limits).items():
            pages[number] = text
    return scanned


def _check(pages: list[str], unreadable: list[str], scanned: list[int]) -> None:
    """A document without any text is none; the reason says what to do."""
    if not pages or any(page.strip() for page in pages):
        return
    count = len(pages)
    if unreadable:
        raise BadRecordError(f"expected text, found {count} pages that cannot be read")
    if scanned and importlib.util.find_spec("rapidocr") is None:
        raise MissingExtraError(f"reading {count} scanned pages without text", "ocr")
    what = "images on which no text was recognised" if scanned else "no images either"
    raise BadRecordError(f"expected text, found {count} pages without any: {what}")


def _has_image(reader: PdfReader, number: int) -> bool:
    """Does the page draw images? Read from its resources, nothing is unpacked."""
    try:
        resources = reader.pages[number].get("/Resources")
        found = resources.get_object().get("/XObject") if resources is not None else None
        return bool(found.get_object()) if found is not None else False
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001 - a parser of hostile input raises anything
        return False


def _pages(reader: PdfReader, count: int, limits: Limits) -> tuple[list[str], list[str]]:
    pages: list[str] = []
    unreadable: list[str] = []
    size = 0
    for number in range(count):
        try:
            text = reader.pages[number].extract_text()
        except (MemoryError, RecursionError):
            raise
        except Exception:  # noqa: BLE001 - a parser of hostile input raises anything; page by page
            unreadable.append(str(number + 1))
            text = ""
        size += len(text)
        if size > limits.output_bytes:
            msg = f"expected at most {limits.output_bytes:,} characters of text: split the file"
            raise BadRecordError(msg)
        pages.append(text.replace("\f", " ").rstrip())
    return pages, unreadable


def _describe(reader: PdfReader, facts: dict[str, MetadataValue]) -> str | None:
    try:
        found = reader.metadata
        if found is None:
            return None
        for name in ("author", "subject"):
            value = getattr(found, name)
            if isinstance(value, str) and value.strip():
                facts[name] = value.strip()[:1000]
        title = found.title
    except Exception:  # noqa: BLE001 - the text is good even where the description is broken
        return None
    return title.strip()[:1000] or None if isinstance(title, str) else None
