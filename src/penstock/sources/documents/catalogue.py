"""What is known of a place with documents, and the batches that change it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from penstock.principals import sidecar_place
from penstock.records import Change, Microseconds, Op, Position, document_schema
from penstock.sources.base import Lane, SourceBatch, State
from penstock.sources.documents.rows import Document
from penstock.sources.extract import VERSION

_FILE: Final = "file:"  # so named since the first release, in every state


class Catalogue:
    """Fingerprints by key, the number of the last change, and what of it is not yet in a batch."""

    def __init__(
        self, source: str, state: State, *, sidecars: bool = False, listed: bool = False
    ) -> None:
        self.known = {
            name[len(_FILE) :]: value for name, value in state.items() if name.startswith(_FILE)
        }
        self.loaded = "loaded" in state
        self.root = state.get("root")
        self._schema = document_schema(source, listed=listed)
        self._sequence = int(state.get("sequence", "0"))
        self._news: dict[str, str | None] = {}
        if state.get("extraction") != VERSION:
            self._news["extraction"] = VERSION
            for key, fingerprint in self.known.items():  # what was broken may be readable by now
                if " !" in fingerprint and not fingerprint.startswith("?"):
                    self.known[key] = f"?{fingerprint.lstrip('~')}"
        if ("sidecars" in state) != sidecars:
            # They mean something else now: each is told of again.
            self._news["sidecars"] = "1" if sidecars else None
            for key, fingerprint in self.known.items():
                if sidecar_place(key) is not None and not fingerprint.startswith("?"):
                    self.known[key] = f"?{fingerprint.lstrip('~')}"

    @property
    def has_news(self) -> bool:
        """Is there state that no batch has carried yet?"""
        return bool(self._news)

    def set_root(self, identity: str) -> None:
        """The folder with this device and inode has been listed."""
        if self.root != identity:
            self.root = self._news["root"] = identity

    def set_loaded(self) -> None:
        """All that existed at first is in batches."""
        if not self.loaded:
            self.loaded = True
            self._news["loaded"] = "1"

    def touch(self, key: str, fingerprint: str) -> None:
        """The same content with other times."""
        self.known[key] = self._news[f"{_FILE}{key}"] = fingerprint

    def batch(
        self, documents: Iterable[Document], gone: Iterable[str], lane: Lane, now: Microseconds
    ) -> SourceBatch:
        """Number changes and take them over. What is new comes before what is gone, so that a
        renamed document is never missing and its vectors are still there."""
        changes: list[Change] = []
        state, self._news = self._news, {}
        known = self.known
        schema = self._schema
        number = self._sequence
        created = Op.CREATE if lane == "live" else Op.READ
        for document in documents:
            key = document.key
            before = known.get(key)
            if before == document.fingerprint:
                continue
            known[key] = state[f"{_FILE}{key}"] = document.fingerprint
            number += 1
            op = Op.UPDATE if before is not None else created
            position = Position(f"{number:016d}")
            changes.append(Change(schema, op, (key,), position, document.changed_at, document.row))
        for key in gone:
            if known.pop(key, None) is not None:
                state[f"{_FILE}{key}"] = None
                number += 1
                position = Position(f"{number:016d}")
                changes.append(Change(schema, Op.DELETE, (key,), position, now))
        if changes:
            self._sequence = number
            state["sequence"] = str(number)
        return SourceBatch(changes, state, None, lane)
