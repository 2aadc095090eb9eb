"""What our topics and producers are called in Kafka."""

from __future__ import annotations

import re
from typing import Final

from penstock.errors import ConfigError

MOST: Final = 249
"""The longest name that Kafka allows."""

_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._")
_ESCAPED: Final = re.compile(r"-([0-9A-F]{2})")
_STATE: Final = "-state."  # no topic of ours begins with it: a hyphen is always escaped


class Names:
    """Names under one prefix. Other bytes than letters, digits, ``.`` and ``_`` are written as a
    hyphen and two hexadecimal digits, so that every name of ours is one of Kafka's and back."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def topic(self, name: str) -> str:
        """The topic that holds the changes of a topic of ours."""
        return self._checked(self.prefix + _escaped(name), name)

    def state(self, producer: str) -> str:
        """The compacted topic that holds the state of a producer of ours."""
        return self._checked(self.prefix + _STATE + _escaped(producer), producer)

    def transactional_id(self, producer: str) -> str:
        """What fences the producers of one name."""
        return self.prefix + _escaped(producer)

    def ours(self, topic: str) -> str | None:
        """The name of ours behind a topic; None for state, and for what is not ours."""
        rest = topic.removeprefix(self.prefix)
        if not topic.startswith(self.prefix) or rest.startswith(_STATE):
            return None
        raw = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), rest)
        return raw.encode("latin-1").decode("utf-8", "surrogateescape")

    def _checked(self, topic: str, name: str) -> str:
        if len(topic) > MOST:
            raise ConfigError(
                f"expected a name of a topic that has at most {MOST} characters in Kafka, got "
                f"{topic!r} for {name!r}: choose a shorter name or a shorter log.prefix"
            )
        return topic


def _escaped(name: str) -> str:
    data = name.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in _PLAIN else f"-{byte:02X}" for byte in data)
