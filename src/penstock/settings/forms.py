"""Forms that a conversation fills in."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from penstock.settings.base import Name, Section


class SlotSettings(Section):
    """One thing that a form wants to know."""

    question: str = Field(min_length=1, max_length=500)
    """How it is asked for."""
    type: Literal["text", "integer", "number", "date", "boolean", "email", "choice"] = "text"
    """``date`` as 2026-05-01; ``boolean`` as yes or no; ``choice`` is one of ``choices``."""
    pattern: str | None = Field(default=None, max_length=500)
    """A regular expression that the whole value fits: ``[A-Z]{2}\\d{3,4}``. What fits is found in
    any answer, also in one to another question."""
    choices: tuple[str, ...] = ()
    """For the type ``choice``."""
    required: bool = True
    """Others are taken where they are said, and not asked for."""

    @field_validator("pattern", mode="after")
    @classmethod
    def _pattern_is_one(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"expected a regular expression, got: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _choices_fit(self) -> SlotSettings:
        if (self.type == "choice") != bool(self.choices):
            raise ValueError("expected `choices` with the type choice, and only with that")
        return self


class FormSettings(Section):
    """A form: what it wants to know, in order."""

    slots: dict[Name, SlotSettings] = Field(min_length=1, max_length=50)
    """What is asked for, by name."""
