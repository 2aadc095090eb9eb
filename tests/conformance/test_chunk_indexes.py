"""Second stores pass one suite."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.errors import ConfigError, FatalError, UnavailableError
from penstock.stores.chunk_index import ChunkIndex, Gone
from penstock.stores.lancedb import LanceDBIndex
from penstock.stores.opensearch import OpenSearchIndex
from penstock.testing.chunk_indexes import ChunkIndexSuite, row


@pytest.mark.package("lancedb")
class TestLanceDB(ChunkIndexSuite):
    @pytest.fixture
    async def index(self, tmp_path: Path) -> AsyncIterator[ChunkIndex]:
        index = LanceDBIndex(str(tmp_path / "lance"), "chunks")
        yield index
        await index.close()


@pytest.mark.servers
class TestOpenSearch(ChunkIndexSuite):
    @pytest.fixture
    async def index(self, opensearch: str) -> AsyncIterator[ChunkIndex]:
        index = OpenSearchIndex(opensearch, f"chunks-{uuid.uuid4().hex}")
        yield index
        await index.close()

    async def test_it_is_found_after_a_refresh_and_not_before(self, opensearch: str) -> None:
        """So only a refresh may say how fresh it is."""
        index = OpenSearchIndex(opensearch, f"chunks-{uuid.uuid4().hex}")
        await index.prepare(16)
        await index.write([row(1)], [])
        assert await index.ranges("default") == {}
        await index.refresh()
        assert len(await index.ranges("default")) == 1
        await index.close()

    async def test_an_index_that_is_gone_is_not_made_without_its_mapping(
        self, opensearch: str
    ) -> None:
        index = OpenSearchIndex(opensearch, f"never-made-{uuid.uuid4().hex}")
        for attempt in (index.write([row(1)], [Gone(2, 1)]), index.refresh()):
            with pytest.raises(FatalError, match="is not there"):
                await attempt
        await index.close()


async def test_a_server_that_is_away_is_waited_for() -> None:
    index = OpenSearchIndex("http://127.0.0.1:9", "chunks", password="secret", username="u")
    with pytest.raises(UnavailableError) as caught:
        await index.refresh()
    assert "secret" not in str(caught.value)
    await index.close()


def test_a_password_has_no_place_in_the_address() -> None:
    for url in ("http://u:secret@host", "host:9200", "file:///etc"):
        with pytest.raises(ConfigError) as caught:
            OpenSearchIndex(url, "chunks")
        assert "secret" not in str(caught.value)
