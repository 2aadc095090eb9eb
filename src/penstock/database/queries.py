"""Named SQL statements from ``.sql`` files that stand beside the module that uses them.

-- name: move_position
-- Compare-and-set: no row means that another process has moved it.
UPDATE ...
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from penstock.errors import FatalError

_NAME = re.compile(r"--\s*name:\s*(\S+)\s*")


def load_queries(path: Path) -> Mapping[str, str]:
    """The statements of one file by name, without the comments above them."""
    return parse_queries(path.read_text(encoding="utf-8"), path.name)


def parse_queries(text: str, file: str = "queries") -> Mapping[str, str]:
    """As `load_queries`, from the text itself; ``file`` is for messages."""
    found: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        match = _NAME.fullmatch(line)
        if match is not None:
            if match[1] in found:
                raise FatalError(
                    f"{file}:{number}: expected each name once, {match[1]!r} came twice"
                )
            lines = found[match[1]] = []
        elif lines is None:
            if line.strip() and not line.startswith("--"):
                raise FatalError(
                    f"{file}:{number}: expected '-- name: ...' before {line.strip()!r}"
                )
        elif lines or (line.strip() and not line.startswith("--")):
            lines.append(line)
    statements = {name: "\n".join(body).strip().rstrip(";") for name, body in found.items()}
    for name, statement in statements.items():
        if not statement:
            raise FatalError(f"{file}: expected a statement below the name {name!r}, found none")
    return MappingProxyType(statements)
