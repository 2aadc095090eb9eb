"""Office files from before 2007 and Outlook's messages: binary formats, read by kreuzberg."""

from __future__ import annotations

from typing import Final

from penstock.errors import BadRecordError, MissingExtraError
from penstock.sources.extract.base import Extracted, Limits
from penstock.sources.extract.sniff import Kind

_ENCRYPTED: Final = "EncryptedPackage"
_STREAMS: Final = (
    ("WordDocument", "application/msword"),
    ("Workbook", "application/vnd.ms-excel"),
    ("PowerPoint Document", "application/vnd.ms-powerpoint"),
    ("__substg1.0_", "application/vnd.ms-outlook"),
)


def extract_legacy(data: bytes, limits: Limits) -> Extracted:
    """Plain text; kreuzberg keeps no headings of these and no numbers of pages."""
    if _ENCRYPTED.encode("utf-16-le") in data:
        raise BadRecordError("expected a document without a password, found an encrypted one")
    found = (kind for name, kind in _STREAMS if name.encode("utf-16-le") in data)
    media_type = next(found, None)
    if media_type is None:
        raise BadRecordError("expected a document, found an old Office file of an unknown kind")
    try:
        import kreuzberg
    except ImportError as error:
        raise MissingExtraError(
            "reading old Office files (.doc, .xls, .ppt, .msg)", "documents"
        ) from error
    try:
        result = kreuzberg.extract_bytes_sync(
            data, media_type, config=kreuzberg.ExtractionConfig(use_cache=False)
        )
    except kreuzberg.KreuzbergError as error:
        reason = " ".join(str(error).split())[:300]
        raise BadRecordError(
            f"expected an old Office file, found a broken one: {reason}"
        ) from error
    if len(result.content) > limits.output_bytes:
        msg = f"expected at most {limits.output_bytes:,} characters of text: split the file"
        raise BadRecordError(msg)
    return Extracted(result.content.strip(), None, Kind.OLE.value, {"format": media_type})
