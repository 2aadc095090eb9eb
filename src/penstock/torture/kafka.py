"""The log on Kafka, in a campaign: a broker to break, and an eye that reads its topics.

The broker is one that the campaign starts itself (`tools/kafka.py` of a checkout, on Java), behind
a proxy; or one that is given, which is only read and written, and of which our topics are removed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import psycopg

import penstock
from penstock.errors import ConfigError
from penstock.log.codec import Codec
from penstock.log.kafka.client import library
from penstock.log.kafka.frames import Assembler
from penstock.torture.ledger import Judge, Note
from penstock.torture.proxy import Proxy
from penstock.torture.shop import signal_tree

_TOOL: Final = Path(penstock.__file__).parents[2] / "tools" / "kafka.py"
_ANSWER_S: Final = 30.0
_UNSURE_MS: Final = 50
"""Records carry their time in milliseconds: one of the source's state belongs to the append whose
time is this near."""


def _tool() -> ModuleType:
    """`tools/kafka.py`; a `ConfigError` says what is missing."""
    if not _TOOL.exists():
        raise ConfigError(
            "expected a checkout of penstock to start a Kafka broker from (tools/kafka.py), got an "
            "installed package: start a broker yourself and name it with --log kafka://host:port"
        )
    spec = importlib.util.spec_from_file_location("kafka_tool", _TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reason = module.why_not()
    if reason is not None:
        raise ConfigError(f"expected to start a Kafka broker for --log kafka, but {reason}")
    return module


class KafkaSide:
    """A broker and what is on the way to it."""

    def __init__(self, log: str, folder: Path) -> None:
        library()
        self.proxy = Proxy()
        self.prefix = f"penstock.torture-{secrets.token_hex(4)}."
        self._broker: Any = None
        self._folder = folder
        self._given = log.removeprefix("kafka://") if log.startswith("kafka://") else None
        self._tool = None if self._given else _tool()

    @property
    def servers(self) -> str:
        """How the campaign reaches the broker, past the proxy."""
        return self._given or str(self._broker.bootstrap_servers)

    async def begin(self) -> None:
        """Start the broker, unless one was given."""
        if self._tool is not None:
            port = self._tool.free_port()
            await self.proxy.open(port)
            self._broker = self._tool.Broker(
                self._folder, port=port, advertised=f"127.0.0.1:{self.proxy.port}"
            )
            await asyncio.to_thread(self._broker.start)

    async def start(self) -> None:
        """Start the broker, if it is ours and does not run."""
        if self._broker is not None and not self._broker.runs:
            await asyncio.to_thread(self._broker.start)

    def kill(self) -> None:
        """SIGKILL of the broker."""
        self._broker.kill()

    def signal(self, number: signal.Signals) -> None:
        """To the broker."""
        if self._broker.runs:
            signal_tree(self._broker.pid, number)

    async def end(self) -> None:
        """Stop the broker, or take our topics away from one that is not ours."""
        await self.proxy.close()
        if self._broker is not None:
            await asyncio.to_thread(self._broker.kill)
        else:
            await asyncio.to_thread(self._clean)

    def _clean(self) -> None:
        admin = library().admin.AdminClient({"bootstrap.servers": self.servers})
        topics = admin.list_topics(timeout=_ANSWER_S).topics
        ours = [name for name in topics if name.startswith(self.prefix)]
        for done in admin.delete_topics(ours).values() if ours else ():
            done.result(_ANSWER_S)

    def project(self) -> str:
        """The log in the project file, after what all logs have."""
        servers = self._given or f"127.0.0.1:{self.proxy.port}"
        return f', type: kafka, bootstrap_servers: "{servers}", prefix: {self.prefix}'

    def eye(self) -> KafkaEye:
        """What reads the log for the judges."""
        return KafkaEye(self)


class KafkaEye:
    """Reads committed records of the topic of changes and of that of the source's state."""

    def __init__(self, side: KafkaSide) -> None:
        self._side = side
        self._codec = Codec()
        self._assemblers: dict[int, Assembler] = {}
        self._offsets: dict[tuple[str, int], int] = {}
        self._state: dict[str, str] = {}

    async def follow(self, target: Any, judges: Sequence[Judge]) -> None:
        del target
        await asyncio.to_thread(self._follow, judges)

    def _follow(self, judges: Sequence[Judge]) -> None:
        topic = f"{self._side.prefix}shop"
        found = {judge.partition: self._new(topic, judge.partition) for judge in judges}
        # Asked later, so that it is not behind.
        for note in self._copies():
            for judge in judges:
                judge.note(note)
        for judge in judges:
            assembler = self._assemblers.setdefault(judge.partition, Assembler())
            for message in found[judge.partition]:
                whole = assembler.feed(message.offset(), message.value())
                if whole is not None:
                    moment = message.timestamp()[1]
                    payloads = [append.payload for append in whole.appends if append.payload]
                    changes = [c for p in payloads for c in self._codec.decode(p).changes]
                    judge.take(whole.last, moment, changes)

    def _copies(self) -> Iterator[Note]:
        """What the source's state says of copies, by the time of its records."""
        for message in self._new(f"{self._side.prefix}-state.shop", 0):
            name = message.key().decode()
            value = None if message.value() is None else message.value().decode()
            was = self._state.get(name)
            if value is None:
                self._state.pop(name, None)
            else:
                self._state[name] = value
            kind, _, stream = name.partition(":")
            at = message.timestamp()[1]
            begins = Note(stream, begins=True, at=at - _UNSURE_MS)
            ended = value is not None and not value.startswith("[")
            began = kind == "copy" and was is None and value is not None
            if began or (kind == "table" and not ended):
                yield begins
            elif kind == "table" and was != value:
                yield Note(stream, begins=False, at=at + _UNSURE_MS)

    async def held(self, target: psycopg.AsyncConnection[Any]) -> int | None:
        del target
        # The copies that this passes on are noted again by nobody: the state is read in `follow`.
        state = await asyncio.to_thread(self._present_state)
        lsn = state.get("lsn")
        if lsn is None:
            return None
        high, low = lsn.split("/")
        return (int(high, 16) << 32) + int(low, 16)

    def _present_state(self) -> dict[str, str]:
        state: dict[str, str] = {}
        for message in self._read(f"{self._side.prefix}-state.shop", 0, 0):
            if message.value() is None:
                state.pop(message.key().decode(), None)
            else:
                state[message.key().decode()] = message.value().decode()
        return state

    def _new(self, topic: str, partition: int) -> list[Any]:
        """What has come since."""
        found = list(self._read(topic, partition, self._offsets.get((topic, partition), 0)))
        if found:
            self._offsets[topic, partition] = found[-1].offset() + 1
        return found

    def _read(self, topic: str, partition: int, offset: int) -> Iterator[Any]:
        kafka = library()
        consumer = kafka.Consumer(
            {
                "bootstrap.servers": self._side.servers,
                "group.id": "penstock-torture",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        try:
            consumer.assign([kafka.TopicPartition(topic, partition, offset)])
            until = time.monotonic() + _ANSWER_S
            while True:
                message = consumer.poll(1.0)
                error = None if message is None else message.error()
                if message is not None and error is None:
                    yield message
                elif error is not None and error.code() == kafka.KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's own name
                    return
                elif time.monotonic() > until:
                    raise ConnectionError(f"Kafka does not give {topic} to the campaign: {error}")
        finally:
            consumer.close()

    def forget(self) -> None:
        self._assemblers.clear()
        self._offsets.clear()
        self._state.clear()

    async def close(self) -> None:
        return
