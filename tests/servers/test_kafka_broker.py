"""The broker that tests use is a real one, and dies and comes back as they say."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

pytestmark = pytest.mark.servers


def test_the_broker_answers(kafka_broker: Any) -> None:
    """A plain client sees one broker."""
    cluster = AdminClient({"bootstrap.servers": kafka_broker.bootstrap_servers})
    assert len(cluster.list_topics(timeout=10).brokers) == 1


def test_a_killed_broker_comes_back_on_its_port(
    kafka_broker: Any, kafka_tool: ModuleType, tmp_path: Path
) -> None:
    """kill -9, start: the same address and cluster."""
    broker = kafka_tool.Broker(tmp_path / "kafka")
    try:
        broker.start()
        before = broker.bootstrap_servers
        broker.kill()
        broker.start()
        assert broker.bootstrap_servers == before
        cluster = AdminClient({"bootstrap.servers": before})
        assert len(cluster.list_topics(timeout=10).brokers) == 1
    finally:
        broker.stop()
