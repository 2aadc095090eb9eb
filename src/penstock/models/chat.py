"""JSON from an OpenAI-compatible ``/chat/completions``: checked, limited, counted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from penstock.clock import Clock, SystemClock
from penstock.errors import BadRecordError, PenstockError, RetryableError
from penstock.models.base import Message, Usage, Written
from penstock.models.endpoint import Endpoint, error_message, malformed
from penstock.models.limits import Ledger, Use
from penstock.models.remote import attempts, estimate

_MAX_BYTES: Final = 4 * 1024 * 1024
_LONGEST_WAIT_S: Final = 5.0
"""A person waits: what the limits put off for longer is refused."""
_FENCED: Final = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
_NO_SHAPE: Final = re.compile(r"response_format|json_schema|structured", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Prices:
    """Of a million tokens. None: unknown."""

    input: float | None = None
    output: float | None = None

    def cost(self, input_tokens: int | None, output_tokens: int | None) -> float | None:
        """What these tokens cost; unknown if a part of it is."""
        if None in (self.input, self.output, input_tokens, output_tokens):
            return None
        assert self.input is not None
        assert self.output is not None
        return ((input_tokens or 0) * self.input + (output_tokens or 0) * self.output) / 1e6

    def counted(self, input_tokens: int, output_tokens: int) -> int:
        """Tokens as the ledger counts them, at the price of those that are sent."""
        factor = self.output / self.input if self.input and self.output else 1.0
        return round(input_tokens + output_tokens * factor)


class _Took:
    """The use of one call, over its tries."""

    def __init__(self) -> None:
        self.requests = 0
        self.input: int | None = 0
        self.output: int | None = 0

    def add(self, tokens: tuple[int, int] | None) -> None:
        """Of an answer; None: it did not say."""
        if tokens is None:
            self.input = self.output = None
        elif self.input is not None and self.output is not None:
            self.input, self.output = self.input + tokens[0], self.output + tokens[1]


class ChatWriter:
    """Writes JSON. A request that fails for a passing reason, or whose answer is no JSON, is tried
    again within seconds. An endpoint that knows no shapes is asked without from then on."""

    def __init__(
        self,
        *,
        model: str,
        api_key: str,
        base_url: str,
        temperature: float = 0.0,
        max_tokens: int = 800,
        timeout_s: float = 60.0,
        prices: Prices = Prices(),
        ledger: Ledger | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = f"openai/{model}"
        self._fixed = {"model": model, "temperature": temperature, "max_tokens": max_tokens}
        self._most = max_tokens
        self._prices = prices
        self._ledger = ledger
        self._clock = clock or SystemClock()
        self._shapes = True
        self._endpoint = Endpoint(
            base_url, api_key, timeout_s=timeout_s, connections=64, max_bytes=_MAX_BYTES
        )

    async def write(self, messages: Sequence[Message], shape: Mapping[str, Any]) -> Written:
        body: dict[str, Any] = {
            **self._fixed,
            "messages": [
                {"role": m.role, "content": m.content.encode("utf-8", "replace").decode()}
                for m in messages
            ],
        }
        took = _Took()
        async for attempt in attempts():
            with attempt:
                value = await self._asked(body, shape, took)
        cost = self._prices.cost(took.input, took.output)
        return Written(value, Usage(took.requests, took.input, took.output, cost))

    async def close(self) -> None:
        await self._endpoint.close()

    async def _asked(self, body: dict[str, Any], shape: Mapping[str, Any], took: _Took) -> object:
        if self._shapes:
            schema = {"name": "written", "strict": True, "schema": shape}
            shaped = {"type": "json_schema", "json_schema": schema}
            try:
                return await self._request({**body, "response_format": shaped}, took)
            except BadRecordError as error:
                if not _NO_SHAPE.search(str(error)):
                    raise
                self._shapes = False
        return await self._request(body, took)

    async def _request(self, body: dict[str, Any], took: _Took) -> object:
        """One request within the limits."""
        sent = sum(estimate(message["content"]) for message in body["messages"])
        characters = sum(len(message["content"]) for message in body["messages"])
        use = Use(1, characters, self._prices.counted(sent, self._most))
        await self._reserve(use)
        took.requests += 1
        try:
            answer = await self._endpoint.post("/chat/completions", body)
        except PenstockError as error:
            if error.facts.get("timeout") or error.facts.get("malformed"):
                took.add(None)  # it may have done the work, and bills it
            else:
                await self._settle(use, Use())
            raise
        tokens = _tokens(answer)
        took.add(tokens)
        if tokens is not None:
            await self._settle(use, use._replace(tokens=self._prices.counted(*tokens)))
        return self._content(answer)

    async def _reserve(self, use: Use) -> None:
        if self._ledger is None:
            return
        wait = await self._ledger.reserve(use, priority=False)
        if wait > _LONGEST_WAIT_S:
            await self._ledger.settle(use, Use())
            raise RetryableError(
                f"the limits of {self.name} put a request off for {wait:.0f} s: ask again then, or "
                "raise `limits` of the generator",
                retry_after_s=wait,
            )
        if wait > 0:
            await self._clock.sleep(wait)

    async def _settle(self, reserved: Use, used: Use) -> None:
        if self._ledger is not None:
            await self._ledger.settle(reserved, used)

    def _content(self, answer: object) -> object:
        """The JSON that the model wrote."""
        if (message := error_message(answer)) is not None:
            raise malformed(f"{self._endpoint.url} said: {self._endpoint.excerpt(message)}")
        choices = answer.get("choices") if isinstance(answer, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        said = choice.get("message") if isinstance(choice, dict) else None
        text = said.get("content") if isinstance(said, dict) else None
        if isinstance(choice, dict) and choice.get("finish_reason") == "length":
            raise BadRecordError(
                f"{self.name} was cut off at {self._most} tokens: raise `max_tokens` of the "
                "generator, or ask about a part of it"
            )
        if not isinstance(text, str):
            came = self._endpoint.excerpt(orjson.dumps(answer))
            raise malformed(f"expected a message with content from {self.name}, got {came!r}")
        fenced = _FENCED.match(text)
        try:
            return orjson.loads(fenced[1] if fenced else text)
        except orjson.JSONDecodeError as error:
            came = self._endpoint.excerpt(text)
            raise malformed(f"expected JSON from {self.name}, got {came!r}") from error


def _tokens(answer: object) -> tuple[int, int] | None:
    """What the endpoint says that it read and wrote."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return None
    read, wrote = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(read) is not int or type(wrote) is not int or read < 0 or wrote < 0:
        return None
    return read, wrote
