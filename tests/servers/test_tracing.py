"""Spans over capture, pipelines, retrieval and model calls; and nothing where nobody asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from penstock import tracing
from penstock.models.base import Usage, Written
from penstock.operate.otel import Tracing
from penstock.project import open_project
from penstock.serving.answer import Answerer
from penstock.settings import Settings

ASKED = "Until when can a flight be cancelled?"


class Words:
    """A generator of statements."""

    name = "openai/words-1"

    async def write(self, messages: Any, shape: Any) -> Written:
        value = {"statements": [{"text": "Until 24 hours before.", "items": [1]}]}
        return Written(value, Usage(1, 100, 20, 0.002))

    async def close(self) -> None:
        """Nothing is open."""


async def test_a_change_and_a_question_are_seen_in_spans(database_url: str, tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    measured = Tracing("http://unused", project="seen", version="0", exporter=exporter)
    measured.start()
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "policy.md").write_text("A flight can be cancelled for 24 hours.\n")
    settings = Settings.model_validate(
        {
            "project": "seen",
            "database": database_url,
            "knowledge": {"embedder": "constant"},
            "sources": {"documents": {"type": "files", "path": str(tmp_path / "documents")}},
        }
    )
    try:
        async with open_project(settings=settings) as project, project.running():
            await project.caught_up(limit_s=30)
            answerer = Answerer(project.contexts(), embedder=project.embedder(), generator=Words())
            await answerer.answer(ASKED, project._asking(None))
    finally:
        measured.stop()
    found: dict[str, ReadableSpan] = {span.name: span for span in exporter.get_finished_spans()}
    capture = found["penstock.capture"].attributes
    assert capture is not None
    assert capture["source"] == "documents"
    assert {"penstock.compute", "penstock.apply", "penstock.context"} <= set(found)
    chat, whole = found["chat words-1"], found["penstock.answer"]
    said = chat.attributes
    assert said is not None
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.provider.name"] == "openai"
    assert said["gen_ai.request.model"] == "words-1"
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (100, 20)
    assert chat.parent is not None
    assert whole.context is not None
    assert chat.parent.span_id == whole.context.span_id
    (embeddings,) = {name for name in found if name.startswith("embeddings ")}
    about = found[embeddings].attributes
    assert about is not None
    assert about["gen_ai.operation.name"] == "embeddings"
    assert found[embeddings].resource.attributes["penstock.project"] == "seen"


def test_an_error_is_told_of_its_span() -> None:
    exporter = InMemorySpanExporter()
    measured = Tracing("http://unused", project="seen", version="0", exporter=exporter)
    measured.start()
    try:
        with pytest.raises(ValueError, match="no"), tracing.span("penstock.step", number=1):
            raise ValueError("no")
    finally:
        measured.stop()
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert span.events[0].name == "exception"


def test_without_a_tracer_a_span_is_one_object_that_does_nothing() -> None:
    first, second = tracing.span("a", number=1), tracing.model_call("chat", "openai/x")
    assert first is second
    with first as nothing:
        nothing.set(number=2)
    tracing.begin_model_call("chat", "openai/x").end()
