"""What a file is: its first bytes decide, its name fills in."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from penstock.errors import BadRecordError


class Kind(StrEnum):
    """The kinds of documents that can be read, by media type."""

    TEXT = "text/plain"
    MARKDOWN = "text/markdown"
    RST = "text/x-rst"
    HTML = "text/html"
    PDF = "application/pdf"
    DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    CSV = "text/csv"
    TSV = "text/tab-separated-values"
    JSON = "application/json"
    JSONL = "application/x-ndjson"
    PARQUET = "application/vnd.apache.parquet"
    AVRO = "application/avro"
    PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
    XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    ODT = "application/vnd.oasis.opendocument.text"
    ODS = "application/vnd.oasis.opendocument.spreadsheet"
    ODP = "application/vnd.oasis.opendocument.presentation"
    EPUB = "application/epub+zip"
    MAIL = "message/rfc822"
    RTF = "application/rtf"
    SVG = "image/svg+xml"
    OLE = "application/x-ole-storage"
    IMAGE = "image/*"


PLAIN: Final = frozenset({Kind.TEXT, Kind.MARKDOWN, Kind.RST})

IMAGES: Final = frozenset({"png", "jpg", "jpeg", "tif", "tiff", "bmp", "webp"})
"""Names of images that may hold text: read where the project asks for it."""
ARCHIVES: Final = frozenset(
    {Kind.DOCX, Kind.PPTX, Kind.XLSX, Kind.ODT, Kind.ODS, Kind.ODP, Kind.EPUB}
)

EXTRAS: Final = {
    "parquet": "polars",
    "avro": "fastavro",
    "documents": "kreuzberg",
    "ocr": "rapidocr",
}
"""The module by which it is seen that an extra is installed."""
_EXTRA_OF: Final = {
    Kind.PARQUET: "parquet",
    Kind.AVRO: "avro",
    Kind.OLE: "documents",
    Kind.IMAGE: "ocr",
}

_BY_SUFFIX: Final = {
    "txt": Kind.TEXT,
    "text": Kind.TEXT,
    "log": Kind.TEXT,
    "rst": Kind.RST,
    "adoc": Kind.TEXT,
    "md": Kind.MARKDOWN,
    "markdown": Kind.MARKDOWN,
    "mdx": Kind.MARKDOWN,
    "html": Kind.HTML,
    "htm": Kind.HTML,
    "xhtml": Kind.HTML,
    "pdf": Kind.PDF,
    "docx": Kind.DOCX,
    "docm": Kind.DOCX,
    "csv": Kind.CSV,
    "tsv": Kind.TSV,
    "json": Kind.JSON,
    "jsonl": Kind.JSONL,
    "ndjson": Kind.JSONL,
    "parquet": Kind.PARQUET,
    "avro": Kind.AVRO,
    "pptx": Kind.PPTX,
    "pptm": Kind.PPTX,
    "ppsx": Kind.PPTX,
    "xlsx": Kind.XLSX,
    "xlsm": Kind.XLSX,
    "odt": Kind.ODT,
    "ods": Kind.ODS,
    "odp": Kind.ODP,
    "epub": Kind.EPUB,
    "eml": Kind.MAIL,
    "rtf": Kind.RTF,
    "svg": Kind.SVG,
    "doc": Kind.OLE,
    "xls": Kind.OLE,
    "ppt": Kind.OLE,
    "msg": Kind.OLE,
    **dict.fromkeys(IMAGES, Kind.IMAGE),
}

_WITHOUT_TEXT: Final = frozenset(
    (  # noqa: SIM905 - a list of these words would be a page long
        "7z aac aif avi avif bin bmp bz2 class cur db deb dll dmg dylib ear eot exe flac flv gif "
        "gz heic icns ico img iso jar jpeg jpg lib m4a m4v mkv mov mp3 mp4 mpeg mpg o obj ogg ogv "
        "opus otf pkl png psd pyc pyd pyo rar rpm so sqlite sqlite3 svgz tar tgz tif tiff ttf "
        "wasm wav webm webp whl wma wmv woff woff2 xz zip zst "
    ).split()
)

_MAGIC: Final = (
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90", "a program"),
    (b"SQLite format 3\x00", "an SQLite database"),
)

_KINDS: Final = (
    (b"PAR1", Kind.PARQUET),
    (b"Obj\x01", Kind.AVRO),
    (b"{\\rtf", Kind.RTF),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind.OLE),
)

_IMAGES: Final = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
)
_IMAGE_STARTS: Final = tuple(magic for magic, _ in _IMAGES)

UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_LOOK: Final = 8192


def suffix(name: str) -> str:
    """The part after the last dot of the file name, in small letters ('' when there is none)."""
    base = name.rpartition("/")[2]
    stem, dot, end = base.rpartition(".")
    return end.lower() if dot and stem else ""


def without_text(name: str, *, images: bool = False) -> bool:
    """True for names of sounds, archives, programs: files that nobody means as text. So are images,
    unless the text on them is wanted."""
    end = suffix(name)
    return end in _WITHOUT_TEXT and not (images and end in IMAGES)


def extra_of(name: str) -> str | None:
    """The extra that a document of this name needs, if it needs one."""
    kind = _BY_SUFFIX.get(suffix(name))
    return None if kind is None else _EXTRA_OF.get(kind)


def needs_child(name: str) -> bool:
    """Does the name promise a document that is parsed in a process of its own?"""
    return _BY_SUFFIX.get(suffix(name), Kind.TEXT) not in PLAIN


def sniff(name: str, data: bytes) -> Kind:
    """The kind of a document; ``BadRecordError`` says what was found instead of one."""
    expected = _BY_SUFFIX.get(suffix(name))
    found = _by_magic(data, expected)
    if found is not None:
        return found
    head = data[:_LOOK]
    if b"\x00" in head and not head.startswith(UTF16_MARKS):
        what = _describe(expected)
        msg = f"expected {what}, found NUL bytes at offset {data.index(0)}: this is a binary file"
        raise BadRecordError(msg, kind=expected)
    if expected is None or expected in _MARKED:
        if _looks_like_html(head):
            return Kind.HTML
        if expected is not None:
            msg = (
                f"expected {_describe(expected)}, found {head[:16]!r}: the file is broken or has "
                "the wrong extension"
            )
            raise BadRecordError(msg, kind=expected)
    return expected or Kind.TEXT


_MARKED: Final = ARCHIVES | {
    Kind.PDF, Kind.PARQUET, Kind.AVRO, Kind.RTF, Kind.OLE, Kind.IMAGE
}  # fmt: skip
"""Kinds that are known by their first bytes: without these a file is none of them."""


def _by_magic(data: bytes, expected: Kind | None) -> Kind | None:
    if data.startswith(b"%PDF-") or (expected is Kind.PDF and b"%PDF-" in data[:1024]):
        return Kind.PDF
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return expected if expected in ARCHIVES else Kind.DOCX  # what is in it says which
    for magic, kind in _KINDS:
        if data.startswith(magic):
            return kind
    if expected in {None, Kind.IMAGE} and data.startswith(_IMAGE_STARTS):
        return Kind.IMAGE
    if expected is Kind.IMAGE and (data.startswith(b"BM") or data[8:12] == b"WEBP"):
        return Kind.IMAGE
    for magic, what in (*_IMAGES, *_MAGIC):
        if data.startswith(magic):
            msg = f"expected {_describe(expected)}, found {what}"
            raise BadRecordError(msg, kind=expected)
    return None


def _looks_like_html(head: bytes) -> bool:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def _describe(kind: Kind | None) -> str:
    if kind is None or kind in PLAIN:
        return "text"
    names = {
        Kind.PDF: "a PDF",
        Kind.DOCX: "a Word document (.docx)",
        Kind.PARQUET: "a Parquet file",
        Kind.AVRO: "an Avro file",
        Kind.PPTX: "a presentation (.pptx)",
        Kind.XLSX: "a workbook (.xlsx)",
        Kind.ODT: "an OpenDocument text (.odt)",
        Kind.ODS: "an OpenDocument spreadsheet (.ods)",
        Kind.ODP: "an OpenDocument presentation (.odp)",
        Kind.EPUB: "a book (.epub)",
        Kind.MAIL: "a mail (.eml)",
        Kind.RTF: "an RTF document",
        Kind.SVG: "a drawing (.svg)",
        Kind.OLE: "an old Office file",
        Kind.IMAGE: "an image",
    }
    return names.get(kind, f"{kind.name} text")
