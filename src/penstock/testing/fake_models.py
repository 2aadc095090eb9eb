"""Answers of language models as Anthropic and Bedrock's Converse send them, beside those of
`fake_openai`, whose server sends them too."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32

import orjson

from penstock.testing.fake_openai import Reply, event, stream

EVENTS = {"content-type": "application/vnd.amazon.eventstream"}


def openai_chat(
    *texts: str,
    finish: str = "stop",
    usage: Mapping[str, Any] | None = None,
    calls: Sequence[Mapping[str, Any]] = (),
    model: str = "m-1",
) -> Reply:
    """Text in pieces, calls, and how it ends; with usage in a last chunk, as OpenAI does."""
    head = {"id": "c", "object": "chat.completion.chunk", "model": model}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": text} for text in texts]
    deltas += [{"tool_calls": [call]} for call in calls]
    events = [event({**head, "choices": [{"index": 0, "delta": d}]}) for d in deltas]
    events.append(event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}))
    if usage is not None:
        events.append(event({**head, "choices": [], "usage": usage}))
    return stream(*events, b"data: [DONE]\n\n")


def anthropic_event(kind: str, **said: Any) -> bytes:
    """One event, with its name, as Anthropic sends them."""
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind, **said}) + b"\n\n"


def anthropic(
    *texts: str,
    stop: str = "end_turn",
    tools: Sequence[tuple[str, str, Sequence[str]]] = (),
    read: int = 25,
    written: int = 15,
    cached: int = 0,
) -> Reply:
    """A message: text in pieces, then tools (id, name, pieces of the arguments)."""
    usage = {"input_tokens": read, "cache_read_input_tokens": cached, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
    events = [
        anthropic_event("message_start", message={**message, "model": "claude-x", "usage": usage}),
        anthropic_event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        anthropic_event("ping"),
        *(_delta(0, {"type": "text_delta", "text": text}) for text in texts),
        anthropic_event("content_block_stop", index=0),
    ]
    for place, (id_, name, pieces) in enumerate(tools, 1):
        block = {"type": "tool_use", "id": id_, "name": name, "input": {}}
        events.append(anthropic_event("content_block_start", index=place, content_block=block))
        events += [
            _delta(place, {"type": "input_json_delta", "partial_json": piece}) for piece in pieces
        ]
        events.append(anthropic_event("content_block_stop", index=place))
    end = {"stop_reason": stop, "stop_sequence": None}
    events.append(anthropic_event("message_delta", delta=end, usage={"output_tokens": written}))
    return stream(*events, anthropic_event("message_stop"))


def _delta(place: int, delta: Mapping[str, Any]) -> bytes:
    return anthropic_event("content_block_delta", index=place, delta=delta)


def frame(kind: str, said: Mapping[str, Any], *, error: bool = False) -> bytes:
    """One message of Amazon's event stream."""
    names = {
        ":exception-type" if error else ":event-type": kind,
        ":content-type": "application/json",
        ":message-type": "exception" if error else "event",
    }
    headers = b"".join(
        bytes([len(name)])
        + name.encode()
        + b"\x07"
        + struct.pack(">H", len(value))
        + value.encode()
        for name, value in names.items()
    )
    payload = orjson.dumps(said)
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return message + struct.pack(">I", crc32(message))


def converse(frames: Iterable[bytes]) -> Reply:
    """A stream of these frames, cut where no frame ends."""
    whole = b"".join(frames)
    cuts = [whole[at : at + 50] for at in range(0, len(whole), 50)]
    return Reply(headers=EVENTS, pieces=cuts)


def converse_text(*texts: str, stop: str = "end_turn", read: int = 25, written: int = 15) -> Reply:
    """Text in pieces, as Converse streams it."""
    return converse(
        [
            frame("messageStart", {"role": "assistant"}),
            *(
                frame("contentBlockDelta", {"delta": {"text": t}, "contentBlockIndex": 0})
                for t in texts
            ),
            frame("contentBlockStop", {"contentBlockIndex": 0}),
            frame("messageStop", {"stopReason": stop}),
            frame(
                "metadata",
                {"usage": {"inputTokens": read, "outputTokens": written}, "metrics": {}},
            ),
        ]
    )
