"""Talking to Kafka: the client library's settings, its errors in our words, its waits in threads.

The library works in threads of its own and its calls block; every call that may wait is made in a
thread of ours, so that the event loop goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

from penstock.errors import FatalError, FencedError, MissingExtraError, UnavailableError

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer
    from confluent_kafka.admin import AdminClient

P = ParamSpec("P")
T = TypeVar("T")

REQUEST_S: Final = 10.0
"""How long a broker may take to answer before it counts as unavailable."""

_THREADS: Final = 24
_UNTRUSTED: Final = "certificate verify failed"
"""What OpenSSL says of a server whose certificate none of the CAs that are trusted has signed."""

_ALL: Final[Mapping[str, Any]] = {
    "client.id": "penstock",
    "socket.keepalive.enable": True,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1000,
    "log_level": 0,  # what it would write is in the errors that it gives
}
_CONSUMER: Final[Mapping[str, Any]] = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    # An offset that is gone is told, never skipped over.
    "auto.offset.reset": "error",
    "queued.max.messages.kbytes": 16384,
    "fetch.message.max.bytes": 4 * 2**20,
}
_PRODUCER: Final[Mapping[str, Any]] = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "lz4",
    "linger.ms": 0,
    "batch.size": 950_000,
    "queue.buffering.max.messages": 2_000_000,
    "queue.buffering.max.kbytes": 2**20,
}


class Client:
    """Makes producers and consumers with the same settings, and runs their blocking calls.

    ``settings`` are the client library's own (TLS, SASL, timeouts), and go before ours except for
    those on which order and durability rest.
    """

    def __init__(self, bootstrap_servers: str, settings: Mapping[str, str] | None = None) -> None:
        self._common = {
            **_ALL,
            **(settings or {}),
            "bootstrap.servers": bootstrap_servers,
        }
        # A connection that is refused is tried again for ever, and what asked runs out of time: why
        # is told here only.
        self._refusal: str | None = None
        self._common["error_cb"] = self._hear
        self.bootstrap_servers = bootstrap_servers
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="penstock-kafka")
        self._admin: AdminClient | None = None

    def consumer(self, **settings: Any) -> Consumer:
        """A consumer that is told what to read, and never joins a group unless it says so."""
        kafka = library()
        # A group must be named even by those that never join one.
        base = {"group.id": "penstock-unused", **_CONSUMER, **self._common, **settings}
        with translated():
            return kafka.Consumer({**base, **_kept(_CONSUMER)}, logger=_quiet())  # type: ignore[no-any-return]

    def producer(self, transactional_id: str, timeout_s: float) -> Producer:
        """A producer of transactions."""
        kafka = library()
        base = {**_PRODUCER, **self._common}
        base["transactional.id"] = transactional_id
        base["transaction.timeout.ms"] = int(timeout_s * 1000)
        with translated():
            return kafka.Producer({**base, **_kept(_PRODUCER)}, logger=_quiet())  # type: ignore[no-any-return]

    def admin(self) -> AdminClient:
        """What makes and describes topics; one for all."""
        if self._admin is None:
            kafka = library()
            with translated():
                self._admin = kafka.admin.AdminClient(dict(self._common), logger=_quiet())
        return cast("AdminClient", self._admin)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call in a thread; its errors come in our words."""
        loop = asyncio.get_running_loop()

        def run() -> T:
            self._refusal = None
            try:
                with translated():
                    return function(*args, **kwargs)
            except UnavailableError as error:
                if self._admin is not None:
                    self._admin.poll(0)  # hands over what it has to tell
                if self._refusal is None:
                    raise
                raise _refused(self._refusal) from error

        return await loop.run_in_executor(self._threads, run)

    def _hear(self, error: Any) -> None:
        """What the library tells beside its answers; called in threads of its own."""
        codes = library().KafkaError
        said = str(error.str())
        if error.code() == codes._AUTHENTICATION or _UNTRUSTED in said:  # noqa: SLF001
            self._refusal = f"{error.name()}: {said}"

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)


_FIXED: Final = frozenset(
    {"isolation.level", "enable.auto.commit", "auto.offset.reset", "enable.partition.eof"}
    | {"enable.idempotence", "acks"}
)


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What nobody may change: order and durability rest on it."""
    return {name: value for name, value in settings.items() if name in _FIXED}


def library() -> Any:
    """The client library, or what to install."""
    try:
        import confluent_kafka
        import confluent_kafka.admin
    except ImportError as error:
        raise MissingExtraError("the log on Kafka", "kafka") from error
    return confluent_kafka


def _quiet() -> Any:
    """Where the library's own lines go: they repeat what its errors say."""
    import logging

    return logging.getLogger("penstock.kafka")


@contextmanager
def translated() -> Iterator[None]:
    """The library's errors in our words."""
    kafka = library()
    try:
        yield
    except kafka.KafkaException as error:
        raise meaning(error.args[0]) from error


def meaning(error: Any) -> FatalError | UnavailableError | FencedError:
    """What an error of the library means for us."""
    kafka = library()
    codes = kafka.KafkaError
    said = f"{error.name()}: {error.str()}"
    code = error.code()
    if code in {codes._FENCED, codes.PRODUCER_FENCED, codes.INVALID_PRODUCER_EPOCH}:  # noqa: SLF001
        return FencedError(f"expected to be the only producer of its name, Kafka says {said}")
    refused = {
        codes._AUTHENTICATION,  # noqa: SLF001
        codes.TOPIC_AUTHORIZATION_FAILED,
        codes.CLUSTER_AUTHORIZATION_FAILED,
        codes.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        codes.GROUP_AUTHORIZATION_FAILED,
        codes.SASL_AUTHENTICATION_FAILED,
        codes._SSL,  # noqa: SLF001
        codes._INVALID_ARG,  # noqa: SLF001
        codes.POLICY_VIOLATION,
        codes.INVALID_REPLICATION_FACTOR,
        codes.INVALID_CONFIG,
        codes.TOPIC_EXCEPTION,
        codes.UNSUPPORTED_VERSION,
        codes.MSG_SIZE_TOO_LARGE,
    }
    if code in refused:
        return _refused(said)
    return UnavailableError(f"Kafka is not available ({said})")


def _refused(said: str) -> FatalError:
    hint = ""
    if _UNTRUSTED in said:
        hint = " (`ssl.ca.location` in `log.options`: the CA that signed the brokers' certificates)"
    return FatalError(
        f"expected Kafka to allow what the log needs, it refuses ({said}): look at "
        f"docs/howto/kafka.md for the rights and settings, and mend `log`{hint}"
    )
