"""What brokers say of the ends of partitions, when they say nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from penstock.errors import UnavailableError
from penstock.log.kafka.client import Client, library
from penstock.log.kafka.places import Places
from penstock.log.kafka.readers import Readers


@pytest.mark.parametrize("which", [0, 1])
async def test_an_end_that_is_not_known_is_no_end(
    monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """A connection that breaks gives -1001 and no error: it must not be read as a shorter topic."""
    client = Client("unused:9")
    asked: list[Any] = []

    def list_offsets(wanted: Any, **_: Any) -> Any:
        asked.append(wanted)
        offset = -1001 if len(asked) - 1 == which else 7
        result = SimpleNamespace(result=lambda: SimpleNamespace(offset=offset))
        return {library().TopicPartition("t", 0): result}

    monkeypatch.setattr(client, "admin", lambda: SimpleNamespace(list_offsets=list_offsets))
    with pytest.raises(UnavailableError, match="got no answer"):
        await Places(client, Readers(client)).bounds([("t", 0)])
    client.close()
