"""A random world of users, groups, folders and lists, a plain model of who may see what in it, and
random questions that compare the two. Used by tests, and larger by ``bench/permissions.py``."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.principals import EVERYONE, Principal
from penstock.records import Microseconds, Position
from penstock.stores.base import (
    ApplyRows,
    Filter,
    PermissionEntry,
    SetPermissions,
    SnapshotStore,
    Store,
)
from penstock.stores.postgres.permissions import Declared
from penstock.testing.knowledge import MODEL, Doc, replacing, store, vector_of
from penstock.testing.permissions import (
    CLOSED_ELSE,
    DOCS_BY_ENTRIES,
    GROUPS_DECLARED,
    LISTS,
    LISTS_DECLARED,
    MEMBERS,
    row,
    without,
)

DECLARED = Declared([CLOSED_ELSE, DOCS_BY_ENTRIES], [GROUPS_DECLARED, LISTS_DECLARED])
WORDS = ("river", "turbine", "valve", "pressure", "gate", "season", "engineer", "report")


@dataclass(frozen=True, slots=True)
class Size:
    """How large the world is."""

    users: int = 8
    groups: int = 12
    documents: int = 120
    folders: int = 10


@dataclass(slots=True)
class _Entry:
    allow: Sequence[str] | None
    deny: Sequence[str]
    broken: bool = False
    table: bool = False


@dataclass
class Tally:
    """What was asked and what came back. ``foreign`` hits should not have been there; ``missing``
    are answers with fewer than could be had."""

    queries: int = 0
    hits: int = 0
    foreign: int = 0
    missing: int = 0
    empty: int = 0
    changes: int = 0


class PermissionMatrix:
    """The world: what is in the stores, and the model of it."""

    def __init__(
        self, writer: Store, reader: SnapshotStore, chance: random.Random, size: Size
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._chance = chance
        self._size = size
        self._positions = 0
        self._documents: dict[str, str] = {}
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._members: dict[int, tuple[str, str]] = {}
        self._permitted: dict[tuple[str, ...], frozenset[str]] = {}
        self._lists: Mapping[str, tuple[frozenset[str], frozenset[str]]] | None = None
        self.tally = Tally()

    # ------------------------------------------------------------------ making and changing

    async def fill(self) -> None:
        """Documents, lists and groups, in a random order of kinds."""
        keys = [self._key(number) for number in range(self._size.documents)]
        self._documents = {key: self._text(key) for key in keys}
        steps = [self._fill_documents, self._fill_groups, self._fill_lists]
        self._chance.shuffle(steps)
        for step in steps:
            await step()

    async def _fill_documents(self) -> None:
        keys = list(self._documents)
        for start in range(0, len(keys), 200):
            docs = [self._doc(key) for key in keys[start : start + 200]]
            await store(self._writer, replacing(*docs))

    async def _fill_groups(self) -> None:
        for _ in range(self._size.groups * 2 + self._size.users * 3):
            await self._change_member()

    async def _fill_lists(self) -> None:
        for _ in range(self._size.documents // 2 + self._size.folders):
            await self._change_list()

    async def change(self) -> None:
        """Something happens."""
        steps = [self._change_member, self._change_list, self._change_document]
        await self._chance.choices(steps, [4, 4, 2])[0]()
        self.tally.changes += 1
        self._permitted.clear()
        self._lists = None

    async def _change_member(self) -> None:
        number = self._chance.randrange(self._size.groups * 2 + self._size.users * 3)
        if number in self._members and self._chance.random() < 0.3:
            del self._members[number]
            await store(self._writer, ApplyRows([without(MEMBERS, number)]))
            return
        group = self._group()
        if self._chance.random() < 0.4:
            member = self._group()
            change = row(MEMBERS, number, group, None, member)
            self._members[number] = (f"group:{group}", f"group:{member}")
        else:
            member = self._user()
            change = row(MEMBERS, number, group, member, None)
            self._members[number] = (f"group:{group}", f"user:{member}")
        await store(self._writer, ApplyRows([change]))

    async def _change_list(self) -> None:
        place = self._chance.choice([*self._folders(), self._key(self._number())])
        if self._chance.random() < 0.3:
            await self._change_row(place)
            return
        self._positions += 1
        name = f"{place}.acl.yaml"
        # Above much, only seldom what closes much: else nobody sees anything most of the time.
        often = 1.0 if place.endswith(".md") else 0.2 if place else 0.05
        gone, broken = self._chance.random() < 0.15, self._chance.random() < 0.05 * often
        allow = self._names(3) if self._chance.random() < 0.8 else None
        deny = self._names(1) if self._chance.random() < 0.25 * often else []
        entry = PermissionEntry(
            "docs",
            place,
            name,
            Position(f"{self._positions:016x}"),
            Microseconds(self._positions),
            allow=[] if broken else allow,
            deny=deny,
            problem="expected a list" if broken else None,
            gone=gone,
        )
        if gone:
            self._entries.pop((place, name), None)
        else:
            self._entries[place, name] = _Entry(entry.allow, entry.deny, broken)
        await store(self._writer, SetPermissions([entry]))

    async def _change_row(self, place: str) -> None:
        number = self._chance.randrange(self._size.documents)
        for known in [n for n in self._entries if n[1] == str(number)]:
            del self._entries[known]
        if self._chance.random() < 0.2:
            await store(self._writer, ApplyRows([without(LISTS, number)]))
            return
        [name] = self._names(1)
        if not place.endswith(".md"):
            name = f"group:{self._group()}"
        effect = "deny" if self._chance.random() < (0.3 if place else 0.02) else "allow"
        kind, _, bare = name.partition(":")
        user, group = (bare if kind == of else None for of in ("user", "group"))
        listed = [f"{kind}:{bare}"] if bare else []
        self._entries[place, str(number)] = _Entry(
            listed if effect == "allow" else None,
            listed if effect == "deny" else [],
            broken=not listed,
            table=True,
        )
        change = row(LISTS, number, place, user, group, effect)
        await store(self._writer, ApplyRows([change]))

    async def _change_document(self) -> None:
        key = self._key(self._number())
        self._positions += 1
        if key in self._documents and self._chance.random() < 0.4:
            del self._documents[key]
            doc = Doc(key, "", deleted=True, position=self._positions)
            await store(self._writer, replacing(doc))
            return
        self._documents[key] = self._text(key)
        await store(self._writer, replacing(self._doc(key)))

    # ------------------------------------------------------------------ names and texts

    def _number(self) -> int:
        return self._chance.randrange(self._size.documents)

    def _folders(self) -> list[str]:
        return ["", *(f"f{n}" for n in range(self._size.folders)), "f0/deep", "f1/deep"]

    def _key(self, number: int) -> str:
        folder = f"f{number % self._size.folders}"
        deep = "/deep" if number % 3 == 0 else ""
        return f"{folder}{deep}/{number}.md"

    def _user(self) -> str:
        return f"n{self._chance.randrange(self._size.users)}"

    def _group(self) -> str:
        # Many are called like users.
        return f"n{self._chance.randrange(self._size.groups)}"

    def _names(self, most: int) -> list[str]:
        found = []
        for _ in range(self._chance.randrange(1, most + 1)):
            kind = self._chance.choices(["user", "group", "everyone"], [3, 6, 1])[0]
            name = self._user() if kind == "user" else self._group()
            found.append(EVERYONE if kind == "everyone" else f"{kind}:{name}")
        return found

    def _text(self, key: str) -> str:
        number = int(key.rpartition("/")[2].removesuffix(".md"))
        words = random.Random(number).sample(WORDS, 3)
        return f"{key} {' '.join(words)}"

    def _doc(self, key: str) -> Doc:
        return Doc(key, self._documents[key], position=max(1, self._positions))

    # ------------------------------------------------------------------ the model

    def names_of(self, principal: Principal) -> set[str]:
        """All that one is, the plain way."""
        known = {EVERYONE, *principal.names}
        while True:
            more = {group for group, member in self._members.values() if member in known} - known
            if not more:
                return known
            known |= more

    def lists(self) -> Mapping[str, tuple[frozenset[str], frozenset[str]]]:
        """Who may and who may not see each document, the plain way; until something changes."""
        if self._lists is None:
            by_place: dict[str, list[_Entry]] = {}
            for (place, _), entry in self._entries.items():
                by_place.setdefault(place, []).append(entry)
            self._lists = {key: _list_of(key, by_place) for key in self._documents}
        return self._lists

    def permitted(self, principal: Principal) -> frozenset[str]:
        """All documents that one may see; remembered until something changes."""
        asked = (*principal.names,)
        if asked not in self._permitted:
            names = self.names_of(principal)
            self._permitted[asked] = frozenset(
                key
                for key, (allow, deny) in self.lists().items()
                if names & allow and not names & deny
            )
        return self._permitted[asked]

    # ------------------------------------------------------------------ asking

    async def ask(self) -> None:
        """A random question of a random one, compared with the model."""
        chance = self._chance
        groups = tuple({self._group() for _ in range(chance.choice([0, 0, 0, 1, 2]))})
        user = None if chance.random() < 0.05 else self._user()
        principal = Principal(user, groups)
        words = chance.sample(WORDS, chance.randrange(1, 3))
        limit = chance.choice([1, 5, 20, 50])
        kind = chance.choice(["vector", "text", "both"])
        where = (
            Filter(path=f"f{chance.randrange(self._size.folders)}/*")
            if (chance.random() < 0.2)
            else Filter()
        )
        async with self._reader.snapshot(principal) as snapshot:
            hits = await snapshot.candidates(
                None if kind == "text" else vector_of(" ".join(words)),
                None if kind == "vector" else " ".join(words),
                limit=limit,
                where=where,
                model=MODEL,
            )
            passages = await snapshot.passages([hit.chunk for hit in hits])
        found = {passage.key for passage in passages}
        could = {
            key
            for key in self.permitted(principal)
            if where.path is None or key.startswith(where.path.removesuffix("*"))
        }
        if kind == "text":
            could = {key for key in could if any(w in self._documents[key].split() for w in words)}
        tally = self.tally
        tally.queries += 1
        tally.hits += len(found)
        tally.empty += not found
        tally.foreign += (
            len(found - could) if kind != "both" else len(found - self.permitted(principal))
        )
        tally.missing += len(found) < min(limit, len(could)) or len(passages) != len(hits)


def _list_of(
    key: str, by_place: Mapping[str, Sequence[_Entry]]
) -> tuple[frozenset[str], frozenset[str]]:
    parts = key.split("/")
    allow: frozenset[str] | None = None
    deny: set[str] = set()
    for length in range(len(parts), -1, -1):
        here = by_place.get("/".join(parts[:length]), ())
        if any(entry.broken for entry in here):
            return frozenset(), frozenset()
        for entry in here:
            deny |= set(entry.deny)
        said = [entry.allow for entry in here if entry.allow is not None]
        if allow is None and said:
            allow = frozenset(name for names in said for name in names)
    return allow or frozenset(), frozenset(deny)
