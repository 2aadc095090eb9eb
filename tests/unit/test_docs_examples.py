"""What the pages show is so: settings are valid, programs compile, commands and options exist."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main
import yaml

from penstock.cli import commands
from penstock.cli.app import app
from penstock.config import parse_settings

assert commands
ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
SECTIONS = {"project": "example", "sources": {"docs": {"type": "files", "path": "./docs"}}}
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


def blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in _of(page) if block.language == language]


def _of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE):
        indent = len(match[1])
        body = "".join(line[indent:] or "\n" for line in match[3].splitlines(keepends=True))
        line = text.count("\n", 0, match.start()) + 1
        yield Block(str(page.relative_to(ROOT)), line, match[2], body)


def name(block: Block) -> str:
    return f"{block.page}:{block.line}"


def test_there_are_examples() -> None:
    """The blocks are found at all."""
    assert len(blocks("yaml")) >= 3
    assert blocks("python")
    assert len(list(used_commands())) >= 10


@pytest.mark.parametrize("block", blocks("yaml"), ids=name)
def test_settings_are_valid(block: Block) -> None:
    """A whole project parses, and so does a section in a project made of little else."""
    shown = yaml.safe_load(block.text)
    if not isinstance(shown, dict) or not shown.keys() & set(_sections()):
        pytest.skip("not a part of a project file")
    text = block.text
    if "project" not in shown:
        missing = {key: value for key, value in SECTIONS.items() if key not in shown}
        text = yaml.safe_dump(missing) + text
    environment = dict.fromkeys(VARIABLE.findall(text), "postgresql://u:p@localhost/d")
    parse_settings(text, file=Path("penstock.yaml"), environment=environment)


def _sections() -> list[str]:
    from penstock.settings import Settings

    return list(Settings.model_fields)


@pytest.mark.parametrize("block", blocks("python"), ids=name)
def test_programs_compile(block: Block) -> None:
    """Python on a page is Python; `await` may stand alone."""
    compile(block.text, name(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def used_commands() -> Iterator[tuple[str, str]]:
    for language in ("console", "bash", "sh"):
        for block in blocks(language):
            for line in block.text.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|\|\||;", line.removeprefix("$ ")):
                    found = re.match(r"\s*(?:uv run )?(penstock\s.*)$", part)
                    if found:
                        yield name(block), found[1]


@pytest.mark.parametrize(("place", "line"), list(used_commands()))
def test_commands_and_options_exist(place: str, line: str) -> None:
    """Every `penstock ...` of a page names a command and options that there are."""
    if line.startswith("penstock is") or ":" in line.split()[1]:
        pytest.skip("output")
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        word = words.pop(0)
        if word.startswith("-"):
            assert word in {"--help", "-h", "--debug", "--version"}, f"{place}: {word}"
            continue
        assert word in command.commands, f"{place}: no command {word!r}"
        command = command.commands[word]
    known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    for word in words:
        if word.startswith("-") and len(word) > 1 and not word[1:].isdigit():
            option = word.split("=")[0]
            assert option in known | {"--help", "-h"}, f"{place}: {line}: no option {option!r}"
