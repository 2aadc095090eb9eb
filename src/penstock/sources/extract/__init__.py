"""Documents become text: plain text here, everything else in a child process."""

from penstock.sources.extract.base import VERSION, Extracted, Extractor, Limits
from penstock.sources.extract.pool import ChildExtractor
from penstock.sources.extract.sniff import Kind, needs_child, without_text

__all__ = [
    "VERSION",
    "ChildExtractor",
    "Extracted",
    "Extractor",
    "Kind",
    "Limits",
    "needs_child",
    "without_text",
]
