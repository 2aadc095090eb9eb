"""All embedders pass the shipped suite."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from penstock.models.constant import ConstantEmbedder
from penstock.models.minilm import MiniLMEmbedder
from penstock.models.minilm_weights import Precision
from penstock.models.openai import OpenAIEmbedder
from penstock.testing.fake_openai import FakeOpenAI
from penstock.testing.models import EmbedderSuite


class TestConstantEmbedder(EmbedderSuite):
    @pytest.fixture
    def embedder(self) -> ConstantEmbedder:
        return ConstantEmbedder()


class TestOpenAIEmbedder(EmbedderSuite):
    @pytest.fixture
    async def embedder(self) -> AsyncIterator[OpenAIEmbedder]:
        async with FakeOpenAI(dimensions=48) as endpoint:
            embedder = OpenAIEmbedder(
                model="small", dimensions=48, api_key="k", base_url=endpoint.base_url, batch_size=16
            )
            yield embedder
            await embedder.close()


class TestMiniLMEmbedder(EmbedderSuite):
    @pytest.fixture(params=["fp32", "int8"])
    async def embedder(self, request: pytest.FixtureRequest) -> AsyncIterator[MiniLMEmbedder]:
        precision: Precision = request.param
        embedder = MiniLMEmbedder(precision=precision, threads=2)
        yield embedder
        await embedder.close()
