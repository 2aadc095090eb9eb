"""Who may see an object, as its own metadata say it. What is written is carried unread: the
knowledge pipeline judges it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from hashlib import sha256

from penstock.errors import BadRecordError
from penstock.sources.objects.bucket import Said


@dataclass(frozen=True, slots=True)
class ListKeys:
    """The keys of the metadata that have the lists, as the project file names them."""

    allow: str
    deny: str

    @property
    def mark(self) -> str:
        """The beginning of a fingerprint's word: other keys are other lists."""
        return f"@{_short(json.dumps([self.allow.lower(), self.deny.lower()]))}."

    def word(self, permissions: str) -> str:
        """What a fingerprint keeps of the lists that were found."""
        return f"{self.mark}{_short(permissions)} "

    def found(self, said: Said) -> str:
        """What an object's metadata say, as `penstock.records.LISTED_COLUMNS` has it."""
        try:
            lists = {"allow": _value(said, self.allow), "deny": _value(said, self.deny)}
        except BadRecordError as error:
            return problem(error.reason)
        if said.missing:
            return problem(
                f"expected to read all metadata, the store keeps {said.missing} of them back: they "
                "hold characters that no header can have, write them in ASCII"
            )
        return json.dumps(lists, ensure_ascii=False)


def problem(reason: str) -> str:
    """Lists that could not be had."""
    return json.dumps({"problem": reason}, ensure_ascii=False)


def _value(said: Said, key: str) -> str | None:
    values = [value for name, value in said.metadata.items() if name.lower() == key.lower()]
    if len(values) > 1:
        raise BadRecordError(f"expected the metadata {key!r} once, got it {len(values)} times")
    return _decoded(key, values[0]) if values else None


def _decoded(key: str, written: str) -> str:
    """Stores give what is not ASCII as encoded words (RFC 2047)."""
    if "=?" not in written:
        return written
    try:
        return str(make_header(decode_header(written)))
    except (LookupError, ValueError, HeaderParseError) as error:
        raise BadRecordError(
            f"expected an encoded word of RFC 2047 in the metadata {key!r}, but {error}"
        ) from error


def _short(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
