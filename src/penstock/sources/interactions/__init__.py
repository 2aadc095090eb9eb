"""Questions with their answers, and what people say of them, as a source of the project."""

from penstock.sources.interactions.source import InteractionsSource

__all__ = ["InteractionsSource"]
