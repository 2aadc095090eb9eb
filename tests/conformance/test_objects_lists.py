"""What a source says of objects whose metadata have the lists of who may see them, on a real
server: what is news, and what is told of objects that cannot be read."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import count
from typing import Any

import pytest

from penstock.records import Change
from penstock.sources.objects import ListKeys, ObjectsSource, Place
from penstock.sources.objects.bucket import Absence, Bucket, Listed, Refused, S3Bucket, Said, Stored
from penstock.testing.amazon import AmazonServer
from penstock.testing.sources import reading

_BUCKETS = count(1)
KEYS = ListKeys("penstock-allow", "penstock-deny")


class Store:
    """A bucket, and sources that read it."""

    def __init__(self, server: AmazonServer) -> None:
        self._server = server
        self._s3: Any = server.client("s3")
        self.place = Place(f"lists-{next(_BUCKETS)}")
        self._s3.create_bucket(
            Bucket=self.place.bucket,
            CreateBucketConfiguration={"LocationConstraint": "eu-central-1"},
        )

    def put(self, key: str, text: str, **metadata: str) -> None:
        named = {f"penstock-{name}": value for name, value in metadata.items()}
        self._s3.put_object(Bucket=self.place.bucket, Key=key, Body=text.encode(), Metadata=named)

    def bucket(self) -> S3Bucket:
        return S3Bucket(self.place, self._server.access, threads=4)

    def source(
        self, open_bucket: Callable[[], Bucket] | None = None, lists: ListKeys | None = KEYS
    ) -> ObjectsSource:
        return ObjectsSource(
            "docs",
            self.place,
            access=self._server.access,
            lists=lists,
            relist_s=0.05,
            max_bytes=1000,
            open_bucket=open_bucket,
        )


class Second:
    """A real bucket in which everything happened within one second; ``deny`` refuses to be read."""

    def __init__(self, real: Bucket, deny: frozenset[str] = frozenset()) -> None:
        self._real = real
        self._deny = deny

    async def pages(self) -> AsyncGenerator[Sequence[Listed]]:
        async for page in self._real.pages():
            yield [version._replace(modified_ns=1_000) for version in page]

    async def look(self, key: str) -> Listed | Refused | None:
        found = await self._real.look(key)
        return found._replace(modified_ns=1_000) if isinstance(found, Listed) else found

    async def get(self, version: Listed) -> Stored | Absence | Refused:
        if version.key in self._deny:
            return Refused("expected to read the object, the store refused it with AccessDenied")
        return await self._real.get(version)

    async def describe(self, key: str) -> Said | Absence | Refused:
        if key in self._deny:
            return Refused("expected to read the object, the store refused it with AccessDenied")
        return await self._real.describe(key)

    async def close(self) -> None:
        await self._real.close()


@pytest.fixture
def store(amazon: AmazonServer) -> Store:
    return Store(amazon)


async def collect(source: ObjectsSource, number: int, state: dict[str, str]) -> list[Change]:
    """Read until so many changes came and a listing ended, keeping the state."""
    changes: list[Change] = []
    async with reading(source, dict(state)) as batches:
        async for batch in batches:
            changes += batch.changes
            for name, value in batch.state.items():
                if value is None:
                    state.pop(name, None)
                else:
                    state[name] = value
            if len(changes) >= number and batch.as_of is not None:
                break
    return changes


def told(changes: Sequence[Change]) -> list[tuple[str, Any]]:
    return [(str(c.key[0]), json.loads(str(c.value("permissions")))) for c in changes]


async def test_g7_metadata_that_change_twice_within_a_second_are_seen(store: Store) -> None:
    """The listing is the same then, with the same etag: what was stored just now is read again."""
    store.put("a.md", "text", allow="user:ada user:bob")
    state: dict[str, str] = {}
    source = store.source(lambda: Second(store.bucket()))
    [first] = await collect(source, 1, state)
    assert told([first]) == [("a.md", {"allow": "user:ada user:bob", "deny": None})]
    store.put("a.md", "text", allow="user:ada")
    changes = await collect(store.source(lambda: Second(store.bucket())), 1, state)
    assert told(changes) == [("a.md", {"allow": "user:ada", "deny": None})]
    assert changes[0].value("content_hash") == first.value("content_hash")


async def test_g7_lists_of_what_cannot_be_read_are_told(store: Store) -> None:
    """Of an object that is too large, what its metadata say; of one that is refused, that nothing
    is known. Each is told once."""
    store.put("large.md", "x" * 2000, allow="user:ada")
    store.put("refused.md", "text", allow="user:ada")
    deny = frozenset({"refused.md"})
    state: dict[str, str] = {}
    changes = await collect(store.source(lambda: Second(store.bucket(), deny)), 2, state)
    said = dict(told(changes))
    assert said["large.md"] == {"allow": "user:ada", "deny": None}
    assert "AccessDenied" in said["refused.md"]["problem"]
    assert all(change.value("error") for change in changes)
    store.put("large.md", "x" * 2000, allow="user:bob")
    changes = await collect(store.source(lambda: Second(store.bucket(), deny)), 1, state)
    assert told(changes) == [("large.md", {"allow": "user:bob", "deny": None})]
    changes = await collect(store.source(lambda: Second(store.bucket())), 1, state)
    assert told(changes) == [("refused.md", {"allow": "user:ada", "deny": None})]


async def test_g7_other_keys_are_read_from_objects_that_did_not_change(store: Store) -> None:
    """Whatever had been read before: without lists, with others; also when it breaks off."""
    for name in ("a", "b"):
        store.put(f"{name}.md", "text", allow="user:ada", read="user:bob")
    state: dict[str, str] = {}
    plain = await collect(store.source(lists=None), 2, state)
    assert "permissions" not in plain[0].schema.names
    changes = await collect(store.source(), 2, state)
    assert [said["allow"] for _, said in told(changes)] == ["user:ada", "user:ada"]
    old = state["file:b.md"]
    other = ListKeys("penstock-read", "penstock-deny")
    changes = await collect(store.source(lists=other), 2, state)
    assert [said["allow"] for _, said in told(changes)] == ["user:bob", "user:bob"]
    state["file:b.md"] = old  # as if it had not come so far
    changes = await collect(store.source(lists=other), 1, state)
    assert [key for key, _ in told(changes)] == ["b.md"]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (Said({}), {"allow": None, "deny": None}),
        (Said({"Penstock-Allow": "a", "x": "b"}), {"allow": "a", "deny": None}),
        (Said({"penstock-allow": ""}), {"allow": "", "deny": None}),
        (
            Said({"penstock-deny": "=?UTF-8?Q?user:=C3=BCnal?="}),
            {"allow": None, "deny": "user:ünal"},
        ),
        (Said({"penstock-allow": "=?UTF-8?B?_?="}), "encoded word"),
        (Said({"penstock-allow": "=?nonsense?Q?a?="}), "encoded word"),
        (Said({"penstock-deny": "=?UTF-8?Q?user:=ZZ?="}), "encoded word"),
        (Said({"penstock-deny": "=?UTF-8?Q?user:=FF?="}), "encoded word"),
        (Said({"penstock-deny": "user:bob =?UTF-8?Q?user:a"}), "encoded word"),
        (
            Said({"penstock-allow": "=?utf-8?B?dXNlcjrDvG5h?= =?utf-8?Q?l=2C_user=3Abo?="}),
            {"allow": "user:ünal, user:bo", "deny": None},
        ),
        (Said({"penstock-allow": "a", "PENSTOCK-ALLOW": "b"}), "once, got it 2 times"),
        (Said({"penstock-allow": "a"}, missing=1), "keeps 1 of them back"),
    ],
)
def test_what_metadata_say(said: Said, found: Any) -> None:
    """What was not sent whole may have held a denial."""
    told = json.loads(KEYS.found(said))
    if isinstance(found, str):
        assert found in told["problem"]
    else:
        assert told == found
