"""Servers that the suites of sources share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.testing.amazon import AmazonServer, amazon_server


@pytest.fixture(scope="session")
def amazon() -> Iterator[AmazonServer]:
    """Moto's server, for the session."""
    with amazon_server() as server:
        yield server
