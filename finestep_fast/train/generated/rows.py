"""The rows of a query on a generated database, for finding out what makes a good question."""

from __future__ import annotations

import sqlite3

Cell = str | int | None


def rows_of(connection: sqlite3.Connection, sql: str) -> list[tuple[Cell, ...]] | None:
    """Return the rows of a query, or None when SQLite refuses it."""
    try:
        return connection.execute(sql).fetchall()
    except sqlite3.Error:
        return None


def gives_rows_of(connection: sqlite3.Connection, sql: str, gold_sql: str) -> bool:
    """Return whether a query gives the gold's set of rows."""
    if sql == gold_sql:
        return True
    rows = rows_of(connection, sql)
    return rows is not None and set(rows) == set(rows_of(connection, gold_sql) or [])
