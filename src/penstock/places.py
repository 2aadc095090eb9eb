"""Where in a document a passage is, as people say it: page 3, slide 2, sheet 1. Pure.

The text of a document with pages has a form feed between them; where each begins travels in the
document's metadata, so that a citation can name its page without the text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, Final

PLACES: Final = "places"
_MOST: Final = 5000


def places(text: str, unit: str) -> str | None:
    """The unit and the offsets at which its second and later ones begin; None where there is only
    one, or too many to carry along."""
    count = text.count("\f")
    if not 0 < count < _MOST:
        return None
    starts: list[str] = []
    at = text.find("\f")
    while at >= 0:
        starts.append(str(at + 1))
        at = text.find("\f", at + 1)
    return f"{unit} {' '.join(starts)}"


def place_at(metadata: Mapping[str, Any], offset: int) -> str | None:
    """The place of an offset, such as ``slide 2``; None if the document has none."""
    written = metadata.get(PLACES)
    if not isinstance(written, str):
        return None
    unit, *starts = written.split()
    if not starts or not all(start.isascii() and start.isdecimal() for start in starts):
        return None  # a field of that name that is the document's own
    return f"{unit} {bisect_right([int(start) for start in starts], offset) + 1}"
