"""Errors, sorted by what the engine does next.

    PenstockError
    ├── ConfigError        before anything starts: the project file or the environment is wrong
    ├── RetryableError     wait and do the same again
    │   ├── UnavailableError   a server or endpoint cannot be reached or is starting
    │   └── ChangedModelError  a model's vectors do not compare with those that are stored
    ├── BadRecordError     this record goes to the dead letters, the rest go on
    └── FatalError         stop this source or pipeline and tell a person
        ├── FencedError        another process has taken over
        ├── SourceError        the source cannot be captured as it is (slot lost, rights, no key)
        ├── DamagedError       what is stored is not what was written
        └── MissingExtraError  an optional dependency is not installed

A message is one lower-case sentence: what was expected, what came, what to do.
Facts are attributes.
"""

from __future__ import annotations

from typing import Any


class PenstockError(Exception):
    """The base of all our errors; ``facts`` hold what the sentence mentions."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts


class ConfigError(PenstockError):
    """The project file, the environment or a command's arguments are wrong."""


class RetryableError(PenstockError):
    """The same step may succeed later; ``retry_after_s`` is the wait that was asked for, if any."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after_s = retry_after_s


class UnavailableError(RetryableError):
    """A server or endpoint cannot be reached."""


class ChangedModelError(RetryableError):
    """A model has been exchanged: what it gives now must not be mixed with what is stored."""


class BadRecordError(PenstockError):
    """A record cannot be processed and never will be as it is."""

    def __init__(self, reason: str, **facts: Any) -> None:
        super().__init__(reason, **facts)
        self.reason = reason


class FatalError(PenstockError):
    """Going on would lose or falsify data."""


class FencedError(FatalError):
    """Another process has taken over this producer or consumer."""


class SourceError(FatalError):
    """The source cannot be captured as it is."""


class DamagedError(FatalError):
    """What is stored is not what was written: a disk, a memory or a hand changed it."""


class MissingExtraError(FatalError):
    """An optional dependency is missing; the message says which extra to install."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the extra {extra!r}, which is not installed: "
            f"run `uv add 'penstock[{extra}]'` or `pip install 'penstock[{extra}]'`",
            extra=extra,
        )
