"""Statements that define tables, as the binlog holds them: what they mean for capture. Pure.

Only what capture must know is understood: which tables a statement makes, empties, renames, alters
or drops, and what an alteration does to the columns. What is not understood is said to be unclear,
and then the table is looked at anew; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from penstock.sources.mysql.shapes import Shape, ShapeColumn

TableName = tuple[str, str]
"""Database and table."""


@dataclass(frozen=True)
class Definition:
    """What a statement does to a table. ``to`` is set when it has another name afterwards.
    ``clauses`` are those of an alteration, as tokens."""

    what: Literal["create", "truncate", "drop", "rename", "alter", "drop database"]
    table: TableName
    to: TableName | None = None
    clauses: tuple[tuple[str, ...], ...] = ()


class Altered(NamedTuple):
    """What became of a shape. ``shape`` is None when that is unclear. ``rows_differ``: rows that
    were there may have values now that no change tells of."""

    shape: Shape | None
    rows_differ: bool


_TOKEN: Final = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<comment>/\*(?![!M]).*?\*/|--(?=[\s\x00]|$)[^\n]*|\#[^\n]*)
    | (?P<open>/\*M?!\d*)
    | (?P<close>\*/)
    | (?P<name>`(?:[^`]|``)*`)
    | (?P<text>'(?:[^'\\]|\\.|'')*')
    | (?P<double>"(?:[^"\\]|\\.|"")*")
    | (?P<word>[\w$@\u0080-\U0010ffff]+)
    | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def tokens(statement: str, *, ansi_quotes: bool = False) -> list[str]:
    """The words, names (in backticks), texts and signs of a statement, without comments; what
    stands in comments that are code is code."""
    found = []
    for match in _TOKEN.finditer(statement):
        kind, token = match.lastgroup, match[0]
        if kind in ("space", "comment", "open", "close"):
            continue
        if kind == "double" and ansi_quotes:
            token = "`" + token[1:-1].replace('""', '"').replace("`", "``") + "`"
        found.append(token)
    return found


def _name(token: str) -> str:
    return token[1:-1].replace("``", "`") if token.startswith("`") else token


class _Cursor:
    """Walks over tokens."""

    def __init__(self, found: Sequence[str], database: str) -> None:
        self.found = found
        self.at = 0
        self.database = database

    def word(self, *wanted: str) -> bool:
        """Pass these words if they are next."""
        piece = [token.upper() for token in self.found[self.at : self.at + len(wanted)]]
        if piece == list(wanted):
            self.at += len(wanted)
            return True
        return False

    def any_word(self, *wanted: str) -> bool:
        """Pass one of these words if it is next."""
        return any(self.word(each) for each in wanted)

    def table(self) -> TableName | None:
        """Pass a table's name."""
        if self.at >= len(self.found):
            return None
        first = _name(self.found[self.at])
        self.at += 1
        if self.word("."):
            if self.at >= len(self.found):
                return None
            second = _name(self.found[self.at])
            self.at += 1
            return first, second
        return self.database, first

    @property
    def rest(self) -> Sequence[str]:
        return self.found[self.at :]


def definitions(statement: str, database: str, *, ansi_quotes: bool = False) -> list[Definition]:
    """What a statement does to tables; empty when it does nothing that concerns us."""
    cursor = _Cursor(tokens(statement, ansi_quotes=ansi_quotes), database)
    if cursor.word("TRUNCATE"):
        cursor.word("TABLE")
        table = cursor.table()
        return [Definition("truncate", table)] if table else []
    if cursor.word("DROP"):
        return _drops(cursor)
    if cursor.word("RENAME"):
        return _renames(cursor)
    if cursor.word("ALTER"):
        return _alters(cursor)
    if cursor.word("CREATE"):
        return _creates(cursor)
    return []


def _creates(cursor: _Cursor) -> list[Definition]:
    cursor.word("OR", "REPLACE")
    if cursor.word("TEMPORARY") or not cursor.word("TABLE"):
        return []
    cursor.word("IF", "NOT", "EXISTS")
    table = cursor.table()
    return [Definition("create", table)] if table else []


def _drops(cursor: _Cursor) -> list[Definition]:
    if cursor.any_word("DATABASE", "SCHEMA"):
        cursor.word("IF", "EXISTS")
        return [Definition("drop database", (_name(cursor.rest[0]), ""))] if cursor.rest else []
    if cursor.word("TEMPORARY") or not cursor.any_word("TABLE", "TABLES"):
        return []
    cursor.word("IF", "EXISTS")
    found = []
    while (table := cursor.table()) is not None:
        found.append(Definition("drop", table))
        if not cursor.word(","):
            break
    return found


def _renames(cursor: _Cursor) -> list[Definition]:
    if not cursor.any_word("TABLE", "TABLES"):
        return []
    cursor.word("IF", "EXISTS")
    found = []
    while (table := cursor.table()) is not None:
        while cursor.rest and not cursor.word("TO"):
            cursor.at += 1  # WAIT n, NOWAIT
        to = cursor.table()
        if to is None:
            break
        found.append(Definition("rename", table, to))
        if not cursor.word(","):
            break
    return found


def _alters(cursor: _Cursor) -> list[Definition]:
    cursor.word("ONLINE")
    cursor.word("IGNORE")
    if not cursor.word("TABLE"):
        return []
    cursor.word("IF", "EXISTS")
    table = cursor.table()
    if table is None:
        return []
    if cursor.word("WAIT"):
        cursor.at += 1
    cursor.word("NOWAIT")
    clauses = _clauses(cursor.rest)
    to = None
    for clause in clauses:
        inner = _Cursor(clause, cursor.database)
        if inner.word("RENAME") and not inner.any_word("COLUMN", "INDEX", "KEY"):
            inner.any_word("TO", "AS", "=")
            to = inner.table()
    return [Definition("alter", table, to, tuple(clauses))]


def _clauses(found: Sequence[str]) -> list[tuple[str, ...]]:
    """Cut at the commas that stand in no parentheses."""
    clauses: list[list[str]] = [[]]
    depth = 0
    for word in found:
        if word == "," and not depth:
            clauses.append([])
            continue
        depth += {"(": 1, ")": -1}.get(word, 0)
        clauses[-1].append(word)
    return [tuple(clause) for clause in clauses if clause]


# --------------------------------------------------------------------------- alterations

_KEYS: Final = frozenset(
    {
        "INDEX", "KEY", "FULLTEXT", "SPATIAL", "CONSTRAINT", "PRIMARY", "UNIQUE", "FOREIGN",
        "CHECK", "PARTITION", "PERIOD", "SYSTEM",
    }
)  # fmt: skip
_HARMLESS: Final = frozenset(
    {
        "COMMENT", "AUTO_INCREMENT", "ALGORITHM", "LOCK", "ENABLE", "DISABLE", "ROW_FORMAT",
        "KEY_BLOCK_SIZE", "STATS_PERSISTENT", "STATS_AUTO_RECALC", "STATS_SAMPLE_PAGES", "ORDER",
        "FORCE", "ENGINE", "DEFAULT", "CHARACTER", "CHARSET", "COLLATE", "COMPRESSION",
        "ENCRYPTION", "VALIDATION", "WITH", "WITHOUT", "ANALYZE", "CHECK", "OPTIMIZE", "REBUILD",
        "REPAIR", "REORGANIZE", "COALESCE", "PARTITION", "REMOVE", "NOWAIT", "WAIT",
        "MIN_ROWS", "MAX_ROWS", "AVG_ROW_LENGTH", "PACK_KEYS", "CHECKSUM", "DELAY_KEY_WRITE",
        "TABLESPACE", "ENGINE_ATTRIBUTE", "SECONDARY_ENGINE", "PAGE_COMPRESSED",
    }
)  # fmt: skip
_REMOVES_ROWS: Final = frozenset({"TRUNCATE", "EXCHANGE", "DISCARD", "IMPORT", "CONVERT"})


def altered(clauses: Sequence[Sequence[str]], shape: Shape) -> Altered:
    """What an alteration makes of a shape."""
    rows_differ = False
    now: Shape | None = shape
    for clause in clauses:
        if now is None:
            break
        now, differs = _apply(_Cursor(clause, ""), now)
        rows_differ = rows_differ or differs
    return Altered(now, rows_differ or now is None)


def _apply(clause: _Cursor, shape: Shape) -> Altered:
    first = clause.rest[0].upper()
    if clause.word("ADD"):
        return _added(clause, shape)
    if clause.word("DROP"):
        return _dropped(clause, shape)
    if clause.word("CHANGE") or clause.word("MODIFY"):
        return _changed(clause, shape, renames=first == "CHANGE")
    if clause.word("RENAME"):
        return _renamed(clause, shape)
    if clause.word("ALTER") or first in _HARMLESS:
        return Altered(shape, rows_differ=False)
    if first in _REMOVES_ROWS:
        if first == "CONVERT":  # other character sets: the columns are to be looked at anew
            return Altered(None, rows_differ=True)
        return Altered(shape, rows_differ=True)
    return Altered(None, rows_differ=True)


def _added(clause: _Cursor, shape: Shape) -> Altered:
    explicit = clause.word("COLUMN")
    clause.word("IF", "NOT", "EXISTS")
    if not explicit and clause.rest and clause.rest[0].upper() in _KEYS:
        # A new primary key makes other keys.
        return Altered(
            None if "PRIMARY" in map(str.upper, clause.rest) else shape, rows_differ=False
        )
    if clause.word("("):
        inner = _clauses(clause.rest[:-1])
        now: Shape | None = shape
        differs = False
        for each in inner:
            if now is None or (each[0].upper() in _KEYS and not each[0].startswith("`")):
                continue
            now, more = _added_column(_Cursor(each, ""), now)
            differs = differs or more
        return Altered(now, differs)
    return _added_column(clause, shape)


def _added_column(clause: _Cursor, shape: Shape) -> Altered:
    column, rest = _column(clause)
    if column is None:
        return Altered(None, rows_differ=True)
    if column.name.lower() in map(str.lower, shape.names):
        return Altered(shape, rows_differ=False)  # IF NOT EXISTS
    words = [token.upper() for token in rest]
    # Rows that were there have NULL in it, unless something else is said.
    filled = any(w in words for w in ("DEFAULT", "NOT", "AS", "GENERATED", "AUTO_INCREMENT"))
    filled = (
        filled and words[words.index("DEFAULT") + 1 :][:1] != ["NULL"]
        if ("DEFAULT" in words)
        else filled
    )
    return _placed(shape.columns, column, rest, rows_differ=filled)


def _placed(
    others: Sequence[ShapeColumn], column: ShapeColumn, rest: Sequence[str], *, rows_differ: bool
) -> Altered:
    columns = list(others)
    words = [token.upper() for token in rest]
    if words[-1:] == ["FIRST"]:
        columns.insert(0, column)
    elif len(words) > 1 and words[-2] == "AFTER":
        names = [each.name.lower() for each in columns]
        after = _name(rest[-1]).lower()
        if after not in names:
            return Altered(None, rows_differ=True)
        columns.insert(names.index(after) + 1, column)
    else:
        columns.append(column)
    return Altered(Shape(tuple(columns)), rows_differ)


def _dropped(clause: _Cursor, shape: Shape) -> Altered:
    if clause.word("PARTITION"):
        return Altered(shape, rows_differ=True)
    explicit = clause.word("COLUMN")
    clause.word("IF", "EXISTS")
    first = clause.rest[0] if clause.rest else ""
    if not explicit and first.upper() in _KEYS:
        return Altered(None if first.upper() == "PRIMARY" else shape, rows_differ=False)
    gone = _name(first).lower()
    left = tuple(column for column in shape.columns if column.name.lower() != gone)
    return Altered(Shape(left) if left else None, rows_differ=False)


def _changed(clause: _Cursor, shape: Shape, *, renames: bool) -> Altered:
    clause.word("COLUMN")
    clause.word("IF", "EXISTS")
    before = _name(clause.rest[0]).lower() if clause.rest else ""
    clause.at += renames
    column, rest = _column(clause)
    names = [each.name.lower() for each in shape.columns]
    if column is None or before not in names:
        return Altered(None, rows_differ=True)
    place = names.index(before)
    was = shape.columns[place]
    column = column._replace(key=was.key)
    differs = column.type != was.type
    moved = any(token.upper() in ("FIRST", "AFTER") for token in rest[-2:])
    if moved:
        others = [*shape.columns[:place], *shape.columns[place + 1 :]]
        return _placed(others, column, rest, rows_differ=differs)
    columns = [*shape.columns[:place], column, *shape.columns[place + 1 :]]
    return Altered(Shape(tuple(columns)), differs)


def _renamed(clause: _Cursor, shape: Shape) -> Altered:
    if not clause.word("COLUMN"):
        return Altered(shape, rows_differ=False)
    clause.word("IF", "EXISTS")
    if len(clause.rest) < 3:
        return Altered(None, rows_differ=True)
    before, now = _name(clause.rest[0]).lower(), _name(clause.rest[2])
    return Altered(
        Shape(
            tuple(
                column._replace(name=now) if column.name.lower() == before else column
                for column in shape.columns
            )
        ),
        rows_differ=False,
    )


def _column(clause: _Cursor) -> tuple[ShapeColumn | None, Sequence[str]]:
    """A column's definition: the column as far as it says, and what comes behind its type."""
    if len(clause.rest) < 2:
        return None, ()
    name = _name(clause.rest[0])
    clause.at += 1
    words = [clause.rest[0].lower()]
    clause.at += 1
    if words == ["double"] and clause.word("PRECISION"):
        words = ["double"]
    kind = words[0]
    if clause.word("("):
        words.append("(")
        while clause.rest and not clause.word(")"):
            words.append(clause.rest[0])
            clause.at += 1
        words.append(")")
    shown = "".join(words)
    while clause.rest and clause.rest[0].upper() in ("UNSIGNED", "SIGNED", "ZEROFILL"):
        shown += f" {clause.rest[0].lower()}"
        clause.at += 1
    charset = None
    if clause.word("CHARACTER", "SET") or clause.word("CHARSET"):
        charset = clause.rest[0].lower() if clause.rest else None
        clause.at += 1
    if kind in _NEEDS_CHARSET and charset is None:
        return None, clause.rest  # that of the table or the database: the catalogue knows
    return ShapeColumn(name, shown, charset), clause.rest


_NEEDS_CHARSET: Final = frozenset(
    {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set", "nchar",
     "nvarchar", "serial", "national", "long", "character"}
)  # fmt: skip
