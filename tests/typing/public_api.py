"""How the public names are typed: checked by mypy with the rest, never run.

Each ``type: ignore`` marks a use that must be an error; mypy complains when it is none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_type

import penstock
from penstock.errors import BadRecordError, PenstockError, RetryableError
from penstock.principals import Principal
from penstock.records import Change, LogPosition, Op, Position, Row, Schema, Value
from penstock.serving.answer import Answer, Citation
from penstock.serving.context import Context
from penstock.serving.items import ContextRow
from penstock.sources.base import Source, SourceBatch, State, StateChange
from penstock.stores.base import Filter, Passage


async def ask() -> None:
    """A project is opened with ``async with`` and asked with keywords."""
    async with penstock.open("penstock.yaml") as project:
        assert_type(project, penstock.Project)
        context = await project.context("What does it cost?", limit=5, where=Filter())
        assert_type(context, Context)
        assert_type(context.passages, list[Passage])
        assert_type(context.rows, list[ContextRow])
        assert_type(context.age_ms("shop"), float | None)
        answer = await project.answer("What does it cost?", principal=Principal("ann"))
        assert_type(answer, Answer)
        assert_type(answer.citations, tuple[Citation, ...])
        await project.context("What?", mode="fuzzy")  # type: ignore[arg-type]
        await project.context("What?", 5)  # type: ignore[arg-type, call-arg]
    with penstock.open("penstock.yaml"):  # type: ignore[attr-defined]
        pass


def positions(change: Change, log_position: LogPosition) -> None:
    """A position of a source is no position of the log, and neither is a bare text or number."""
    assert_type(change.position, Position)
    assert_type(change.op, Op)
    assert_type(change.after, Row | None)
    assert_type(change.value("price"), Value)
    change._replace(position=log_position)  # type: ignore[arg-type]
    LogPosition("3")  # type: ignore[arg-type]


class Clockwork:
    """A source of one's own needs no base class."""

    name = "clockwork"

    async def read(self, state: State) -> AsyncIterator[SourceBatch]:
        yield SourceBatch(state={"at": state.get("at", "")})

    async def acknowledge(self, state: StateChange) -> None: ...

    async def close(self) -> None: ...


class Forgetful:
    """Without an acknowledgement it is none."""

    name = "forgetful"

    async def read(self, state: State) -> AsyncIterator[SourceBatch]:
        yield SourceBatch(state=dict(state))

    async def close(self) -> None: ...


SOURCES: list[Source] = [
    Clockwork(),
    Forgetful(),  # type: ignore[list-item]
]


def errors(error: PenstockError) -> None:
    """What the engine does next is a class, and its facts are attributes."""
    if isinstance(error, RetryableError):
        assert_type(error.retry_after_s, float | None)
    elif isinstance(error, BadRecordError):
        assert_type(error.reason, str)


def schemas(schema: Schema) -> None:
    """Schemas are frozen."""
    assert_type(schema.names, tuple[str, ...])
    schema.stream = "other"  # type: ignore[misc]
