"""The parser's own process: ``python -m penstock.sources.extract.child``.

It is given bytes and limits on its standard input and answers on its standard output; it opens no
path, writes no file and, where the system allows, has no network. What breaks here breaks alone.

Each message is a frame: the length of a JSON header and of a body (two 32-bit numbers, big-endian),
then both.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

from penstock.errors import BadRecordError, MissingExtraError
from penstock.places import PLACES, places
from penstock.sources.extract.base import Extracted, Limits, MetadataValue, NeedsOcrError
from penstock.sources.extract.sniff import ARCHIVES, PLAIN, Kind, sniff

FRAME: Final = struct.Struct("!II")
_FILES: Final = 256
_CLONE_NEWNET: Final = 0x40000000
_CLONE_NEWUSER: Final = 0x10000000
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_SIGKILL: Final = 9
_UNITS: Final = {
    Kind.PPTX.value: "slide",
    Kind.ODP.value: "slide",
    Kind.XLSX.value: "sheet",
    Kind.ODS.value: "sheet",
    Kind.EPUB.value: "chapter",
    Kind.MAIL.value: "part",
}
_SPENT: Final = {"spent": True}
"""Said with an answer after which the process is better replaced."""


def parse(name: str, data: bytes, limits: Limits) -> Extracted:
    """The text of a document of any kind; the parser is imported when it is first needed."""
    kind = sniff(name, data)
    if kind in PLAIN:
        from penstock.sources.extract.text import extract_text

        return extract_text(kind, data)
    if kind is Kind.HTML:
        from penstock.sources.extract.html import extract_html

        return extract_html(data, limits)
    if kind is Kind.PDF:
        from penstock.sources.extract.pdf import extract_pdf

        return extract_pdf(data, limits)
    if kind in ARCHIVES:
        return _parse_archive(data, limits)
    return _parse_other(kind, data, limits)


def _parse_archive(data: bytes, limits: Limits) -> Extracted:
    """A zip archive is what its main part makes it, whatever the file is called."""
    from penstock.sources.extract import epub, opendocument, sheets, slides
    from penstock.sources.extract.docx import extract_docx
    from penstock.sources.extract.zipped import unpacked

    with unpacked(data, limits, "a document") as archive:
        names = archive.names
    if slides.MAIN in names:
        return slides.extract_pptx(data, limits)
    if sheets.MAIN in names:
        return sheets.extract_xlsx(data, limits)
    if epub.MAIN in names:
        return epub.extract_epub(data, limits)
    if opendocument.MAIN in names and "mimetype" in names:
        return opendocument.extract_opendocument(data, limits)
    return extract_docx(data, limits)


def _parse_other(kind: Kind, data: bytes, limits: Limits) -> Extracted:
    from penstock.sources.extract import legacy, mail, ocr, rtf, svg, tables

    if kind is Kind.MAIL:
        return mail.extract_mail(data, limits, parse)
    if kind is Kind.RTF:
        return rtf.extract_rtf(data, limits)
    if kind is Kind.SVG:
        return svg.extract_svg(data, limits)
    if kind is Kind.IMAGE:
        return ocr.extract_image(data, limits)
    if kind is Kind.OLE:
        return legacy.extract_legacy(data, limits)
    if kind is Kind.PARQUET:
        return tables.extract_parquet(data, limits)
    if kind is Kind.AVRO:
        return tables.extract_avro(data, limits)
    if kind in {Kind.CSV, Kind.TSV}:
        return tables.extract_csv(kind, data, limits)
    return tables.extract_json(kind, data, limits)


def answer(name: str, data: bytes, limits: Limits) -> tuple[dict[str, Any], bytes]:
    """The header and body of the answer to one document; nothing it contains can raise."""
    try:
        found = parse(name, data, limits)
        text = clean(found.text)
    except NeedsOcrError:
        return {"ocr": True}, b""
    except BadRecordError as error:
        return {"error": error.reason}, b""
    except MissingExtraError as error:
        what = str(error).partition(" needs the extra ")[0]
        return {"error": str(error), "what": what, "extra": error.facts["extra"]}, b""
    except MemoryError:
        limit = limits.memory_bytes >> 20
        return {
            "error": f"expected to need at most {limit:,} MB of memory, needed more",
            **_SPENT,
        }, b""
    except RecursionError:
        return {"error": "expected a document, found one that is nested too deeply", **_SPENT}, b""
    except Exception as error:  # noqa: BLE001 - parsers of hostile input raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return {
            "error": f"expected a document that can be read, its parser failed: {reason}",
            **_SPENT,
        }, b""
    if len(text.encode()) > limits.output_bytes:
        return {"error": f"expected at most {limits.output_bytes:,} bytes of text: split it"}, b""
    title = clean(found.title).strip() if found.title else None
    metadata = {clean(name): clean_value(value) for name, value in found.metadata.items()}
    where = places(text, _UNITS.get(found.media_type, "page"))
    if where is not None:
        metadata[PLACES] = where
    header: dict[str, Any] = {
        "title": title or None,
        "media_type": found.media_type,
        "metadata": metadata,
    }
    if "kreuzberg" in sys.modules:  # it takes most of the address space that others may need
        header |= _SPENT
    return header, text.encode()


def clean_value(value: MetadataValue) -> MetadataValue:
    """The same for a value of the metadata."""
    if isinstance(value, str):
        return clean(value)
    return value if isinstance(value, int) else [clean(item) for item in value]


def clean(text: str) -> str:
    """Text that any store can hold: no NUL characters and no halves of surrogate pairs."""
    text = text.replace("\0", "") if "\0" in text else text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def confine(limits: Limits) -> None:
    """Give up what a parser does not need. What the system does not support is passed over: the
    parent's clock and kill work everywhere."""
    with contextlib.suppress(OSError, AttributeError):
        _isolate()
    for what, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_AS, limits.memory_bytes),
    ):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (limit, limit))


def _isolate() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.unshare(_CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def allow_cpu(seconds: int) -> None:
    """Let the process use this much more processor time; the kernel kills it after that."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + seconds + 1
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next header and body; None at the end of the stream."""
    head = stream.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    header_size, body_size = FRAME.unpack(head)
    header = json.loads(stream.read(header_size))
    return header, stream.read(body_size)


def frame(header: dict[str, Any], body: bytes) -> Iterator[bytes]:
    """The pieces of one message."""
    encoded = json.dumps(header).encode()
    yield FRAME.pack(len(encoded), len(body)) + encoded
    yield body


def serve(requests: BinaryIO, answers: BinaryIO, confine: Callable[[Limits], None]) -> None:
    """Answer until the input ends. The first message holds the limits."""
    first = read_frame(requests)
    if first is None:
        return
    limits = Limits(**first[0])
    confine(limits)
    answers.writelines(frame({"ready": True}, b""))
    answers.flush()
    while (message := read_frame(requests)) is not None:
        allow_cpu(limits.cpu_s)
        header, body = answer(message[0]["name"], message[1], limits)
        del message
        answers.writelines(frame(header, body))
        answers.flush()


def main() -> None:
    """Keep the pipes for messages: what a library prints goes nowhere."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    with contextlib.suppress(BrokenPipeError):
        serve(requests, answers, confine)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
