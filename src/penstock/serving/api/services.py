"""What the routes work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from penstock.clock import Clock
from penstock.models.base import Embedder
from penstock.serving.answer import Answerer
from penstock.serving.completions import Completions
from penstock.serving.context import ContextBuilder
from penstock.serving.documents import DocumentReader
from penstock.serving.ledger.feedback import Voices
from penstock.serving.profiles import ProfileReader
from penstock.serving.sessions import Sessions
from penstock.serving.tables import TableReader
from penstock.serving.writing import Writer
from penstock.stores.keys import KeyStore


@dataclass(frozen=True, slots=True)
class Services:
    """A project as its API sees it. The functions give what is current: models may be changed."""

    project: str
    version: str
    """Ours."""
    tenant: str
    keys: KeyStore
    clock: Clock
    contexts: Callable[[], ContextBuilder]
    answerer: Callable[[], Answerer]
    embedder: Callable[[], Embedder]
    documents: DocumentReader
    profiles: ProfileReader
    tables: TableReader
    voices: Voices
    sessions: Sessions
    writer: Writer
    sources: Mapping[str, str]
    """The sources and their types."""
    passages: int = 8
    """How many passages and rows an answer may rest on."""
    completions: Callable[[], Completions | None] = lambda: None
    """What asks language models in conversations that callers lead; None where there are
    none."""
