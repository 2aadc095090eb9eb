"""What is kept of answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from penstock.settings.base import Duration, Section


class LedgerSettings(Section):
    """What is kept of answers, so that it can be said afterwards why one was given."""

    content: Literal["kept", "hashed", "off"] = "kept"
    """``kept``: questions, answers and what they rest on, so that an answer can be replayed.
    ``hashed``: only that there was an answer, with which model, from sources of which age; whoever
    kept the rest can show that it is what was given. ``off``: nothing, and answers have no id."""
    keep: Duration = Field(default=90 * 86400.0, gt=0)
    """How long, such as ``90d``. What is older is removed up to a checkpoint, from which the rest
    can still be verified."""
    sessions: Duration = Field(default=30 * 86400.0, gt=0)
    """How long a conversation is remembered that nobody goes on with."""
