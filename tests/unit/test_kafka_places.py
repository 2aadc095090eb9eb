"""What brokers say of the ends of partitions, when they say nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from penstock.errors import FatalError, UnavailableError
from penstock.log.kafka.client import Client, library
from penstock.log.kafka.log import KafkaLog, KafkaSettings
from penstock.log.kafka.places import Places
from penstock.log.kafka.readers import Readers
from penstock.records import Microseconds


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


@pytest.mark.parametrize(("count", "error"), [(1, UnavailableError), (None, FatalError)])
async def test_a_topic_that_is_out_of_sight_is_asked_for_before_it_is_called_gone(
    monkeypatch: pytest.MonkeyPatch, count: int | None, error: type[Exception]
) -> None:
    """With a connection the library loses what it knew of topics; that is no reason to stop."""
    log = KafkaLog(KafkaSettings("unused:9"), consumers=None)  # type: ignore[arg-type]

    async def bounds(_: Any) -> dict[Any, Any]:
        return {}

    async def counted(_: str) -> int | None:
        return count

    monkeypatch.setattr(log._places, "bounds", bounds)
    monkeypatch.setattr(log._topics, "count", counted)
    with pytest.raises(error):
        await log.seek("t", 0, Microseconds(0))
    monkeypatch.undo()
