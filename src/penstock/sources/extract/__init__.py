"""Documents become text: plain text here, everything else in a child process."""

from penstock.sources.extract.base import VERSION, Extracted, Extractor, Limits
from penstock.sources.extract.pool import ChildExtractor
from penstock.sources.extract.sniff import EXTRAS, Kind, extra_of, needs_child, without_text
from penstock.sources.extract.text import decode

__all__ = [
    "EXTRAS",
    "VERSION",
    "ChildExtractor",
    "Extracted",
    "Extractor",
    "Kind",
    "Limits",
    "decode",
    "extra_of",
    "needs_child",
    "without_text",
]
