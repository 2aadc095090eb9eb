"""From the character sets of MySQL to Python's. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Final

from penstock.sources.mysql.texts import text

BINARY: Final = "binary"

_CODECS: Final = {
    "utf8mb4": "utf-8",
    "utf8mb3": "utf-8",
    "utf8": "utf-8",
    "ascii": "ascii",
    "ucs2": "utf-16-be",
    "utf16": "utf-16-be",
    "utf16le": "utf-16-le",
    "utf32": "utf-32-be",
    "latin2": "iso8859-2",
    "latin5": "iso8859-9",
    "latin7": "iso8859-13",
    "greek": "iso8859-7",
    "hebrew": "iso8859-8",
    "cp1250": "cp1250",
    "cp1251": "cp1251",
    "cp1256": "cp1256",
    "cp1257": "cp1257",
    "cp850": "cp850",
    "cp852": "cp852",
    "cp866": "cp866",
    "cp932": "cp932",
    "koi8r": "koi8-r",
    "koi8u": "koi8-u",
    "gbk": "gbk",
    "gb2312": "gb2312",
    "gb18030": "gb18030",
    "big5": "big5",
    "sjis": "shift_jis",
    "ujis": "euc_jp",
    "eucjpms": "euc_jp",
    "euckr": "cp949",
    "tis620": "tis-620",
    "macroman": "mac-roman",
    "macce": "mac-latin2",
}

LATIN1: Final = {
    byte: (bytes([byte]).decode("cp1252", "replace").replace("\ufffd", chr(byte)))
    for byte in range(0x80, 0xA0)
}
"""What MySQL's latin1 has where ISO 8859-1 has controls: Windows' letters, and where Windows has
none, the control."""


def decoder_of(charset: str) -> Callable[[bytes], str] | None:
    """From bytes in a character set of the server to text; None when we do not know the set.

    Bytes that the set does not have become U+FFFD: they are damaged where they come from already.
    """
    if charset == "latin1":
        return _latin1
    name = _CODECS.get(charset)
    if name is None:
        return None
    decode = codecs.getdecoder(name)

    def decoded(value: bytes) -> str:
        return text(decode(value, "replace")[0])

    return decoded


def _latin1(value: bytes) -> str:
    return text(value.decode("latin-1").translate(LATIN1))
