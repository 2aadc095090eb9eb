"""Documents become text: plain text here, everything else in a child process."""

from penstock.sources.extract.base import Extracted, Extractor, Limits
from penstock.sources.extract.pool import ChildExtractor
from penstock.sources.extract.sniff import Kind, without_text

__all__ = ["ChildExtractor", "Extracted", "Extractor", "Kind", "Limits", "without_text"]
