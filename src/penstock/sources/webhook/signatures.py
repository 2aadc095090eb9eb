"""Signatures after Standard Webhooks: HMAC-SHA256 over ``id.timestamp.body``. Pure."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from penstock.errors import ConfigError

TOLERANCE_S: Final = 300
_PREFIX: Final = "whsec_"
_MIN_SECRET: Final = 16
_ID: Final = re.compile(r"[A-Za-z0-9_\-:]{1,200}")
_TIMESTAMP: Final = re.compile(r"[1-9][0-9]{0,11}")
_MOST_SIGNATURES: Final = 16


class Signed(NamedTuple):
    """Who a delivery says that it is; only to be believed when `verify` has returned it."""

    id: str
    timestamp: int


class Forged(NamedTuple):
    """Why a delivery is not to be believed."""

    reason: str


def secret_bytes(secret: str) -> bytes:
    """The bytes behind ``whsec_...`` (base64)."""
    try:
        found = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(
            "expected a webhook secret in base64 such as whsec_MfKQ9r8G..., got something else"
        ) from error
    if len(found) < _MIN_SECRET:
        raise ConfigError(
            f"expected a webhook secret of at least {_MIN_SECRET} bytes, got {len(found)}: "
            "make one with `openssl rand -base64 32`"
        )
    return found


def sign(secret: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """The signature of a delivery, as its header carries it."""
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(secret, signed, sha256)).decode()


def verify(
    secrets: Sequence[bytes], headers: Mapping[str, str], body: bytes, now_s: float
) -> Signed | Forged:
    """Whether one of the signatures was made with one of the secrets, not long ago.

    The texts of the headers are what is signed and what is compared, so that nothing else that
    would decode to the same is taken. A dot in the id could move the border between id and
    timestamp, and is refused.
    """
    message_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "").split(" ")
    if _ID.fullmatch(message_id) is None:
        return Forged("expected a webhook-id of 1 to 200 letters, digits, '_', '-' or ':'")
    if _TIMESTAMP.fullmatch(timestamp) is None:
        return Forged("expected a webhook-timestamp in seconds since 1970")
    if abs(now_s - int(timestamp)) > TOLERANCE_S:
        return Forged(
            f"expected a webhook-timestamp within {TOLERANCE_S} s of now: the delivery is old, or "
            "a clock is wrong"
        )
    valid = False
    for secret in secrets:
        expected = sign(secret, message_id, timestamp, body).encode()
        for signature in signatures[:_MOST_SIGNATURES]:
            # No early end: how long it takes says nothing about which part was right.
            valid |= hmac.compare_digest(expected, signature.encode(errors="replace"))
    if not valid:
        return Forged("expected a webhook-signature made with this source's secret, got another")
    return Signed(message_id, int(timestamp))
