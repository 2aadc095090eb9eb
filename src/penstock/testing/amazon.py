"""A server with Amazon's interfaces (moto), in a process of its own, for tests."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from penstock.errors import UnavailableError
from penstock.sources.amazon import AmazonAccess

_START_S = 30.0
REGION = "eu-central-1"


class AmazonServer:
    """Where it listens, and clients for it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.access = AmazonAccess(REGION, endpoint, "test", "test-secret")

    def client(self, service: str) -> Any:
        """A plain boto3 client, to write with."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test-secret",  # noqa: S106 - moto takes any
        )


@contextlib.contextmanager
def amazon_server() -> Iterator[AmazonServer]:
    """Start it on a free port; it is stopped when the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    try:
        _wait_for(port, process)
        yield AmazonServer(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError("expected moto's server to start, it did not") from error
            time.sleep(0.05)
