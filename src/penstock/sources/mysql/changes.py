"""From events of the binlog to changes, transaction by transaction. Pure: no I/O, no clock.

The `Assembler` is fed events in order. It knows where each stands, gives each change its position,
leaves out what the log holds already and what a copy contains, and follows the shapes of tables as
the binlog describes and alters them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from penstock.errors import SourceError
from penstock.records import UNCHANGED, Change, Key, Microseconds, Op, Row, Schema
from penstock.sources.mysql import ddl, events
from penstock.sources.mysql.events import Header, RowsKind
from penstock.sources.mysql.gtids import MariaDBGtids, MySQLGtids
from penstock.sources.mysql.plans import TablePlan, Tracked, filled, key_maker
from penstock.sources.mysql.positions import (
    Place,
    event_prefix,
    make_position,
    parse_position,
    unwrapped,
)
from penstock.sources.mysql.protocol import ProtocolError
from penstock.sources.mysql.readers import reader_of
from penstock.sources.mysql.rows import Images, RowImages, decode_rows, skipper_of
from penstock.sources.mysql.shapes import Shape, fits, forms_of, schema_of, shape_in
from penstock.sources.mysql.table_map import TableMap, decode_table_map

_DUMMY_TABLE: Final = 0xFFFFFF
"""Says only that a statement has ended."""
_HELD_MOST: Final = 1_000_000
"""How many changes of prepared XA transactions are held."""
_new = cast("Callable[[type[Change], tuple[Any, ...]], Change]", tuple.__new__)


class Assembler:
    """Changes of the events that it is fed.

    ``changes`` holds what was not taken yet; the first ``complete`` of them belong to transactions
    that are complete, the last of which ended at ``at``.
    """

    def __init__(
        self,
        source: str,
        start: Place,
        *,
        wanted: Callable[[str], bool],
        tables: Mapping[str, Tracked],
        charsets: Mapping[int, str],
        gtids: MariaDBGtids | MySQLGtids,
        position: str | None = None,
        born: str | None = None,
    ) -> None:
        self._source = source
        self._what = f"source {source!r}"
        self._wanted = wanted
        self.tables = dict(tables)
        self._charsets = charsets
        self.gtids = gtids
        self._done = parse_position(position) if position else (-1, 0, 0, 0)
        self.mariadb = isinstance(gtids, MariaDBGtids)
        self.born = self._expected_birth = born
        """When the file was begun in which we are, and which that is."""
        self.here = start
        """Where the next event begins."""
        self.at = start
        """All that ended by this place is complete."""
        self.changes: list[Change] = []
        self.complete = 0
        self.committed_at: Microseconds | None = None
        self.unclear: set[str] = set()
        """Tables that must be looked at anew: their rows, or what they look like, are not known."""
        self.noted: dict[str, Shape | None] = {}
        """Shapes that changed since they were last taken."""
        self._maps: dict[int, tuple[bytes, TableMap]] = {}
        self._plans: dict[int, TablePlan | None] = {}
        self._checksums = False
        self._gtid: events.Gtid | None = None
        self._open = self._begun = False
        self._time = Microseconds(0)
        self._prepared: dict[str, list[Change]] = {}
        self._prepared_at: dict[str, Place] = {}
        self._held: list[Change] | None = None
        self._prefix = ""
        self._transaction: str | None = None

    # ------------------------------------------------------------------ feeding

    def feed(self, event: bytes) -> None:
        """Take the next event. Raises `SourceError` for what cannot be understood or followed."""
        header = events.decode_header(event)
        if header.type == events.FORMAT:
            self._format(event, header)
            return
        if header.type == events.ROTATE:
            self._rotate(event)
            return
        if self._checksums:
            event = events.checked(event)
        if events.is_artificial(header) or header.type in (events.HEARTBEAT, 41):
            self._heard(header)
            return
        end = unwrapped(header.end, self.here.offset)
        self.here = self.here._replace(offset=end - header.size)
        self._take(event, header)
        self.here = self.here._replace(offset=end)
        if not self._open:
            self._finish()

    @property
    def in_transaction(self) -> bool:
        """Whether the end of a transaction is yet to come."""
        return self._open

    @property
    def resume(self) -> Place:
        """Where reading can begin anew: at the end of what is complete, or where a transaction
        was prepared whose end has not come."""
        return min([self.at, *self._prepared_at.values()], key=lambda place: place.order)

    def take_complete(self) -> list[Change]:
        """The changes of complete transactions."""
        taken = self.changes[: self.complete]
        del self.changes[: self.complete]
        self.complete = 0
        return taken

    def take_part(self, count: int) -> list[Change]:
        """The first changes of a transaction that is not complete."""
        taken = self.changes[:count]
        del self.changes[:count]
        self.complete = max(0, self.complete - len(taken))
        return taken

    def begin_table(self, stream: str, shape: Shape | None, starts_at: Place) -> None:
        """A copy of this table as of this place was begun: changes from then on are wanted."""
        self.tables[stream] = Tracked(shape, starts_at.order)
        self.unclear.discard(stream)
        self._forget(stream)

    def _forget(self, stream: str) -> None:
        for table_id, plan in list(self._plans.items()):
            if plan is None or plan.stream == stream:
                del self._plans[table_id]

    # ------------------------------------------------------------------ files

    def _format(self, event: bytes, header: Header) -> None:
        described = events.decode_format(event)
        self._checksums = described.checksums
        born = f"{header.timestamp} {self.here.file}"
        expected, self._expected_birth = self._expected_birth, None
        if expected is not None and expected != born and expected.endswith(f" {self.here.file}"):
            raise SourceError(
                f"expected binlog {self.here.file!r} of {self._what} to be the one that was read "
                "before, got another of the same name: the binlog was reset, or the server was "
                "made anew; `penstock drop` the source and run again"
            )
        self.born = born
        self._plans.clear()
        self._maps.clear()
        if header.end and header.end > self.here.offset:
            self.here = self.here._replace(offset=header.end)
            if not self._open:
                self._finish()

    def _rotate(self, event: bytes) -> None:
        # The first one comes before it is known whether events have checksums.
        rotate = events.decode_rotate(events.unsealed(event))
        if rotate.file != self.here.file:
            self.here = self.here._replace(file=rotate.file, offset=rotate.offset)
            if not self._open:
                self._finish()

    def _heard(self, header: Header) -> None:
        if header.type in (events.HEARTBEAT, 41) and not self._open and header.end:
            end = unwrapped(header.end, self.here.offset)
            if end > self.here.offset:  # what was left out for us has passed
                self.here = self.here._replace(offset=end)
                self._finish()

    # ------------------------------------------------------------------ transactions

    def _take(self, event: bytes, header: Header) -> None:
        kind = header.type
        if kind in events.ROWS:
            self._rows(event, events.ROWS[kind], 0)
        elif kind == events.TABLE_MAP:
            self._describe(event)
        elif kind in (events.GTID, events.ANONYMOUS, events.MARIADB_GTID):
            self._begin(events.decode_gtid(event, kind), header)
        elif kind == events.XID:
            self._commit(header)
        elif kind in (events.QUERY, events.QUERY_COMPRESSED):
            compressed = kind == events.QUERY_COMPRESSED
            self._query(events.decode_query(event, compressed=compressed), header)
        elif kind == events.PAYLOAD:
            self._payload(event)
        elif kind == events.XA_PREPARE:
            self._prepare(_xa_key(events.xa_name(event)), header)
        else:
            self._refuse(kind)

    def _refuse(self, kind: int) -> None:
        if kind == events.TAGGED_GTID:
            raise SourceError(
                f"expected GTIDs without tags from {self._what}, got one with: SET gtid_next back "
                "to AUTOMATIC without a tag in the applications that set it"
            )
        if kind == events.INCIDENT:
            raise SourceError(
                f"expected a whole binlog from {self._what}, but the server says that it lost "
                "events: `penstock drop` the source and run again"
            )
        if kind == events.MARIADB_ENCRYPTION:
            return  # the server decrypts what it sends

    def _begin(self, gtid: events.Gtid, header: Header) -> None:
        self._gtid = gtid
        self._open, self._begun = True, self.mariadb and not gtid.standalone
        self._time = Microseconds(gtid.committed_at or header.timestamp * 1_000_000)
        self._held = [] if gtid.xa else None

    def _commit(self, header: Header) -> None:
        self._time = max(self._time, Microseconds(header.timestamp * 1_000_000))
        self._open = self._begun = False

    def _finish(self) -> None:
        if self._gtid is not None:
            if self._gtid.text:
                self.gtids.add(self._gtid.text)
            self._gtid = None
            if self.committed_at is None or self._time > self.committed_at:
                self.committed_at = self._time
        self.at = self.here
        self.complete = len(self.changes)

    def _query(self, query: events.Query, header: Header) -> None:
        statement = query.statement.lstrip()
        first = statement[:12].upper()
        if first.startswith("BEGIN"):
            self._open = self._begun = True
            if self._gtid is None:
                self._time = Microseconds(header.timestamp * 1_000_000)
            return
        if first.startswith(("COMMIT", "ROLLBACK")) and "TO" not in statement.upper().split():
            self._commit(header)
            return
        if first.startswith("XA "):
            self._xa(statement, header)
            return
        if first.startswith(("SAVEPOINT", "ROLLBACK")):
            return
        self._define(query)
        # MySQL makes and fills a table in one transaction that begins like this.
        if not self._begun and not statement.upper().endswith("START TRANSACTION"):
            self._commit(header)

    def _payload(self, event: bytes) -> None:
        place = 0
        for inner in events.payload_events(event):
            header = events.decode_header(inner)
            if header.type in events.ROWS:
                self._rows(inner, events.ROWS[header.type], place)
            elif header.type == events.PAYLOAD:
                raise ProtocolError("expected events in a compressed transaction, got another one")
            else:
                self._take(inner, header)
            place += header.size

    # ------------------------------------------------------------------ XA

    def _prepare(self, name: str, header: Header) -> None:
        """What was prepared waits for its end, which may come much later."""
        begun = self.at
        self._prepared[name] = self._held if self._held is not None else self._taken_back()
        self._prepared_at[name] = begun
        if sum(map(len, self._prepared.values())) > _HELD_MOST:
            raise SourceError(
                f"expected at most {_HELD_MOST} changes in prepared XA transactions of "
                f"{self._what}, got more: commit or roll them back, then start again"
            )
        self._held = None
        self._commit(header)

    def _taken_back(self) -> list[Change]:
        held = self.changes[self.complete :]
        del self.changes[self.complete :]
        return held

    def _xa(self, statement: str, header: Header) -> None:
        words = statement.split(None, 2)
        verb = words[1].upper() if len(words) > 1 else ""
        if verb in ("COMMIT", "ROLLBACK"):
            name = words[2].upper().removesuffix("ONE PHASE").strip() if len(words) > 2 else ""
            found = self._prepared.pop(_xa_key(name), None)
            self._prepared_at.pop(_xa_key(name), None)
            self._held = None
            for place, change in enumerate(found or ()):
                if verb == "COMMIT":
                    self._move(change, place)
            self._commit(header)
        elif verb == "START":
            self._held = []

    def _move(self, change: Change, place: int) -> None:
        if (*self.here.order, place) > self._done:
            position = make_position(self.here, place)
            self.changes.append(change._replace(position=position, committed_at=self._time))

    # ------------------------------------------------------------------ tables

    def _describe(self, event: bytes) -> None:
        table_id = events.rows_table(event)
        known = self._maps.get(table_id)
        # Tables are described again and again; nearly always as before.
        if known is None or known[0] != event[events.HEADER :]:
            described = decode_table_map(event, mariadb=self.mariadb)
            self._maps[table_id] = (event[events.HEADER :], described)
            self._plans.pop(table_id, None)

    def _planned(self, table_id: int) -> TablePlan | None:
        """How rows of this table are read; None when nobody wants them."""
        if table_id not in self._plans:
            if table_id not in self._maps:
                raise ProtocolError(
                    f"expected the description of table {table_id} before its rows, got none"
                )
            described = self._maps[table_id][1]
            stream = f"{described.database}.{described.table}"
            tracked = self.tables.get(stream)
            plan = None if tracked is None else self._plan(stream, tracked, described)
            self._plans[table_id] = plan
        return self._plans[table_id]

    def _plan(self, stream: str, tracked: Tracked, described: TableMap) -> TablePlan | None:
        shape = shape_in(described, self._charsets, tracked.shape)
        if shape is None:
            shape = tracked.shape
            if shape is None or not fits(described, shape):
                self._doubt(stream)
                return None
        elif shape != tracked.shape:
            tracked.shape = shape
            self.noted[stream] = shape
        schema = schema_of(self._source, stream, shape)
        forms = forms_of(described, shape)
        readers = tuple(map(reader_of, forms))
        images = Images(readers, schema.key_indexes, tuple(map(skipper_of, forms)))
        key = key_maker(schema)
        return TablePlan(stream, schema, readers, images, tracked.starts_at, key)

    def _rows(self, event: bytes, kind: RowsKind, outer: int) -> None:
        order = self.here.order
        # What was prepared gets its position when it is committed.
        done = self._done if self._held is None else (-1, 0, 0, 0)
        if order < done[:3]:
            return
        table_id = events.rows_table(event)
        if table_id == _DUMMY_TABLE:
            return
        plan = self._planned(table_id)
        if plan is None or order < plan.starts_at:
            return
        skip = done[3] if order == done[:3] else -1
        self._prefix = event_prefix(self.here)
        self._transaction = (self._gtid.text if self._gtid is not None else None) or None
        head = events.decode_rows_head(event, kind)
        for images in decode_rows(head, plan.readers, plan.images):
            within = outer + images.place
            if within > skip:
                self._row(plan, images, within)

    def _row(self, plan: TablePlan, images: RowImages, within: int) -> None:
        before, after = images.before, images.after
        if after is None:
            assert before is not None
            if UNCHANGED in before:
                before = tuple(None if value is UNCHANGED else value for value in before)
            self._add(plan.schema, Op.DELETE, plan.key(before), within, None, before)
            return
        if before is None:
            if UNCHANGED in after:
                # A new row without some of its values: the server knows them, the log does not.
                self._doubt(plan.stream)
                return
            self._add(plan.schema, Op.CREATE, plan.key(after), within, after)
            return
        if UNCHANGED in after:
            after = filled(after, before)
        key, old_key = plan.key(after), plan.key(before)
        if UNCHANGED in cast("Row", old_key) or UNCHANGED in cast("Row", key):
            raise SourceError(
                f"expected the key of a changed row of {plan.stream!r}, which the log leaves out: "
                "SET GLOBAL binlog_row_image = FULL and reconnect the applications"
            )
        moved = None if old_key == key else old_key
        old = before
        if UNCHANGED in before:
            old = tuple(None if value is UNCHANGED else value for value in before)
        self._add(plan.schema, Op.UPDATE, key, within, after, old, moved)

    def _add(
        self,
        schema: Schema,
        op: Op,
        key: Key,
        within: int,
        after: Row | None,
        before: Row | None = None,
        old_key: Key | None = None,
    ) -> None:
        into = self.changes if self._held is None else self._held
        # tuple.__new__ is what Change() comes to, at a third of its time.
        into.append(
            _new(
                Change,
                (
                    schema,
                    op,
                    key,
                    f"{self._prefix}{within:08X}",
                    self._time,
                    after,
                    before,
                    old_key,
                    self._transaction,
                ),
            )
        )

    # ------------------------------------------------------------------ definitions

    def _define(self, query: events.Query) -> None:
        if query.error:
            return
        self._prefix = event_prefix(self.here)
        self._transaction = (self._gtid.text if self._gtid is not None else None) or None
        found = ddl.definitions(query.statement, query.database, ansi_quotes=query.ansi_quotes)
        for place, definition in enumerate(found):
            if definition.what == "drop database":
                inside = f"{definition.table[0]}."
                streams = [stream for stream in self.tables if stream.startswith(inside)]
                for number, stream in enumerate(sorted(streams)):
                    self._emptied(stream, place + number)
                continue
            self._define_one(definition, place)

    def _define_one(self, definition: ddl.Definition, place: int) -> None:
        stream = ".".join(definition.table)
        if definition.what == "create":
            self._created(stream)
        elif definition.what == "truncate":
            self._emptied(stream, place)
        elif definition.what == "drop":
            self._emptied(stream, place)
            self._reshape(stream, None)
        elif definition.what == "alter":
            self._altered(stream, definition)
        if definition.to is not None and definition.to != definition.table:
            self._emptied(stream, place)
            self._reshape(stream, None)
            to = ".".join(definition.to)
            if self._wanted(to):
                # Rows that were elsewhere are here now: only a copy can tell of them.
                self._reshape(to, None)
                if to not in self.tables:
                    self.tables[to] = Tracked(None)
                    self.unclear.add(to)
                self._doubt(to)

    def _created(self, stream: str) -> None:
        # Perhaps in the place of another one (OR REPLACE), perhaps not at all (IF NOT EXISTS): a
        # copy settles it, and a new table is small.
        if stream in self.tables:
            self._doubt(stream)
        elif self._wanted(stream):
            self.tables[stream] = Tracked(None)
            self.unclear.add(stream)

    def _doubt(self, stream: str) -> None:
        """A copy must tell what the table holds, unless one that is being made will."""
        tracked = self.tables.get(stream)
        if tracked is None or self.here.order >= tracked.starts_at:
            self.unclear.add(stream)

    def _emptied(self, stream: str, place: int) -> None:
        tracked = self.tables.get(stream)
        order = self.here.order
        if tracked is None or order < tracked.starts_at or (*order, place) <= self._done:
            return
        if tracked.shape is None:
            return
        schema = schema_of(self._source, stream, tracked.shape)
        self._add(schema, Op.TRUNCATE, (), place, None)

    def _altered(self, stream: str, definition: ddl.Definition) -> None:
        tracked = self.tables.get(stream)
        if tracked is None or self.here.order < tracked.starts_at:
            return
        if tracked.shape is None:
            self._doubt(stream)
            return
        after = ddl.altered(definition.clauses, tracked.shape)
        if after.shape != tracked.shape and after.shape is not None:
            tracked.shape = after.shape
            self.noted[stream] = after.shape
            self._forget(stream)
        if after.rows_differ:
            self._doubt(stream)

    def _reshape(self, stream: str, shape: Shape | None) -> None:
        tracked = self.tables.get(stream)
        if tracked is not None and self.here.order >= tracked.starts_at:
            tracked.shape = shape
            self.noted[stream] = shape
            self._forget(stream)


def _xa_key(name: str) -> str:
    """One way to write what the server writes in several."""
    return "".join(name.split()).upper()
