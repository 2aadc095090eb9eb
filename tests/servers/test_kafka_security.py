"""The log on a Kafka that wants TLS and SASL: a CA of our own, SCRAM, PLAIN, who is refused."""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from penstock.database.connect import open_pool
from penstock.errors import FatalError
from penstock.log.kafka.log import KafkaLog, KafkaSettings
from penstock.stores.postgres.consumers import PostgresConsumers
from penstock.testing.logs import change, changes_of, keys

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]

SECRET = "not-to-be-told"
Opened = Callable[..., KafkaLog]


def openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def authority(folder: Path, name: str) -> Path:
    """A CA of our own: NAME.pem and NAME.key."""
    openssl(
        folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem",
    )  # fmt: skip
    return folder / f"{name}.pem"


def certified(folder: Path, ca: str) -> Path:
    """A certificate for 127.0.0.1 with its key, in one file as Kafka reads it."""
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl(
        folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1",
        "-keyout", "broker.key", "-out", "broker.csr",
    )  # fmt: skip
    openssl(
        folder, "x509", "-req", "-in", "broker.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key",
        "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "broker.pem",
    )  # fmt: skip
    both = folder / "broker.both.pem"
    both.write_text((folder / "broker.key").read_text() + (folder / "broker.pem").read_text())
    return both


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kafka-tls")


@pytest.fixture(scope="module")
def secured(kafka_broker: Any, kafka_tool: ModuleType, folder: Path) -> Iterator[Any]:
    """A broker that wants TLS and a password; ``kafka_broker`` says whether there can be one."""
    authority(folder, "ours")
    authority(folder, "another")
    port, inner, controller = (kafka_tool.free_port() for _ in range(3))
    modules = "org.apache.kafka.common.security"
    listener = "listener.name.sasl_ssl"
    broker = kafka_tool.Broker(
        folder / "kafka",
        port=port,
        settings={
            "listeners": f"SASL_SSL://127.0.0.1:{port},PLAINTEXT://127.0.0.1:{inner},"
            f"CONTROLLER://127.0.0.1:{controller}",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            f"{listener}.plain.sasl.jaas.config": (
                f'{modules}.plain.PlainLoginModule required user_penstock="{SECRET}";'
            ),
            f"{listener}.scram-sha-512.sasl.jaas.config": (
                f"{modules}.scram.ScramLoginModule required;"
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(certified(folder, "ours")),
        },
    )
    broker.start()
    _add_user(f"127.0.0.1:{inner}")
    yield broker
    broker.stop()


def _add_user(servers: str) -> None:
    kafka: Any = importlib.import_module("confluent_kafka.admin")
    info = kafka.ScramCredentialInfo(kafka.ScramMechanism.SCRAM_SHA_512, 4096)
    wanted = kafka.UserScramCredentialUpsertion("scrammer", info, SECRET.encode())
    admin = kafka.AdminClient({"bootstrap.servers": servers})
    for done in admin.alter_user_scram_credentials([wanted]).values():
        done.result(20)


@pytest.fixture
async def opened(secured: Any, folder: Path, database_url: str) -> AsyncIterator[Opened]:
    pool = await open_pool(database_url, max_size=3)
    made: list[KafkaLog] = []

    def opening(user: str, mechanism: str, ca: str = "ours", password: str = SECRET) -> KafkaLog:
        options = {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(folder / f"{ca}.pem"),
            "sasl.mechanism": mechanism,
            "sasl.username": user,
            "sasl.password": password,
        }
        settings = KafkaSettings(secured.bootstrap_servers, prefix=f"{user}.", options=options)
        assert SECRET not in repr(settings)
        made.append(KafkaLog(settings, consumers=PostgresConsumers(pool, tenant="default")))
        return made[-1]

    yield opening
    for log in made:
        await log.close()
    await pool.close()


@pytest.mark.parametrize(
    ("user", "mechanism"), [("penstock", "PLAIN"), ("scrammer", "SCRAM-SHA-512")]
)
async def test_a_log_over_tls_with_a_password(opened: Opened, user: str, mechanism: str) -> None:
    """Written, read and fenced as without."""
    log = opened(user, mechanism)
    await log.create_topic("t")
    producer = await log.open_producer("p")
    await producer.append("t", [change(1)], state={"at": "1"})
    assert keys(await changes_of(log, "t")) == ["1"]
    assert dict((await log.open_producer("p")).state) == {"at": "1"}


async def test_a_server_that_the_ca_has_not_signed_is_named(opened: Opened) -> None:
    """Within seconds, as what it is: not as a broker that is away."""
    with pytest.raises(FatalError, match=r"certificate verify failed.*ssl\.ca\.location"):
        await opened("penstock", "PLAIN", ca="another").create_topic("t")


async def test_a_wrong_password_is_named_and_not_told(opened: Opened) -> None:
    """Over TLS as well."""
    with pytest.raises(FatalError, match=r"(?i)authentication") as caught:
        await opened("scrammer", "SCRAM-SHA-512", password=f"{SECRET}-wrong").create_topic("t")
    assert SECRET not in str(caught.value)
