"""Retrievers for LangChain and LlamaIndex against a running server: their own suites, and ours."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tests.acceptance.conftest import Home
from tests.conftest import TEMPLATE, TestServer

from penstock.clients.search import SearchClient
from penstock.errors import ConfigError, RetryableError

if TYPE_CHECKING:
    from langchain_tests.integration_tests import RetrieversIntegrationTests
else:
    try:
        from langchain_tests.integration_tests import RetrieversIntegrationTests
    except ImportError:
        RetrieversIntegrationTests = object

QUESTION = "Which tent is waterproof?"
_LANGCHAIN = "LangChain (uv sync --group large) is not installed: its retriever was not verified"
_LLAMAINDEX = "LlamaIndex (uv sync --group large) is not installed: its retriever was not verified"


class Served(NamedTuple):
    """A running server, and a key that may ask."""

    url: str
    key: str


@pytest.fixture(scope="module")
def served(postgres: TestServer) -> Iterator[Served]:
    folder = Path(tempfile.mkdtemp(prefix="penstock-home-", dir="/tmp"))
    name = postgres.create("project", TEMPLATE)
    home = Home(folder)
    home.project(postgres.dsn(name))
    for number, tent in enumerate(("Fjord", "Fell", "Moor", "Beach")):
        wet = "waterproof" if number < 3 else "not waterproof"
        (home.documents / f"{tent}.md").write_text(f"# {tent}\n\nThe {tent} tent is {wet}.\n")
    assert home.run("run", "--once").code == 0
    server = home.start("serve").wait_for("the API is at")
    found = re.search(r"http://\S+", server.output)
    assert found is not None
    yield Served(found[0], home.run("keys", "create", "chain").output.split()[0])
    home.close()
    postgres.drop(name)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.skipif(RetrieversIntegrationTests is object, reason=_LANGCHAIN)
class TestLangChain(RetrieversIntegrationTests):
    """LangChain's standard tests."""

    @pytest.fixture(autouse=True)
    def _served(self, served: Served) -> None:
        self._at = served

    @property
    def retriever_constructor(self) -> Any:
        from penstock.clients.langchain import PenstockRetriever

        return PenstockRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"api_key": self._at.key, "url": self._at.url}

    @property
    def retriever_query_example(self) -> str:
        return QUESTION

    def test_documents_say_where_they_are_from(self) -> None:
        """And how old that is; what is filtered out is not there."""
        retriever = self.retriever_constructor(**self.retriever_constructor_params)
        first = retriever.invoke("Which tent is not waterproof?")[0]
        assert "Beach tent is not waterproof" in first.page_content
        assert first.metadata["url"] == "penstock://documents/Beach.md"
        assert first.metadata["age_ms"] >= 0
        where = {"path": "Moor.md"}
        narrow = self.retriever_constructor(**self.retriever_constructor_params, where=where)
        assert [d.metadata["key"] for d in narrow.invoke(QUESTION)] == ["Moor.md"]
        assert self._at.key not in repr(narrow)

    def test_in_a_chain(self) -> None:
        """Beside a prompt, as LangChain's users write it."""
        from langchain_core.prompts import ChatPromptTemplate
        from langchain_core.runnables import RunnableLambda, RunnablePassthrough

        retriever = self.retriever_constructor(**self.retriever_constructor_params)

        def texts(found: list[Any]) -> str:
            return "\n".join(one.page_content for one in found)

        prompt = ChatPromptTemplate.from_template("{context}\n\nQuestion: {question}")
        chain = {
            "context": retriever | RunnableLambda(texts),
            "question": RunnablePassthrough(),
        } | prompt
        assert "The Fjord tent is waterproof." in chain.invoke(QUESTION).to_string()


async def test_llamaindex_retrieves_nodes(served: Served) -> None:
    """Blocking and not; what a model is shown of a node is its text alone."""
    schema = pytest.importorskip("llama_index.core.schema", reason=_LLAMAINDEX)
    from penstock.clients.llamaindex import PenstockRetriever

    retriever = PenstockRetriever(served.key, url=served.url, similarity_top_k=2)
    found = retriever.retrieve(QUESTION)
    assert [one.node_id for one in await retriever.aretrieve(QUESTION)] == [
        one.node_id for one in found
    ]
    assert len(found) == 2
    assert (found[0].score or 0.0) >= (found[1].score or 1.0)
    node = found[0].node
    assert node.metadata["source"] == "documents"
    assert "penstock://" not in node.get_content(metadata_mode=schema.MetadataMode.LLM)


async def test_refusals_are_sentences(served: Served) -> None:
    """A wrong key, a filter that there is not, a server that is away."""
    with pytest.raises(ConfigError, match="key"):
        SearchClient("psk_wrong", url=served.url).search(QUESTION, 3)
    wrong = SearchClient(served.key, url=served.url, where={"colour": "red"})
    with pytest.raises(ConfigError, match="colour"):
        await wrong.asearch(QUESTION, 3)
    away = SearchClient(served.key, url="http://127.0.0.1:9")
    with pytest.raises(RetryableError, match="is `penstock run` or `penstock serve` running"):
        away.search(QUESTION, 3)
    with pytest.raises(RetryableError, match="expected to reach Penstock"):
        await away.asearch(QUESTION, 3)
    away.close()
