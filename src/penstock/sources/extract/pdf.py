"""PDF to text, one page after the other."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from penstock.errors import BadRecordError
from penstock.sources.extract.base import Extracted, Limits, MetadataValue
from penstock.sources.extract.sniff import Kind

if TYPE_CHECKING:
    from pypdf import PdfReader


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
    if count and not any(page.strip() for page in pages):
        if unreadable:
            raise BadRecordError(f"expected text, found {count} pages that cannot be read")
        msg = f"expected text, found {count} pages without any: scanned images need OCR first"
        raise BadRecordError(msg)
    facts: dict[str, MetadataValue] = {"pages": count}
    if unreadable:
        facts["unreadable_pages"] = unreadable
    title = _describe(reader, facts)
    return Extracted("\f".join(pages), title, Kind.PDF.value, facts)


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
