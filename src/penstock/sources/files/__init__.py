"""A folder of documents as a source."""

from penstock.sources.documents.patterns import HIDDEN_AND_TEMPORARY
from penstock.sources.files.source import FilesSource

__all__ = ["HIDDEN_AND_TEMPORARY", "FilesSource"]
