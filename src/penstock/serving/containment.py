"""What an answer may not do to whoever looks at it.

A passage can tell a language model to write an image whose address carries what else it was shown:
the reader's browser sends it away. So an answer has no images and no markup, and no address but
those that stand, letter by letter, in what it was made from: an address that was put together from
something it should not tell is none of them. What is removed is said in its place.

All rules look at one word, so that a stream is held back by no more than a word.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from typing import Final

REMOVED: Final = "(link removed)"
_ADDRESS: Final = re.compile(
    r"(?:[a-z][a-z0-9+.\-]{1,30}:(?:[/\\]{1,}|(?=[^\s\d]))|(?<![\w@])www\.|(?<![\w:/])//|/{3,})"
    r"[^\s<>\"'`\])}|]*",
    re.IGNORECASE,
)
_LOADED: Final = re.compile(
    r"(?:https?|ftps?|wss?|file|data|javascript|vbscript|blob|gopher|dict|ldap|smb|mailto|tel|sms|"
    r"about|view-source|intent|[a-z][a-z0-9+.\-]+):(?:[/\\])|"
    r"(?:data|javascript|vbscript|mailto|tel|sms|blob|about|view-source|intent):|www\.|//",
    re.IGNORECASE,
)
_TRAILING: Final = ".,;:!?*_~"
_TAG: Final = re.compile(r"<(?=[a-z/!?])", re.IGNORECASE)
_ESCAPED: Final = re.compile(r"\\(?=[!-/:-@\[-`{-~])")
_KEPT_MARKS: Final = frozenset("\u200c\u200d\n\t\r")
_LONGEST_WORD: Final = 4_000


def addresses(texts: Iterable[str]) -> frozenset[str]:
    """All addresses in these texts, as they stand there."""
    return frozenset(
        address.rstrip(_TRAILING)
        for text in texts
        for found in _ADDRESS.finditer(text)
        if (address := _split(found[0])[1])
    )


def _split(found: str) -> tuple[str, str]:
    """What stands before the address in something that looks like one (``see:https://host``), and
    the address; "" if there is none. ``https:https://...`` is a link to what comes second."""
    before, left = "", found
    while left and not _LOADED.match(left):
        scheme, _, rest = left.partition(":")
        inner = _ADDRESS.search(rest)
        end = len(rest) if inner is None else inner.start()
        before, left = f"{before}{scheme}:{rest[:end]}", rest[end:]
    return before, left


class Containment:
    """Takes the pieces of an answer and gives what may be shown of them."""

    def __init__(self, known: frozenset[str]) -> None:
        self._known = known
        self._held = ""

    def push(self, piece: str) -> str:
        """What can be shown now that this has come: up to the last word that may go on."""
        self._held += piece
        end = self._cut()
        whole, self._held = self._held[:end], self._held[end:]
        return self._words(whole)

    def end(self) -> str:
        """What was held back."""
        whole, self._held = self._held, ""
        return self._words(whole)

    def _cut(self) -> int:
        held = self._held
        if len(held) > _LONGEST_WORD:
            return len(held)
        for place in range(len(held) - 1, -1, -1):
            letter = held[place]
            if letter.isspace():
                return place + 1
            # Scripts without blanks: a word ends where nothing before it begins an address, and
            # letters that only look like others (full width) begin one.
            alone = letter.isalpha() and not unicodedata.normalize("NFKC", letter).isascii()
            if alone and not self._begun(held[: place + 1]):
                return place + 1
        return 0

    @staticmethod
    def _begun(text: str) -> bool:
        word = re.split(r"\s", text)[-1]
        return any(mark in word for mark in ":/\\.&<[!")

    def _words(self, text: str) -> str:
        return "".join(self._word(part) for part in re.split(r"(\s+)", text))

    def _word(self, word: str) -> str:
        if not word or word.isspace():
            return word
        if word.isascii() and word.isalnum():
            return word
        plain = "".join(
            letter
            for letter in word
            if letter in _KEPT_MARKS or unicodedata.category(letter) not in {"Cf", "Cc", "Cs", "Co"}
        )
        # A reader's renderer undoes these before it looks for addresses.
        undone = _ESCAPED.sub("", html.unescape(unicodedata.normalize("NFKC", plain)))
        if undone != plain and (_ADDRESS.search(undone) or _TAG.search(undone)):
            plain = undone
        plain = _ADDRESS.sub(self._address, plain)
        plain = _TAG.sub("‹", plain)
        plain = re.sub(r"!+(?=\[)", "", plain)
        return re.sub(r"\](?=[(:])", "] ", plain)

    def _address(self, match: re.Match[str]) -> str:
        before, found = _split(match[0])
        bare = found.rstrip(_TRAILING)
        if not found or bare in self._known:
            return match[0]
        return before + REMOVED + found[len(bare) :]


def contained(text: str, known: frozenset[str]) -> str:
    """The text as it may be shown."""
    containment = Containment(known)
    return containment.push(text) + containment.end()
