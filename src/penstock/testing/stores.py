"""The conformance suite of stores: what `penstock.stores.base.Store` promises, as tests.

Derive from `StoreSuite` in a test module, write the fixture ``store`` (fresh and empty), and say in
``rows`` how the rows of a live table are read, in ``letters`` how many dead letters there are.

    class TestMyStore(StoreSuite):
        @pytest.fixture
        async def store(self):
            ...
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from penstock.errors import BadRecordError, FencedError
from penstock.records import (
    UNCHANGED,
    Change,
    Column,
    Key,
    LogPosition,
    Microseconds,
    Op,
    Position,
    Row,
    Schema,
)
from penstock.stores.base import (
    ApplyRows,
    ChunkText,
    DeadLetter,
    DocumentVersion,
    Move,
    ReplaceDocuments,
    Store,
)

COLUMNS = (Column("id", "bigint", key=True), Column("name", "text"), Column("body", "text"))
THINGS = Schema("shop", "public.things", COLUMNS)
MODEL = "suite"


def at(number: int) -> Position:
    """Positions in the order of their numbers."""
    return Position(f"{number:016X}")


def put(number: int, key: int, *values: str | None, op: Op = Op.CREATE) -> Change:
    """A row with all its values."""
    return row(number, key, (str(key), *values), op=op)


def row(
    number: int,
    key: int,
    after: Row,
    *,
    op: Op = Op.UPDATE,
    old_key: int | None = None,
    schema: Schema = THINGS,
) -> Change:
    """A row, perhaps with values left out, perhaps moved from another key."""
    before: Key | None = None if old_key is None else (str(old_key),)
    return Change(
        schema, op, (str(key),), at(number), Microseconds(number), after, None, before, "1"
    )


def delete(number: int, key: int) -> Change:
    """A row that is gone."""
    before = (str(key), None, None)
    return Change(THINGS, Op.DELETE, (str(key),), at(number), Microseconds(number), None, before)


def truncate(number: int) -> Change:
    """All rows that are gone."""
    return Change(THINGS, Op.TRUNCATE, (), at(number), Microseconds(number))


def step(expected: int, to: int, *, as_of: int | None = None) -> Move:
    """A move of the suite's consumer."""
    time = None if as_of is None else Microseconds(as_of)
    return Move("suite", "shop", 0, LogPosition(expected), LogPosition(to), "shop", time, at(to))


def document(number: int, key: str, hashes: Sequence[bytes]) -> DocumentVersion:
    """A document of one-word chunks with these hashes."""
    text = " ".join("word" for _ in hashes)
    chunks = [
        ChunkText("word", "word", hash_, i * 5, i * 5 + 4, "", 1) for i, hash_ in enumerate(hashes)
    ]
    return DocumentVersion("shop", key, at(number), Microseconds(number), chunks, text=text)


class StoreSuite:
    """What each store must do."""

    async def rows(self, store: Store, schema: Schema) -> dict[Key, Row]:
        """The rows of a live table as texts, by key."""
        raise NotImplementedError

    async def letters(self, store: Store) -> int:
        """How many dead letters there are."""
        raise NotImplementedError

    async def apply(self, store: Store, *changes: Change) -> None:
        """Apply some changes in one transaction."""
        async with store.transaction() as transaction:
            await transaction.apply(ApplyRows(changes))

    # ------------------------------------------------------------------ positions

    async def test_a_consumer_begins_at_zero(self, store: Store) -> None:
        """A consumer that was never seen stands at 0, and asking again changes nothing."""
        assert await store.position("suite", "shop", 0) == 0
        assert await store.position("suite", "shop", 0) == 0

    async def test_g2_results_and_position_are_one(self, store: Store) -> None:
        """An error inside a transaction undoes results, letters and position together."""
        await store.position("suite", "shop", 0)
        letter = DeadLetter("suite", "shop", 0, LogPosition(2), put(2, 2, "b", "b"), "broken")

        async def fail_at_the_end() -> None:
            async with store.transaction() as transaction:
                await transaction.apply(ApplyRows([put(1, 1, "a", "a")]))
                await transaction.bury([letter])
                await transaction.move(step(0, 2))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail_at_the_end()
        assert await self.rows(store, THINGS) == {}
        assert await self.letters(store) == 0
        assert await store.position("suite", "shop", 0) == 0

    async def test_g2_a_second_process_is_fenced(self, store: Store) -> None:
        """A move from a position that is not the stored one is refused, with its results."""
        await store.position("suite", "shop", 0)
        async with store.transaction() as transaction:
            await transaction.move(step(0, 5))

        async def move_from_zero_again() -> None:
            async with store.transaction() as transaction:
                await transaction.apply(ApplyRows([put(1, 1, "a", "a")]))
                await transaction.move(step(0, 4))

        with pytest.raises(FencedError):
            await move_from_zero_again()
        assert await store.position("suite", "shop", 0) == 5
        assert await self.rows(store, THINGS) == {}

    async def test_a_consumer_must_be_registered(self, store: Store) -> None:
        """Moving a consumer that nobody asked for is refused."""
        with pytest.raises(FencedError):
            async with store.transaction() as transaction:
                await transaction.move(step(0, 1))

    # ------------------------------------------------------------------ rows

    async def test_g1_the_last_change_of_a_key_wins(self, store: Store) -> None:
        """Within one batch and over several, each key is as its last change left it."""
        await self.apply(store, put(1, 1, "a", "x"), put(2, 2, "b", "x"), put(3, 1, "c", "x"))
        await self.apply(store, put(4, 2, "d", None, op=Op.UPDATE), delete(5, 1))
        assert await self.rows(store, THINGS) == {("2",): ("2", "d", None)}

    async def test_g2_applying_again_changes_nothing(self, store: Store) -> None:
        """A batch that was applied may be applied again, also after later ones."""
        first = [put(1, 1, "a", "x"), put(2, 2, "b", "x"), delete(3, 1)]
        second = [put(4, 1, "c", "x"), delete(5, 2)]
        await self.apply(store, *first)
        await self.apply(store, *second)
        expected = {("1",): ("1", "c", "x")}
        for batch in (first, second, first):
            await self.apply(store, *batch)
            assert await self.rows(store, THINGS) == expected

    async def test_g1_an_older_change_does_not_bring_a_row_back(self, store: Store) -> None:
        """What was deleted stays so when an older version arrives late."""
        await self.apply(store, put(1, 1, "a", "x"))
        await self.apply(store, delete(5, 1))
        await self.apply(store, put(4, 1, "b", "x"))
        assert await self.rows(store, THINGS) == {}
        await self.apply(store, put(6, 1, "c", "x"))
        assert await self.rows(store, THINGS) == {("1",): ("1", "c", "x")}

    async def test_an_unchanged_value_is_kept(self, store: Store) -> None:
        """What a source leaves out is neither emptied nor replaced by a mark."""
        await self.apply(store, put(1, 1, "a", "long"))
        await self.apply(store, row(2, 1, ("1", "b", UNCHANGED)))
        await self.apply(store, put(3, 2, "c", "wide"), row(4, 2, ("2", "d", UNCHANGED)))
        assert await self.rows(store, THINGS) == {
            ("1",): ("1", "b", "long"),
            ("2",): ("2", "d", "wide"),
        }

    async def test_an_unchanged_value_moves_with_its_key(self, store: Store) -> None:
        """A row that gets another key takes what the source left out along."""
        await self.apply(store, put(1, 1, "a", "long"))
        await self.apply(store, row(2, 7, ("7", "b", UNCHANGED), old_key=1))
        assert await self.rows(store, THINGS) == {("7",): ("7", "b", "long")}

    async def test_two_rows_trade_keys(self, store: Store) -> None:
        """Through a third key, in one batch, with values left out."""
        await self.apply(store, put(1, 1, "a", "one"), put(2, 2, "b", "two"))
        await self.apply(
            store,
            row(3, 9, ("9", "a", UNCHANGED), old_key=1),
            row(4, 1, ("1", "b", UNCHANGED), old_key=2),
            row(5, 2, ("2", "a", UNCHANGED), old_key=9),
        )
        assert await self.rows(store, THINGS) == {
            ("1",): ("1", "b", "two"),
            ("2",): ("2", "a", "one"),
        }

    async def test_an_update_of_a_row_that_is_missing_is_refused(self, store: Store) -> None:
        """Values that nobody knows are not made up."""
        with pytest.raises(BadRecordError):
            await self.apply(store, row(2, 1, ("1", "b", UNCHANGED)))

    async def test_g1_g4_a_truncate_takes_only_what_is_older(self, store: Store) -> None:
        """The copy of a table ends with a truncate that speaks of the time before it: rows that
        came later stay, in one batch with it and from one before, and can be updated in part."""
        await self.apply(store, put(1, 1, "a", "x"), put(2, 2, "a", "x"), put(11, 3, "b", "x"))
        await self.apply(store, put(12, 1, "b", "x"), truncate(10), put(13, 4, "b", "x"))
        keys = {("1",): "b", ("3",): "b", ("4",): "b"}
        assert {k: r[1] for k, r in (await self.rows(store, THINGS)).items()} == keys
        partial = [row(14, 3, ("3", "c", UNCHANGED)), row(15, 4, ("4", "c", UNCHANGED))]
        await self.apply(store, truncate(10), *partial)
        keys = {("1",): "b", ("3",): "c", ("4",): "c"}
        assert {k: r[1] for k, r in (await self.rows(store, THINGS)).items()} == keys

    async def test_g4_truncate_takes_all_before_it(self, store: Store) -> None:
        """Rows before it are gone, rows after it stay, and older ones that come late do not."""
        await self.apply(store, put(1, 1, "a", "x"))
        await self.apply(store, put(3, 2, "b", "x"), truncate(4), put(5, 3, "c", "x"))
        await self.apply(store, put(2, 4, "late", "x"))
        await self.apply(store, truncate(4))
        assert await self.rows(store, THINGS) == {("3",): ("3", "c", "x")}

    async def test_tables_can_be_made_before_their_first_change(self, store: Store) -> None:
        """Preparing is repeatable and leaves rows alone."""
        await store.prepare_tables([THINGS])
        assert await self.rows(store, THINGS) == {}
        await self.apply(store, put(1, 1, "a", "x"))
        await store.prepare_tables([THINGS])
        assert await self.rows(store, THINGS) == {("1",): ("1", "a", "x")}

    # ------------------------------------------------------------------ documents, dead letters

    async def test_vectors_are_known_after_they_were_stored(self, store: Store) -> None:
        """Hashes are known under the model that embedded them, and under no other."""
        hashes = [bytes([n]) * 32 for n in range(3)]
        matrix = np.eye(3, 8, dtype=np.float32)
        async with store.transaction() as transaction:
            await transaction.apply(
                ReplaceDocuments(
                    [document(1, "a.md", hashes[:2])],
                    MODEL,
                    {hashes[0]: 0, hashes[1]: 1},
                    matrix,
                )
            )
        assert await store.known_vectors(MODEL, hashes) == set(hashes[:2])
        assert await store.known_vectors("another", hashes) == set()
        assert await store.known_vectors(MODEL, []) == set()

    async def test_g13_anything_can_be_buried(self, store: Store) -> None:
        """Whatever a change holds, it can become a dead letter."""
        strange = put(1, 1, "nul \x00", "surrogate \ud800")
        long = Change(THINGS, Op.CREATE, ("k\x00" * 9000,), at(2), Microseconds(1), ("1", "", ""))
        async with store.transaction() as transaction:
            await transaction.bury(
                [
                    DeadLetter("suite", "shop", 0, LogPosition(9), change, "why \x00")
                    for change in (strange, long)
                ]
            )
        assert await self.letters(store) == 2

    async def test_g13_a_letter_is_a_change_whatever_batch_it_was_met_in(
        self, store: Store
    ) -> None:
        """Buried again from a longer batch it is the same letter; two bad changes of one key in one
        batch are two."""
        first, second = put(1, 7, "a", "bad"), put(2, 7, "b", "bad")
        for last, changes in ((2, [first, second]), (5, [first, second])):
            async with store.transaction() as transaction:
                await transaction.bury(
                    [
                        DeadLetter("suite", "shop", 0, LogPosition(last), change, "bad")
                        for change in changes
                    ]
                )
        assert await self.letters(store) == 2
