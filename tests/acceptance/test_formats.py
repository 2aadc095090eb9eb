"""One document of every format in a watched folder: each is found by a word that only it holds, and
cited by its file and place."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import fastavro
import polars as pl
import pytest
import xlwt
from PIL import Image, ImageDraw, ImageFont

from penstock.project import open_project
from penstock.testing import documents, office

if TYPE_CHECKING:
    from tests.acceptance.conftest import Home

pytestmark = [pytest.mark.package("kreuzberg"), pytest.mark.package("rapidocr")]

SENTENCE = "The {} leaves from platform nine."


def sheet() -> bytes:
    out = io.BytesIO()
    book = xlwt.Workbook()
    book.add_sheet("Old").write(0, 0, SENTENCE.format("narwhal"))
    book.save(out)
    return out.getvalue()


def parquet() -> bytes:
    out = io.BytesIO()
    pl.DataFrame({"note": [SENTENCE.format("ocelot")]}).write_parquet(out)
    return out.getvalue()


def avro() -> bytes:
    out = io.BytesIO()
    fields = [{"name": "note", "type": "string"}]
    schema = {"type": "record", "name": "n", "fields": fields}
    fastavro.writer(out, schema, [{"note": SENTENCE.format("pangolin")}])
    return out.getvalue()


def picture(kind: str, word: str) -> bytes:
    image = Image.new("RGB", (1100, 200), "white")
    font = ImageFont.load_default(40)
    ImageDraw.Draw(image).text((60, 60), SENTENCE.format(word), font=font, fill="black")
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def said(word: str) -> str:
    return SENTENCE.format(word)


def folder() -> dict[str, tuple[str, str | None, bytes]]:
    """The word, the place and the bytes of each document."""
    slides = [("First", "nothing"), ("Second", said("iguana"))]
    cells = {"One": [["a"]], "Two": [["b"]], "Three": [["note"], [said("jackal")]]}
    text = f"<text:p>{said('quokka')}</text:p>"
    row = (
        "<table:table-row><table:table-cell><text:p>{}</text:p></table:table-cell>"
        "</table:table-row>"
    )
    sheets = "".join(
        f'<table:table table:name="{name}">{row.format(words)}</table:table>'
        for name, words in (("A", "x"), ("B", said("raccoon")))
    )
    draw = f"<draw:page/><draw:page><text:p>{said('salmon')}</text:p></draw:page>"
    return {
        "a.txt": ("aardvark", None, said("aardvark").encode()),
        "b.md": ("badger", None, f"# Notes\n\n{said('badger')}".encode()),
        "c.html": ("capybara", None, f"<p>{said('capybara')}".encode()),
        "d.pdf": ("dolphin", "page 3", documents.pdf(["one", "two", said("dolphin")])),
        "e.docx": ("echidna", None, documents.docx(documents.paragraph(said("echidna")))),
        "f.csv": ("ferret", None, f"note\n{said('ferret')}\n".encode()),
        "g.tsv": ("gibbon", None, f"note\tn\n{said('gibbon')}\t1\n".encode()),
        "h.jsonl": ("hedgehog", None, f'{{"note": "{said("hedgehog")}"}}\n'.encode()),
        "i.pptx": ("iguana", "slide 2", office.pptx(slides)),
        "j.xlsx": ("jackal", "sheet 3", office.xlsx(cells)),
        "k.epub": ("kangaroo", "chapter 2", office.epub(["<p>x", f"<p>{said('kangaroo')}"])),
        "l.eml": ("lemur", "part 2", office.mail("Hi", attachments={"l.txt": said("lemur")})),
        "m.json": ("marmot", None, f'{{"note": "{said("marmot")}"}}'.encode()),
        "n.xls": ("narwhal", None, sheet()),
        "o.parquet": ("ocelot", None, parquet()),
        "p.avro": ("pangolin", None, avro()),
        "q.odt": ("quokka", None, office.opendocument("text", text)),
        "r.ods": ("raccoon", "sheet 2", office.opendocument("spreadsheet", sheets)),
        "s.odp": ("salmon", "slide 2", office.opendocument("presentation", draw)),
        "t.rtf": ("tapir", None, f"{{\\rtf1 {said('tapir')}\\par}}".encode()),
        "u.svg": ("urchin", None, f"<svg><text>{said('urchin')}</text></svg>".encode()),
        "v.png": ("vulture", None, picture("PNG", "vulture")),
        "w.jpg": ("walrus", None, picture("JPEG", "walrus")),
        "x.tiff": ("xenops", None, picture("TIFF", "xenops")),
        "y.pdf": ("yellowhammer", None, picture("PDF", "yellowhammer")),
    }


@pytest.mark.timeout(300)
async def test_every_format_is_found_and_cited(home: Home, database_url: str) -> None:
    """And what cannot be read is a dead letter with a sentence, beside the others."""
    home.project(
        database_url,
        "  documents: {type: files, path: ./documents, heartbeat: 0.1, images: true}\n",
    )
    home.write(home.file.read_text().replace("knowledge: {embedder: constant}\n", ""))
    everything = folder()
    for name, (_, _, data) in everything.items():
        (home.documents / name).write_bytes(data)
    bomb = documents.archive({"word/document.xml": b" " * 90_000_000})
    (home.documents / "bomb.docx").write_bytes(bomb)
    ended = home.run("run", "--once", limit_s=200)
    assert ended.code == 0, ended.errors
    letters = home.run("dead-letters", "list", "--json").output
    async with open_project(home.file) as project:
        for name, (word, place, _) in everything.items():
            answer = await project.answer(f"From where does the {word} leave?")
            cited = {c.key: (c.place, c.quote.lower()) for c in answer.citations}
            assert name in cited, (name, answer.text, letters)
            assert cited[name][0] == place, name
            assert word in cited[name][1], (name, cited)
    assert "a zip bomb?" in letters
    assert "bomb.docx" in letters
    for word, shown in (
        ("dolphin", "documents: d.pdf, page 3 "),
        ("iguana", "documents: i.pptx, slide 2 "),
        ("jackal", "documents: j.xlsx, sheet 3 "),
    ):
        assert shown in home.run("ask", f"From where does the {word} leave?").output
