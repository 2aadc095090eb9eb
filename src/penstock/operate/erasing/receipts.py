"""Receipts: what was erased, in counts, signed with the project's secret.

HMAC rather than a public key: the core has no library for signatures, and who can check a receipt
is then who has the project's database, which is who has to show it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final

import orjson

from penstock.errors import ConfigError

ALGORITHM: Final = "HMAC-SHA256"


def signed(receipt: Mapping[str, Any], secret: bytes) -> dict[str, Any]:
    """The receipt with its signature."""
    return {
        **receipt,
        "signature": {
            "algorithm": ALGORITHM,
            "key": hashlib.sha256(b"key" + secret).hexdigest()[:16],
            "value": _value(receipt, secret),
        },
    }


def verify(text: bytes, secret: bytes) -> dict[str, Any]:
    """A receipt as it was read from a file, if it is as it was signed; else `ConfigError`."""
    try:
        receipt = orjson.loads(text)
        signature = receipt.pop("signature")
        key, value, algorithm = signature["key"], signature["value"], signature["algorithm"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            "expected a receipt as `penstock erase --receipt` writes it, got something else"
        ) from error
    if algorithm != ALGORITHM:
        raise ConfigError(f"expected a receipt signed with {ALGORITHM}, got {algorithm!r}")
    if key != hashlib.sha256(b"key" + secret).hexdigest()[:16]:
        raise ConfigError(
            "expected a receipt of this project, but it was signed with the key of another: "
            "verify it in the project that wrote it"
        )
    if not hmac.compare_digest(str(value), _value(receipt, secret)):
        raise ConfigError("the receipt is not as it was signed: something in it was changed")
    return dict(receipt)


def _value(receipt: Mapping[str, Any], secret: bytes) -> str:
    data = orjson.dumps(dict(receipt), option=orjson.OPT_SORT_KEYS)
    return hmac.new(secret, b"receipt" + data, hashlib.sha256).hexdigest()


def seal(data: bytes, key: bytes) -> bytes:
    """``data`` as bytes that say nothing without the key; the same again opens them. A key is used
    once: with its row, what it sealed is gone wherever a copy may lie."""
    stream = b"".join(
        hashlib.blake2b(number.to_bytes(8, "big"), key=key).digest()
        for number in range(len(data) // 64 + 1)
    )
    return bytes(one ^ other for one, other in zip(data, stream, strict=False))
