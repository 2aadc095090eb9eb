"""Conversations that callers lead, as the ledger pins them: there and back. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from penstock.models.gateway.base import Image, Request, Tool, ToolCall, Turn

_SETTINGS: Final = (
    "tool_choice", "shape", "strict", "max_tokens", "temperature", "top_p", "stop", "seed",
    "frequency_penalty", "presence_penalty",
)  # fmt: skip


def pinned_request(said: Request) -> dict[str, Any]:
    """What the caller sent: messages, tools, parameters. What was not said is left out."""
    plain = Request(())
    settings = {
        name: getattr(said, name)
        for name in _SETTINGS
        if getattr(said, name) != getattr(plain, name)
    }
    return {
        "messages": [_short(asdict(turn)) for turn in said.turns],
        "tools": [
            {"name": t.name, "description": t.description, "parameters": t.parameters}
            for t in said.tools
        ],
        "settings": settings,
    }


def _short(turn: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in turn.items() if value not in ((), None)}


def request_of(pinned: Mapping[str, Any]) -> Request:
    """What the caller sent, to ask it again."""
    settings = dict(pinned["settings"])
    if "stop" in settings:
        settings["stop"] = tuple(settings["stop"])
    turns = tuple(
        Turn(
            one["role"],
            one["text"],
            tuple(Image(**image) for image in one.get("images", ())),
            tuple(ToolCall(**call) for call in one.get("calls", ())),
            one.get("result_of"),
        )
        for one in pinned["messages"]
    )
    return Request(turns, tuple(Tool(**tool) for tool in pinned["tools"]), **settings)
