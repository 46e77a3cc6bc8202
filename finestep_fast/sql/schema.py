"""What a database holds: its tables, columns, keys and, on demand, how many rows and which values.

Not an analysis of queries, and not for untrusted SQL: the queries in here are our own.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from finestep_fast.errors import InputError
from finestep_fast.sql.connections import (
    FileIdentity,
    UnreadableDatabaseError,
    file_identity,
    open_read_only,
)
from finestep_fast.sql.names import always_quoted_name
from finestep_fast.sql.outcome import Value

MAX_REMEMBERED = 1024
MAX_INSTRUCTIONS = 20_000_000
ROWID_NAMES = frozenset({"rowid", "oid", "_rowid_"})


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
        """Whether SQLite's rules give the column text affinity or none, so that text is likely."""
        declared = self.type.upper()
        if "INT" in declared:
            return False
        if any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
            return True
        return declared in ("", "BLOB") or any(w in declared for w in ("DATE", "TIME", "STRING"))


@dataclass(frozen=True, slots=True)
class Table:
    """One table or view and its columns in their order."""

    name: str
    columns: tuple[Column, ...]
    is_view: bool = False

    def column(self, name: str) -> Column | None:
        """The column of that name, compared as SQLite compares names: without case."""
        folded = name.lower()
        return next((column for column in self.columns if column.name.lower() == folded), None)


@dataclass(frozen=True, eq=False)
class DatabaseSchema:
    """The tables of one database file as it was when it was looked at.

    Attributes:
        identity: The file.
        tables: Tables and views in the order of their creation, without SQLite's own.
        columns_by_table: Folded column names by folded table name, for quick look-ups.
    """

    identity: FileIdentity
    tables: tuple[Table, ...]
    columns_by_table: dict[str, frozenset[str]] = field(repr=False)

    def table(self, name: str) -> Table | None:
        """The table of that name, compared as SQLite compares names: without case."""
        folded = name.lower()
        return next((table for table in self.tables if table.name.lower() == folded), None)

    def row_count(self, table: str) -> int | None:
        """How many rows a table has; None if counting them would take long or fails."""
        rows = self._ask(f"SELECT count(*) FROM {always_quoted_name(table)}")
        return int(str(rows[0][0])) if rows else None

    def sample_values(self, table: str, column: str, *, limit: int = 3) -> tuple[Value, ...]:
        """Up to `limit` different values of a column, the first ones found; empty on failure."""
        name = always_quoted_name(column)
        rows = self._ask(
            f"SELECT DISTINCT {name} FROM {always_quoted_name(table)} "
            f"WHERE {name} IS NOT NULL LIMIT {int(limit)}"
        )
        return tuple(row[0] for row in rows)

    def _ask(self, sql: str) -> list[tuple[Value, ...]]:
        """The rows of one of our own queries within a budget of instructions, else none."""
        try:
            connection = open_read_only(self.identity.path)
        except UnreadableDatabaseError:
            return []
        try:
            connection.text_factory = decoded
            connection.set_progress_handler(lambda: True, MAX_INSTRUCTIONS)
            return connection.execute(sql).fetchall()
        except sqlite3.Error:
            return []
        finally:
            connection.close()


_remembered: OrderedDict[FileIdentity, DatabaseSchema] = OrderedDict()
_remembering = threading.Lock()


def database_schema(path: str | os.PathLike[str]) -> DatabaseSchema:
    """The schema of a database file; read once per state of the file.

    Raises:
        InputError: The file is missing, or is no SQLite database that can be read.
    """
    try:
        identity = file_identity(path)
    except UnreadableDatabaseError as error:
        raise InputError(str(error)) from error
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


def read_schema(identity: FileIdentity) -> DatabaseSchema:
    """Reads the schema from the file.

    Raises:
        InputError: The file is no SQLite database that can be read.
    """
    try:
        connection = open_read_only(identity.path)
    except UnreadableDatabaseError as error:
        raise InputError(str(error)) from error
    try:
        connection.text_factory = decoded
        listed = connection.execute(
            "SELECT name, type FROM sqlite_master WHERE type IN ('table', 'view') "
            "AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY rowid"
        ).fetchall()
        tables = tuple(read_table(connection, name, kind == "view") for name, kind in listed)
    except sqlite3.Error as error:
        raise InputError(f"database {identity.path!r}: {error}") from error
    finally:
        connection.close()
    tables = tuple(with_implied_targets(table, tables) for table in tables)
    names = {
        table.name.lower(): frozenset(column.name.lower() for column in table.columns)
        for table in tables
    }
    return DatabaseSchema(identity, tables, names)


def read_table(connection: sqlite3.Connection, name: str, is_view: bool) -> Table:
    """Reads one table or view; a view that is broken has no columns."""
    quoted = always_quoted_name(name)
    targets = {
        from_column.lower(): ForeignKey(to_table, to_column or "")
        for _, _, to_table, from_column, to_column, *_ in connection.execute(
            f"PRAGMA foreign_key_list({quoted})"
        )
    }
    try:
        described = connection.execute(f"PRAGMA table_xinfo({quoted})").fetchall()
    except sqlite3.OperationalError:
        if not is_view:
            raise
        described = []
    columns = tuple(
        Column(column, declared, bool(key), targets.get(column.lower()))
        for _, column, declared, _, _, key, hidden in described
        if hidden != 1
    )
    return Table(name, columns, is_view)


def with_implied_targets(table: Table, tables: tuple[Table, ...]) -> Table:
    """The table with every foreign key spelt as its target is, the implied column filled in."""
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


def decoded(text: bytes) -> str:
    """Text from a database, whatever bytes it holds."""
    return text.decode("utf-8", "surrogateescape")
