"""What a database holds: its tables, columns, keys and, on demand, how many rows and which values.

Not an analysis of queries, and not for untrusted SQL: the queries in here are our own.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from finestep_fast import _core
from finestep_fast.errors import InputError
from finestep_fast.sql.library import open_library
from finestep_fast.sql.names import always_quoted_name
from finestep_fast.sql.outcome import Row, Value

MAX_REMEMBERED = 1024
MAX_INSTRUCTIONS = 20_000_000
ROWID_NAMES = frozenset({"rowid", "oid", "_rowid_"})
# The tables in which virtual tables keep their data, for a SQLite before 3.37, which does not list
# them, or without the module.
OF_FTS3 = ("content", "segments", "segdir", "docsize", "stat")
OF_RTREE = ("node", "rowid", "parent")
SHADOW_SUFFIXES = {
    "fts3": OF_FTS3,
    "fts4": OF_FTS3,
    "fts5": ("data", "idx", "content", "docsize", "config"),
    "rtree": OF_RTREE,
    "rtree_i32": OF_RTREE,
    "geopoly": OF_RTREE,
}
MODULE = re.compile(r"\bUSING\s+[\"'`\[]?(\w+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What identifies the database at a path: the file itself, its size and its age."""

    path: str
    device: int
    inode: int
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """The column of another table that a column points to, as that table spells it."""

    table: str
    column: str


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name and type as declared, whether it is in the primary key, its target."""

    name: str
    type: str
    in_primary_key: bool = False
    foreign_key: ForeignKey | None = None

    @property
    def holds_text(self) -> bool:
        """Return whether the column has text affinity or none by SQLite's rules: text is likely."""
        declared = self.type.upper()
        if "INT" in declared:
            return False
        if any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
            return True
        return declared in ("", "BLOB") or any(w in declared for w in ("DATE", "TIME", "STRING"))

    @property
    def may_hold_text(self) -> bool:
        """Return whether SQLite's rules give the column neither INTEGER nor REAL affinity.

        To SQLite, BOOL, NUMERIC and DECIMAL are like any other word: 'T' is no odd value there.
        """
        declared = self.type.upper()
        return not any(word in declared for word in ("INT", "REAL", "FLOA", "DOUB"))


@dataclass(frozen=True, slots=True)
class Table:
    """One table or view and its columns in their order."""

    name: str
    columns: tuple[Column, ...]
    is_view: bool = False

    def column(self, name: str) -> Column | None:
        """Return the column of that name, compared as SQLite compares names: without case."""
        folded = name.lower()
        return next((column for column in self.columns if column.name.lower() == folded), None)


@dataclass(frozen=True, eq=False)
class DatabaseSchema:
    """The tables of one database file as it was when it was read."""

    identity: FileIdentity
    """The file."""
    tables: tuple[Table, ...]
    """Tables and views in the order of their creation, without SQLite's own and those in which
    virtual tables keep their data."""
    columns_by_table: dict[str, frozenset[str]] = field(repr=False)
    """Folded column names by folded table name, for quick look-ups; all that a query can name,
    hidden columns and the tables behind virtual ones too."""
    _answers: dict[str, Sequence[Row]] = field(default_factory=dict, init=False, repr=False)

    def table(self, name: str) -> Table | None:
        """Return the table of that name, compared as SQLite compares names: without case."""
        folded = name.lower()
        return next((table for table in self.tables if table.name.lower() == folded), None)

    def row_count(self, table: str) -> int | None:
        """Return how many rows a table has; None if counting takes long or fails."""
        rows = self._ask(f"SELECT count(*) FROM {always_quoted_name(table)}")
        return int(str(rows[0][0])) if rows else None

    def sample_values(self, table: str, column: str, *, limit: int = 3) -> tuple[Value, ...]:
        """Return the first `limit` different values of a column, or fewer; empty on failure."""
        name = always_quoted_name(column)
        rows = self._ask(
            f"SELECT DISTINCT {name} FROM {always_quoted_name(table)} "
            f"WHERE {name} IS NOT NULL LIMIT {int(limit)}"
        )
        return tuple(row[0] for row in rows)

    def _ask(self, sql: str) -> Sequence[Row]:
        """Return the rows of one of our own queries within a budget of instructions, else none.

        They are remembered, for the file is the one it was.
        """
        if sql not in self._answers:
            try:
                (rows,) = own_rows(self.identity.path, [sql])
            except InputError:
                return []
            if rows is None:
                return []
            self._answers[sql] = rows
        return self._answers[sql]


_remembered: OrderedDict[FileIdentity, DatabaseSchema] = OrderedDict()
_remembering = threading.Lock()


def database_schema(path: str | os.PathLike[str]) -> DatabaseSchema:
    """Return the schema of a database file; read once per state of the file.

    Raises:
        InputError: The file is missing, or is no SQLite database that can be read.
    """
    identity = file_identity(path)
    with _remembering:
        known = _remembered.get(identity)
        if known is not None:
            _remembered.move_to_end(identity)
            return known
    schema = read_schema(identity)
    with _remembering:
        _remembered[identity] = schema
        while len(_remembered) > MAX_REMEMBERED:
            _remembered.popitem(last=False)
    return schema


def file_identity(path: str | os.PathLike[str]) -> FileIdentity:
    """Return the identity of a database file.

    Raises:
        InputError: The file is missing, is no file, or may not be looked at.
    """
    name = os.fspath(path)
    try:
        found = os.stat(name)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"database {name!r}: {reason}") from error
    return FileIdentity(name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def own_rows(path: str, queries: list[str]) -> list[tuple[Row, ...] | None]:
    """Return the rows of our own queries; None for one that fails or takes too many instructions.

    Raises:
        InputError: The file is no SQLite database that can be read.
    """
    try:
        return _core.own_rows(open_library(), path, queries, MAX_INSTRUCTIONS)
    except RuntimeError as error:
        raise InputError(str(error)) from error


def read_schema(identity: FileIdentity) -> DatabaseSchema:
    """Read the schema from the file.

    Raises:
        InputError: The file is no SQLite database that can be read.
    """
    listing = (
        "SELECT name, type, CASE WHEN type = 'table' AND rootpage = 0 THEN sql END "
        "FROM sqlite_master WHERE type IN ('table', 'view') "
        "AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY rowid"
    )
    shadows = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow'"
    listed, shadowed = own_rows(identity.path, [listing, shadows])
    if listed is None:
        raise InputError(f"database {identity.path!r}: its schema cannot be read")
    names = [str(name) for name, *_ in listed]
    hidden = {str(name).lower() for (name,) in shadowed or ()}
    for name, _, virtual in listed:
        hidden.update(shadow_names(str(name), str(virtual)) if virtual else ())
    described = own_rows(
        identity.path,
        [
            f"PRAGMA {pragma}({always_quoted_name(name)})"
            for name in names
            for pragma in ("foreign_key_list", "table_xinfo")
        ],
    )
    tables = tuple(
        table_of(name, kind == "view", keys or (), columns or ())
        for name, (_, kind, _), keys, columns in zip(
            names, listed, described[::2], described[1::2], strict=True
        )
        if name.lower() not in hidden
    )
    tables = tuple(with_implied_targets(table, tables) for table in tables)
    columns_by_table = {
        name.lower(): frozenset(str(column).lower() for _, column, *_ in columns or ())
        for name, columns in zip(names, described[1::2], strict=True)
    }
    return DatabaseSchema(identity, tables, columns_by_table)


def shadow_names(name: str, statement: str) -> list[str]:
    """Return the folded names of the tables that hold the data of a known virtual table."""
    module = MODULE.search(statement)
    suffixes = SHADOW_SUFFIXES.get(module[1].lower(), ()) if module else ()
    return [f"{name}_{suffix}".lower() for suffix in suffixes]


def table_of(name: str, is_view: bool, keys: Sequence[Row], columns: Sequence[Row]) -> Table:
    """Return one table or view from what SQLite reports; a broken view has no columns."""
    targets = {
        str(from_column).lower(): ForeignKey(str(to_table), str(to_column or ""))
        for _, _, to_table, from_column, to_column, *_ in keys
    }
    return Table(
        name,
        tuple(
            Column(str(column), str(declared), bool(key), targets.get(str(column).lower()))
            for _, column, declared, _, _, key, hidden in columns
            if hidden != 1
        ),
        is_view,
    )


def with_implied_targets(table: Table, tables: tuple[Table, ...]) -> Table:
    """Return the table with foreign keys spelt as their targets, implied columns filled in."""
    columns = []
    for column in table.columns:
        key = column.foreign_key
        if key is not None:
            target = next((t for t in tables if t.name.lower() == key.table.lower()), None)
            if target is not None:
                primary = [c.name for c in target.columns if c.in_primary_key]
                named = target.column(key.column)
                spelt = named.name if named else key.column or (primary[0] if primary else "")
                key = ForeignKey(target.name, spelt)
            column = Column(column.name, column.type, column.in_primary_key, key)
        columns.append(column)
    return Table(table.name, tuple(columns), table.is_view)
