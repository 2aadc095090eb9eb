"""What object stores do to those who read them: objects replaced while they are read, listings that
are late, objects too large, broken or refused, queues with nonsense in them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from hashlib import sha256
from itertools import count
from typing import Any

import pytest

from penstock.errors import SourceError, UnavailableError
from penstock.records import Change, Op
from penstock.sources.amazon import AmazonAccess, AmazonClient
from penstock.sources.base import SourceBatch
from penstock.sources.objects import ObjectsSource, Place
from penstock.sources.objects.bucket import (
    Absence,
    Bucket,
    Listed,
    Refused,
    S3Bucket,
    Said,
    Stored,
)
from penstock.sources.objects.hints import keys_of
from penstock.testing.amazon import AmazonServer
from penstock.testing.sources import reading

_BUCKETS = count(1)


class Store:
    """A bucket of a real server, and what to do in the middle of somebody's reading it."""

    def __init__(self, server: AmazonServer) -> None:
        self.server = server
        self.s3 = server.client("s3")
        self.place = Place(f"faults-{next(_BUCKETS)}")
        self.s3.create_bucket(
            Bucket=self.place.bucket,
            CreateBucketConfiguration={"LocationConstraint": "eu-central-1"},
        )

    def put(self, key: str, text: str | bytes) -> None:
        body = text.encode() if isinstance(text, str) else text
        self.s3.put_object(Bucket=self.place.bucket, Key=key, Body=body)

    def delete(self, key: str) -> None:
        self.s3.delete_object(Bucket=self.place.bucket, Key=key)

    def bucket(self) -> S3Bucket:
        return S3Bucket(self.place, self.server.access, threads=4)

    def source(self, bucket: Callable[[], Bucket] | None = None, **more: Any) -> ObjectsSource:
        return ObjectsSource(
            "docs",
            self.place,
            access=self.server.access,
            relist_s=0.05,
            open_bucket=bucket,
            **more,
        )


class Meddled:
    """A real bucket; something happens before each reading of an object."""

    def __init__(
        self, real: Bucket, before: Callable[[str], None], hide: Callable[[str], bool]
    ) -> None:
        self._real = real
        self._before = before
        self._hide = hide

    async def pages(self) -> AsyncGenerator[Sequence[Listed]]:
        async for page in self._real.pages():
            yield [version for version in page if not self._hide(version.key)]

    async def look(self, key: str) -> Listed | Refused | None:
        return await self._real.look(key)

    async def get(self, version: Listed) -> Stored | Absence | Refused:
        self._before(version.key)
        return await self._real.get(version)

    async def describe(self, key: str) -> Said | Absence | Refused:
        return await self._real.describe(key)

    async def close(self) -> None:
        await self._real.close()


@pytest.fixture
def store(amazon: AmazonServer) -> Store:
    return Store(amazon)


Until = Callable[[list[Change]], bool]


async def collect(
    source: ObjectsSource,
    until: Until,
    state: dict[str, str] | None = None,
    after: Callable[[SourceBatch], Awaitable[None]] | None = None,
) -> list[Change]:
    """Read until it is so, keeping the state."""
    known = {} if state is None else state
    changes: list[Change] = []
    async with reading(source, dict(known)) as batches:
        async for batch in batches:
            changes += batch.changes
            for name, value in batch.state.items():
                if value is None:
                    known.pop(name, None)
                else:
                    known[name] = value
            if after is not None:
                await after(batch)
            if until(changes) and batch.as_of is not None:
                break
    return changes


def some(number: int) -> Until:
    return lambda changes: len(changes) >= number


def hashes(changes: list[Change]) -> list[tuple[str, str | None]]:
    return [(str(c.key[0]), str(c.value("content_hash"))) for c in changes if c.after is not None]


async def test_g1_replaced_while_it_is_read_the_new_version_comes(
    store: Store,
) -> None:
    """The version that was listed is gone when its bytes are asked for: the one that replaced it
    is read, whole, and the text fits the hash."""
    store.put("a.md", "old " * 1000)
    texts = iter(["new " * 500, "newer " * 700])

    def replace(key: str) -> None:
        text = next(texts, None)
        if text is not None:
            store.put(key, text)

    source = store.source(lambda: Meddled(store.bucket(), replace, lambda _: False))
    changes = await collect(source, some(1))
    whole = "newer " * 700
    assert hashes(changes) == [("a.md", sha256(whole.encode()).hexdigest())]
    assert str(changes[0].value("text")).split() == whole.split()


async def test_an_object_that_never_rests_holds_nothing_up(store: Store) -> None:
    """One that is replaced at each reading comes when it rests; the others at once, and no time is
    reported meanwhile as if it were included."""
    store.put("busy.md", "0")
    store.put("calm.md", "calm")
    numbers = count(1)
    busy = True

    def replace(key: str) -> None:
        if key == "busy.md" and busy:
            store.put(key, f"version {next(numbers)}")

    seen: list[Change] = []
    quiet = 0
    source = store.source(lambda: Meddled(store.bucket(), replace, lambda _: False))
    async with reading(source, {}) as batches:
        async for batch in batches:
            seen += batch.changes
            if busy:
                assert batch.as_of is None
                assert [str(c.key[0]) for c in seen] in ([], ["calm.md"])
                quiet += not batch.changes
                busy = quiet < 3
            if len(seen) == 2:
                break
    assert seen[1].key == ("busy.md",)


async def test_g4_deleted_then_recreated_and_deleted_while_read(store: Store) -> None:
    """Created again with other content is a change; gone in the middle of reading is no error."""
    store.put("a.md", "one")
    store.put("b.md", "bee")
    state: dict[str, str] = {}
    await collect(store.source(), some(2), state)
    store.delete("a.md")
    store.put("a.md", "two")
    changes = await collect(store.source(), some(1), state)
    assert hashes(changes) == [("a.md", sha256(b"two").hexdigest())]
    store.put("b.md", "bee two")

    def remove(key: str) -> None:
        store.delete(key)

    source = store.source(lambda: Meddled(store.bucket(), remove, lambda _: False))
    changes = await collect(source, some(1), state)
    assert [(c.op, c.key) for c in changes] == [(Op.DELETE, ("b.md",))]


async def test_g4_a_late_listing_deletes_nothing(store: Store) -> None:
    """What a listing leaves out is asked for by name before it counts as gone."""
    store.put("a.md", "one")
    store.put("b.md", "two")
    state: dict[str, str] = {}
    await collect(store.source(), some(2), state)
    store.put("c.md", "three")
    hidden = {"a.md"}
    source = store.source(lambda: Meddled(store.bucket(), lambda _: None, hidden.__contains__))
    changes = await collect(source, some(1), state)
    assert [(c.op, c.key) for c in changes] == [(Op.CREATE, ("c.md",))]
    store.delete("a.md")
    changes = await collect(store.source(), some(1), state)
    assert [(c.op, c.key) for c in changes] == [(Op.DELETE, ("a.md",))]


async def test_g4_what_the_project_file_leaves_out_by_now_goes(store: Store) -> None:
    """Though the store has it still."""
    store.put("a.md", "one")
    store.put("b.txt", "two")
    state: dict[str, str] = {}
    await collect(store.source(), some(2), state)
    changes = await collect(store.source(include=["**/*.md"]), some(1), state)
    assert [(c.op, c.key) for c in changes] == [(Op.DELETE, ("b.txt",))]


class Timeless(Meddled):
    """A bucket in which everything was changed at one moment."""

    def __init__(self, real: Bucket) -> None:
        super().__init__(real, lambda _: None, lambda _: False)

    async def pages(self) -> AsyncGenerator[Sequence[Listed]]:
        async for page in super().pages():
            yield [version._replace(modified_ns=1_000) for version in page]

    async def look(self, key: str) -> Listed | Refused | None:
        found = await super().look(key)
        return found._replace(modified_ns=1_000) if isinstance(found, Listed) else found


async def test_same_time_and_size_with_other_content_is_a_change(store: Store) -> None:
    """A store's times are whole seconds; its etag tells the versions apart. The same content again
    is none."""

    def source() -> ObjectsSource:
        return store.source(lambda: Timeless(store.bucket()))

    store.put("a.md", "aaaa")
    state: dict[str, str] = {}
    await collect(source(), some(1), state)
    store.put("a.md", "bbbb")
    changes = await collect(source(), some(1), state)
    assert hashes(changes) == [("a.md", sha256(b"bbbb").hexdigest())]
    store.put("a.md", "bbbb")
    store.put("z.md", "z")
    changes = await collect(source(), some(1), state)
    assert [c.key for c in changes] == [("z.md",)]


async def test_g1_a_server_that_ignores_if_match_gives_no_mixture(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is what the answer says of itself: bytes of another version are not taken as
    those of the listed one."""
    run = AmazonClient.run

    async def careless(self: AmazonClient, function: Callable[[Any], Any]) -> Any:
        class Careless:
            def __init__(self, client: Any) -> None:
                self._client = client

            def __getattr__(self, name: str) -> Any:
                return getattr(self._client, name)

            def get_object(self, *, IfMatch: str, **arguments: str) -> Any:  # noqa: N803
                return self._client.get_object(**arguments)

        return await run(self, lambda client: function(Careless(client)))

    monkeypatch.setattr(AmazonClient, "run", careless)
    store.put("a.md", "old")
    bucket = store.bucket()
    version = await bucket.look("a.md")
    assert isinstance(version, Listed)
    stored = await bucket.get(version)
    assert isinstance(stored, Stored)
    assert stored.data == b"old"
    store.put("a.md", "new")
    assert await bucket.get(version) is Absence.REPLACED
    await bucket.close()


async def test_g13_large_broken_and_odd_objects_are_put_aside_with_their_reason(
    store: Store,
) -> None:
    """They come as documents with an error, once, and the others go on; mended, they are read."""
    store.put("large.md", "x" * 2000)
    store.put("broken.pdf", b"%PDF-1.7 and no more")
    store.put("folder/", b"")
    store.put("odd\t%2F?&name.md", "odd but fine")
    store.put("good.md", "good")
    state: dict[str, str] = {}
    changes = await collect(store.source(max_bytes=1000), some(4), state)
    errors = {str(c.key[0]): c.value("error") for c in changes}
    assert set(errors) == {"large.md", "broken.pdf", "odd\t%2F?&name.md", "good.md"}
    assert errors["good.md"] is None
    assert errors["odd\t%2F?&name.md"] is None
    assert "at most 1,000 bytes, found 2,000" in str(errors["large.md"])
    assert errors["broken.pdf"]
    store.put("new.md", "new")
    changes = await collect(store.source(max_bytes=1000), some(1), state)
    assert [c.key for c in changes] == [("new.md",)]
    store.put("large.md", "mended")
    changes = await collect(store.source(max_bytes=1000), some(1), state)
    assert hashes(changes) == [("large.md", sha256(b"mended").hexdigest())]


async def test_g2_a_message_stays_until_its_news_are_durable(store: Store) -> None:
    """Unacknowledged, the queue still has it; acknowledged, it does not. Nonsense is removed."""
    sqs = store.server.client("sqs")
    name = f"{store.place.bucket}-queue"
    queue = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "0"})["QueueUrl"]
    store.put("a.md", "one")
    part = {"bucket": {"name": store.place.bucket}, "object": {"key": "a.md"}}
    sqs.send_message(QueueUrl=queue, MessageBody=json.dumps({"Records": [{"s3": part}]}))
    sqs.send_message(QueueUrl=queue, MessageBody="[" * 50_000)

    def left() -> int:
        answer = sqs.get_queue_attributes(
            QueueUrl=queue, AttributeNames=["ApproximateNumberOfMessages"]
        )
        return int(answer["Attributes"]["ApproximateNumberOfMessages"])

    source = store.source(queue=queue)
    async with reading(source, {}) as batches:
        told: list[str] = []
        async for batch in batches:
            if batch.state.get("hints"):
                told.append(str(batch.state["hints"]))
            if told and int(told[-1]) >= 2:
                break
        assert left() == 2
        await source.acknowledge({"hints": told[-1]})
        while left():
            batch = await anext(batches)
            await source.acknowledge(batch.state)


async def test_what_a_person_must_mend_is_named(store: Store) -> None:
    """A bucket that is not there, a server that is not there, a queue that is not there."""
    missing = ObjectsSource("docs", Place("no-such-bucket"), access=store.server.access)
    with pytest.raises(SourceError, match="NoSuchBucket"):
        await collect(missing, some(1))
    nowhere = ObjectsSource(
        "docs", store.place, access=AmazonAccess("x", "http://127.0.0.1:9", "a", "secret!")
    )
    with pytest.raises(UnavailableError, match="expected to reach the bucket") as raised:
        await collect(nowhere, some(1))
    assert "secret!" not in str(raised.value)
    assert "secret!" not in repr(store.server.access)
    store.put("a.md", "x")
    found = await store.source(queue=f"{store.server.endpoint}/123456789012/none").check()
    assert [(finding.subject, finding.level) for finding in found] == [
        ("docs", "ok"),
        ("docs: queue", "error"),
    ]
    found = await missing.check()
    assert [finding.level for finding in found] == ["error"]


def test_events_of_several_forms_are_understood() -> None:
    """S3's own, inside SNS, EventBridge's, and of other buckets and folders."""
    place = Place("b", "team")

    def record(key: str, bucket: str = "b") -> dict[str, Any]:
        return {"s3": {"bucket": {"name": bucket}, "object": {"key": key}}}

    plain = {"Records": [record("team/a+b%C3%A9.md"), record("other/x"), record("team/y", "c")]}
    assert keys_of(json.dumps(plain), place) == ["a bé.md"]
    assert keys_of(json.dumps({"Message": json.dumps(plain)}), place) == ["a bé.md"]
    detail = {"bucket": {"name": "b"}, "object": {"key": "team/a+b.md"}}
    assert keys_of(json.dumps({"detail": detail}), place) == ["a+b.md"]
    assert keys_of(json.dumps({"Event": "s3:TestEvent"}), place) == []
    for nonsense in ("", "[]", "{}", '{"Message": "{}"}', '{"Records": 1}', "[" * 100_000):
        with pytest.raises(ValueError, match=r"\w"):
            keys_of(nonsense, place)
