"""All embedders pass the shipped suite."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.clock import SystemClock
from penstock.models.adjusted import AdjustedEmbedder
from penstock.models.bedrock import BedrockEmbedder
from penstock.models.cohere import CohereEmbedder
from penstock.models.constant import ConstantEmbedder
from penstock.models.folder import FolderEmbedder
from penstock.models.limits import Limits, MemoryLedger, MemoryReferences
from penstock.models.minilm import MiniLMEmbedder
from penstock.models.minilm_weights import Precision, model_folder
from penstock.models.openai import OpenAIEmbedder
from penstock.models.remote import Care
from penstock.testing.fake_openai import AMAZON, FakeOpenAI
from penstock.testing.model_folders import write_folder
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


class TestOpenAIEmbedderCut(EmbedderSuite):
    """An endpoint that gives more than is kept, asked with the probe and within limits."""

    @pytest.fixture
    async def embedder(self) -> AsyncIterator[OpenAIEmbedder]:
        async with FakeOpenAI(dimensions=64) as endpoint:
            limits, clock = Limits(requests_per_minute=100_000), SystemClock()
            embedder = OpenAIEmbedder(
                model="large",
                dimensions=24,
                gives=64,
                api_key="k",
                base_url=endpoint.base_url,
                prefixes={"document": "passage: ", "question": "query: "},
                care=Care(limits, MemoryLedger(limits, clock), MemoryReferences(), clock),
            )
            yield embedder
            await embedder.close()


class TestCohereEmbedder(EmbedderSuite):
    @pytest.fixture
    async def embedder(self) -> AsyncIterator[CohereEmbedder]:
        async with FakeOpenAI(dimensions=48) as endpoint:
            url = endpoint.base_url.removesuffix("/v1") + "/v2"
            care = Care(references=MemoryReferences())
            embedder = CohereEmbedder(
                model="embed-v4.0", dimensions=48, api_key="k", base_url=url, care=care
            )
            yield embedder
            await embedder.close()


class TestBedrockEmbedder(EmbedderSuite):
    @pytest.fixture(params=["amazon.titan-embed-text-v2:0", "cohere.embed-english-v3"])
    async def embedder(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[BedrockEmbedder]:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", AMAZON[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", AMAZON[1])
        async with FakeOpenAI(dimensions=48) as endpoint:
            embedder = BedrockEmbedder(
                model=request.param,
                dimensions=48,
                region="eu-west-1",
                base_url=endpoint.base_url.removesuffix("/v1"),
                care=Care(references=MemoryReferences()),
            )
            yield embedder
            await embedder.close()


class TestFolderOfWeights(EmbedderSuite):
    """The published folder of all-MiniLM-L6-v2, which has weights and no graph; one of its layers,
    because all of them are compared with our own graph in tests/unit/test_model_folders.py."""

    @pytest.fixture
    async def embedder(self, tmp_path: Path) -> AsyncIterator[FolderEmbedder]:
        folder = shutil.copytree(model_folder(), tmp_path / "one layer", copy_function=os.symlink)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
        embedder = FolderEmbedder(folder, threads=1)
        yield embedder
        await embedder.close()


class TestFolderWithGraph(EmbedderSuite):
    @pytest.fixture
    async def embedder(self, tmp_path: Path) -> AsyncIterator[AdjustedEmbedder]:
        inner = FolderEmbedder(write_folder(tmp_path), threads=2)
        embedder = AdjustedEmbedder(inner, dimensions=24, storage="int8")
        yield embedder
        await embedder.close()
