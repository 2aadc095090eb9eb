"""What all parts of the settings share: the section, durations, sizes, names."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*$")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,39}$")
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(B|kB|KB|MB|GB|TB)?\s*$")
_SIZE_UNITS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, None: 1}


def _duration(value: object) -> object:
    if isinstance(value, str):
        match = _DURATION.match(value)
        if match is None:
            raise ValueError("expected a duration such as 500ms, 10s, 15m, 12h or 7d")
        return float(match[1]) * _DURATION_UNITS[match[2]]
    return value


def _size(value: object) -> object:
    if isinstance(value, str):
        match = _SIZE.match(value)
        if match is None:
            raise ValueError("expected a size such as 500 kB, 50 MB or 2 GB")
        return int(float(match[1]) * _SIZE_UNITS[match[2]])
    return value


def typed(value: object) -> object:
    """A bare name stands for the mapping with that ``type``."""
    return {"type": value} if isinstance(value, str) else value


def named_tables(value: object) -> object:
    """A list of names, or names with settings; a name without settings takes the defaults."""
    if isinstance(value, list):
        return {str(name): {} for name in value}
    if isinstance(value, dict):
        return {name: {} if settings is None else settings for name, settings in value.items()}
    return value


def _name(value: str) -> str:
    if _NAME.match(value) is None:
        raise ValueError(
            "expected a name of lower-case letters, digits and underscores that begins with a "
            f"letter and has at most 40, got {value!r}"
        )
    return value


Duration = Annotated[
    float, BeforeValidator(_duration, json_schema_input_type=float | str), Field(ge=0)
]
Size = Annotated[int, BeforeValidator(_size, json_schema_input_type=int | str), Field(ge=0)]
Name = Annotated[str, AfterValidator(_name)]


class Section(BaseModel):
    """What all parts of the settings have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
