"""Documents are read in child processes that may break: limits, hostile documents, confinement."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from penstock.errors import BadRecordError, MissingExtraError
from penstock.sources.extract import ChildExtractor, Limits
from penstock.sources.extract.tables import extract_parquet
from penstock.testing import documents

GOOD = documents.pdf(["a good page"])


@pytest.fixture
async def extractor() -> AsyncIterator[ChildExtractor]:
    extractor = ChildExtractor(Limits(wall_s=30.0))
    yield extractor
    await extractor.close()


async def reason(extractor: ChildExtractor, name: str, data: bytes) -> str:
    """Why a document has no text; afterwards a good one is read as if nothing had been."""
    with pytest.raises(BadRecordError) as caught:
        await extractor.extract(name, data)
    assert (await extractor.extract("good.pdf", GOOD)).text == "a good page"
    return caught.value.reason


async def test_g13_a_parser_that_takes_too_long_is_killed() -> None:
    """By the clock, and by processor time; the reason says which limit it was."""
    slow = b"<div>" * 3_000_000
    extractor = ChildExtractor(Limits(wall_s=0.5, cpu_s=60))
    with pytest.raises(BadRecordError, match=r"expected to be read in 0\.5 s, took longer"):
        await extractor.extract("a.html", slow)
    await extractor.close()
    extractor = ChildExtractor(Limits(wall_s=30, cpu_s=0))
    found = await reason(extractor, "a.html", slow)
    assert found == "expected to need at most 0 s of processor time, needed more"
    await extractor.close()


async def test_g12_a_parser_that_needs_too_much_memory_is_stopped() -> None:
    """A stream that unpacks to gigabytes: refused by the parser or by the limit, contained."""
    bomb = zlib.compress(zlib.compress(b"0" * 400_000_000, 1), 9)
    data = documents.pdf_of_streams([bomb], filters="/Filter [/FlateDecode /FlateDecode] ")
    extractor = ChildExtractor(Limits(wall_s=30, memory_bytes=300 << 20))
    assert "expected" in await reason(extractor, "a.pdf", data)
    await extractor.close()


async def test_g12_the_output_has_a_limit() -> None:
    """Text that grows beyond it is refused."""
    extractor = ChildExtractor(Limits(output_bytes=1000))
    for name, data in (
        ("a.html", b"<p>x" * 1000),
        ("a.csv", b"a,b\n" + b"1,2\n" * 1000),
        ("a.pdf", documents.pdf(["x" * 900] * 3)),
        ("a.docx", documents.docx(documents.paragraph("x" * 2000))),
    ):
        assert "at most" in await reason(extractor, name, data)
    await extractor.close()


async def text_or_reason(extractor: ChildExtractor, name: str, data: bytes) -> str:
    try:
        found = await extractor.extract(name, data)
    except BadRecordError as error:
        return error.reason
    return f"expected: {found.title} {found.text}"


def nested(tag: bytes, depth: int) -> bytes:
    return tag * depth + b"text"


HOSTILE: dict[str, Callable[[], bytes]] = {
    "deep.html": lambda: nested(b"<div>", 300_000),
    "lists.html": lambda: nested(b"<ul><li>", 50_000),
    "tables.html": lambda: nested(b"<table><tr><td>", 30_000),
    "closing.html": lambda: b"</p></div></table></ul>" * 20_000,
    "attributes.html": lambda: b"<p " + b"a=b " * 50_000 + b">x",
    "unclosed.html": lambda: b"<!--" * 2_000 + b"<![CDATA[" * 2_000 + b"<a b='" * 2_000,
    "entities.html": lambda: b"&amp;&#x110000;&#0;&nosuch;" * 20_000,
    "surrogates.html": lambda: b"<title>&#xD800;</title>&#xDFFF;",
    "deep.json": lambda: b"[" * 1_000_000,
    "deep-objects.json": lambda: b'{"a":' * 900 + b"1" + b"}" * 900,
    "digits.json": lambda: b'{"a": ' + b"9" * 1_000_000 + b"}",
    "surrogate.json": lambda: rb'{"a": "\ud800", "b\u0000": "\u0000"}',
    "duplicates.jsonl": lambda: b'{"a": 1, "a": 2}\n' * 10,
    "line.csv": lambda: b"x," * 3_000_000,
    "quote.csv": lambda: b'"' + b"x\n" * 1_000_000,
    "nul.csv": lambda: b"a,b\n" + b"x" * 9000 + b"\x00,1\n",
    "truncated.pdf": lambda: GOOD[: len(GOOD) // 2],
    "startxref.pdf": lambda: GOOD.replace(b"startxref\n", b"startxref\n99999"),
    "loop.pdf": lambda: GOOD.replace(b"/Kids [4 0 R]", b"/Kids [2 0 R]"),
    "length.pdf": lambda: GOOD.replace(b"/Length ", b"/Length 9999999"),
    "inline.pdf": lambda: documents.pdf_of_streams([b"BI /W 1 /H 1 ID " + b"x" * 100_000]),
    "outline.pdf": lambda: GOOD.replace(
        b"/Type /Catalog", b"/Type /Catalog /Outlines << /First 1 0 R /Next 1 0 R >>"
    ),
    "polyglot.pdf": lambda: GOOD + documents.docx(documents.paragraph("x")),
    "entries.docx": lambda: b"PK\x03\x04" + b"PK\x01\x02" * 1_000_000,
    "bomb.docx": lambda: documents.docx(parts={"word/document.xml": b" " * 80_000_000}),
    "quine.docx": lambda: documents.archive({"word/document.xml": documents.docx("x")}),
    "names.docx": lambda: documents.docx("x", parts={"../../etc/x": b"", "C:\\x": b"", "/x": b""}),
    "deep.docx": lambda: documents.docx("<w:tbl><w:tr><w:tc>" * 100_000),
    "levels.docx": lambda: documents.docx(
        documents.paragraph("x", level=10**30), '<w:p><w:ilvl w:val="²"/></w:p>'
    ),
    "old.docx": lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 1000,
    "thrift.parquet": lambda: b"PAR1" + b"\xff" * 1000 + b"\xff\x00\x00\x00PAR1",
    "image.pdf": lambda: b"\x89PNG\r\n\x1a\n" + b"\x00" * 100,
    "noise.pdf": lambda: b"%PDF-1.7\n" + bytes(range(256)) * 400,
}


@pytest.mark.timeout(120)
async def test_g13_hostile_documents_break_alone(extractor: ChildExtractor) -> None:
    """Each is read or refused with a sentence; the good document after it is read."""
    for name, make in HOSTILE.items():
        began = time.monotonic()
        text = await text_or_reason(extractor, name, make())
        assert text.startswith("expected"), (name, text)
        assert "\x00" not in text, name
        text.encode()
        assert time.monotonic() - began < 30, name
        assert (await extractor.extract("good.pdf", GOOD)).text == "a good page", name


async def test_a_killed_child_is_replaced(extractor: ChildExtractor) -> None:
    """Whoever kills it: the document that was being read gets the reason, the next is read."""
    await extractor.extract("good.pdf", GOOD)
    child = extractor._idle[0]._process
    child.kill()
    await child.wait()
    found = await reason(extractor, "a.pdf", GOOD)
    assert found == "expected a document that can be read, its parser died of signal 9"


async def test_children_end_when_idle_and_when_closed() -> None:
    """No process is left behind."""
    extractor = ChildExtractor(idle_s=0.01)
    await extractor.extract("good.pdf", GOOD)
    process = extractor._idle[0]._process
    async with asyncio.timeout(10):
        await process.wait()
    assert not extractor._idle
    await extractor.extract("good.pdf", GOOD)
    process = extractor._idle[0]._process
    await extractor.close()
    assert process.returncode is not None


async def test_a_cancelled_caller_takes_its_child_along(extractor: ChildExtractor) -> None:
    """Nobody would read the answer; the place in the pool is free again."""
    for _ in range(3):
        task = asyncio.ensure_future(extractor.extract("a.html", b"<div>" * 3_000_000))
        while not extractor._free.locked() and extractor._free._value == 2:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (await extractor.extract("good.pdf", GOOD)).text == "a good page"
    assert len(extractor._idle) == 1


async def test_the_child_is_told_no_secrets(
    extractor: ChildExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its environment holds what Python needs."""
    monkeypatch.setenv("OPENAI_API_KEY", "canary-4711")
    await extractor.extract("good.pdf", GOOD)
    environment = Path(f"/proc/{extractor._idle[0]._process.pid}/environ").read_bytes()
    assert b"PYTHONPATH" in environment
    assert b"canary-4711" not in environment


CONFINED = """
import socket, sys
from penstock.sources.extract.base import Limits
from penstock.sources.extract.child import confine
confine(Limits())
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2)
    print("connected")
except OSError as error:
    print("refused", type(error).__name__)
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with open(sys.argv[2], "w") as file:
        file.write("x")
    print("written")
except OSError:
    print("unwritten")
try:
    bytearray(3 << 30)
except MemoryError:
    print("limited")
"""


def test_the_child_gives_up_network_files_and_memory(tmp_path: Path) -> None:
    """Where the system lets a process leave its network, it does."""
    can_leave = sys.platform == "linux" and (
        os.geteuid() == 0 or subprocess.run(["unshare", "-Un", "true"], check=False).returncode == 0
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        said = subprocess.run(
            [sys.executable, "-c", CONFINED, port, str(tmp_path / "x")],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\n")
    if can_leave:
        assert said[0].startswith("refused")
    assert said[1:3] == ["unwritten", "limited"]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what to install."""
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtraError, match=r"needs .*penstock\[parquet]"):
        extract_parquet(b"PAR1", Limits())
