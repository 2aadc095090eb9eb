"""Who may see an object, as its own metadata say it. What is written is carried unread: the
knowledge pipeline judges it."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from dataclasses import dataclass
from hashlib import sha256
from quopri import decodestring
from typing import Final

from penstock.errors import BadRecordError
from penstock.sources.objects.bucket import Said

_WORD: Final = re.compile(r"=\?([^?\s]+)\?([BbQq])\?([^?\s]*)\?=")
_BETWEEN: Final = re.compile(r"\?=\s+=\?")  # blanks between two words are none of the text
_NO_ESCAPE: Final = re.compile(r"=(?![0-9A-Fa-f]{2})")
_CHARSETS: Final = frozenset({"utf-8", "us-ascii", "iso-8859-1"})


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
    """Stores give what is not ASCII as encoded words (RFC 2047). Strictly: the decoders of the
    standard library pass over what they cannot read, which may have been a denial."""
    if "=?" not in written:
        return written
    try:
        text = _WORD.sub(_word, _BETWEEN.sub("?==?", written))
    except (LookupError, ValueError) as error:
        raise BadRecordError(
            f"expected an encoded word of RFC 2047 in the metadata {key!r}, but {error}"
        ) from error
    if "=?" in text:
        raise BadRecordError(f"expected encoded words of RFC 2047 in the metadata {key!r}, got =?")
    return text


def _word(match: re.Match[str]) -> str:
    charset, kind, written = match.groups()
    if charset.lower() not in _CHARSETS:
        raise LookupError(f"its character set is {charset!r}: write UTF-8")
    if kind in "Bb":
        return b64decode(written, validate=True).decode(charset)
    if _NO_ESCAPE.search(written):
        raise ValueError("an = in it begins no character")
    return decodestring(written, header=True).decode(charset)


def _short(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
