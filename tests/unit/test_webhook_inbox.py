"""Deliveries that wait, their bounds, and the memory of ids."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from penstock.clock import SystemClock
from penstock.errors import ConfigError
from penstock.records import Change, Microseconds, Op
from penstock.sources.formats.declared import DeclaredStream
from penstock.sources.inbox import Bounds, Inbox, News
from penstock.sources.webhook import RowPayloads, WebhookSource
from penstock.sources.webhook.signatures import Forged, Signed, secret_bytes, sign, verify
from penstock.testing.webhooks import SECRET, signed_headers

STREAM = DeclaredStream("t", ("id",), (("id", "bigint"),))
SCHEMA = STREAM.schema("s")
DAY = 86400 * 10**6


def news(number: int) -> News:
    return News(SCHEMA, Op.UPDATE, (str(number),), (str(number),))


def source(bounds: Bounds | None = None) -> WebhookSource:
    payloads = RowPayloads("s", {"t": STREAM})
    return WebhookSource("s", payloads, [SECRET], bounds=bounds, heartbeat_s=0.01)


def delivery(message_id: str, payload: object) -> tuple[dict[str, str], bytes]:
    body = json.dumps(payload).encode()
    return signed_headers(message_id, body, now_s=SystemClock().now() / 1e6), body


async def test_g2_answered_only_after_the_acknowledgement() -> None:
    """Neither reading nor yielding answers a sender; acknowledging does."""
    shop = source()
    batches = shop.read({})
    await anext(batches)
    sending = asyncio.ensure_future(shop.deliver("t", *delivery("a", {"id": 1})))
    batch = await anext(batches)
    while not batch.changes:
        batch = await anext(batches)
    await anext(batches)  # a heartbeat: time passes, the sender still waits
    assert not sending.done()
    await shop.acknowledge(batch.state)
    assert (await sending).status == 204
    assert (await shop.deliver("t", *delivery("a", {"id": 2}))).status == 200
    await batches.aclose()  # type: ignore[attr-defined]


async def test_g2_the_same_id_at_the_same_time_is_one_delivery() -> None:
    """A second copy waits for the first."""
    shop = source()
    batches = shop.read({})
    await anext(batches)
    copies = [asyncio.ensure_future(shop.deliver("t", *delivery("a", {"id": 1}))) for _ in range(3)]
    changes: list[Change] = []
    while not changes:
        batch = await anext(batches)
        changes += batch.changes
    await shop.acknowledge(batch.state)
    assert [(await copy).status for copy in copies] == [204, 204, 204]
    assert len(changes) == 1
    await batches.aclose()  # type: ignore[attr-defined]


async def test_g2_ids_survive_a_restart() -> None:
    """The state of a source that was stopped says which ids were taken."""
    first = Inbox({}, Bounds())
    first.put("a", [news(1)], 1)
    batch = first.batch(Microseconds(DAY))
    assert batch is not None
    state = {name: value for name, value in batch.state.items() if value is not None}
    second = Inbox(state, Bounds())
    assert second.knows("a")
    assert not second.knows("b")


async def test_g12_a_full_inbox_says_429_and_a_stopped_one_503() -> None:
    """A log that does not follow slows the senders, not the memory."""
    shop = source(Bounds(waiting_changes=2))
    assert (await shop.deliver("t", *delivery("x", {"id": 1}))).status == 503
    batches = shop.read({})
    await anext(batches)
    waiting = asyncio.ensure_future(shop.deliver("t", *delivery("a", [{"id": 1}, {"id": 2}])))
    await asyncio.sleep(0)
    answer = await shop.deliver("t", *delivery("b", {"id": 3}))
    assert (answer.status, answer.retry_after_s) == (429, 1)
    await batches.aclose()  # type: ignore[attr-defined]
    assert (await waiting).status == 503


def test_ids_are_forgotten_by_age_and_number_but_never_within_the_window() -> None:
    """Bounded, and a replay that the signature's time would still let in is always known."""

    async def grow() -> None:
        bounds = replace(Bounds(), kept_ids=3, keep_ids_s=86400.0)
        inbox = Inbox({}, bounds)
        for number in range(10):
            inbox.put(f"m{number}", [news(number)], 1)
        batch = inbox.batch(Microseconds(DAY))
        assert batch is not None
        assert sum(name.startswith("id:") for name in batch.state) == 10
        inbox.put("later", [news(1)], 1)
        batch = inbox.batch(Microseconds(DAY + 700 * 10**6))
        assert batch is not None
        gone = {name for name, value in batch.state.items() if value is None}
        assert gone == {f"id:m{number}" for number in range(8)}
        inbox.put("last", [news(1)], 1)
        batch = inbox.batch(Microseconds(3 * DAY))
        assert batch is not None
        assert batch.state["id:m9"] is None
        assert batch.state["id:later"] is None

    asyncio.run(grow())


def test_signatures_rotate_and_borders_stay() -> None:
    """Any of several secrets and signatures will do; a dot in the id will not."""
    old, new = secret_bytes(SECRET), b"another secret, quite as long"
    body = b"{}"
    headers: Mapping[str, str] = {
        "webhook-id": "m",
        "webhook-timestamp": "1790000000",
        "webhook-signature": f"v1,nonsense {sign(new, 'm', '1790000000', body)} v2,x",
    }
    assert isinstance(verify([old, new], headers, body, 1_790_000_100.0), Signed)
    assert isinstance(verify([old], headers, body, 1_790_000_100.0), Forged)
    assert isinstance(verify([new], headers, body, 1_790_000_301.0), Forged)
    assert isinstance(verify([new], headers, body, 1_789_999_699.0), Forged)
    moved = {
        "webhook-id": "m.1790000000",
        "webhook-timestamp": "1790000001",
        "webhook-signature": sign(new, "m.1790000000", "1790000001", body),
    }
    assert isinstance(verify([new], moved, body, 1_790_000_000.0), Forged)
    with pytest.raises(ConfigError, match="at least 16 bytes"):
        secret_bytes("whsec_c2hvcnQ=")
