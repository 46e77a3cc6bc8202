"""One query on one fenced connection, from its text to its rows.

Not a pool and not a policy: which connection, and what its failure means, is decided elsewhere.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass, replace
from sys import getsizeof

from finestep_fast.sql.connections import Connection
from finestep_fast.sql.outcome import Result, Row, Status

OUT_OF_MEMORY = "out of memory"
UNDECODED = "Could not decode to UTF-8"
DATABASE_CODES = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOTADB,
    }
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Rows, bytes and seconds one query may take."""

    max_rows: int
    max_bytes: int
    timeout_s: float


def fetched(connection: Connection, sql: str, limits: Limits) -> Result:
    """Runs a query to its end, its deadline or its caps; never raises for what the query does."""
    started = time.perf_counter()
    try:
        result = attempted(connection, sql, limits)
    except sqlite3.OperationalError as error:
        if not str(error).startswith(UNDECODED):
            result = failed(connection, error)
        else:
            result = fetched_undecodable(connection, sql, limits)
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
        result = failed(connection, error)
    return replace(result, elapsed_ms=1e3 * (time.perf_counter() - started))


def attempted(connection: Connection, sql: str, limits: Limits) -> Result:
    """Runs a query; every failure but a refusal before its start is an exception."""
    refusal = connection.guard.begin(sql, limits.timeout_s)
    if refusal:
        return Result(Status.DENIED, message=refusal)
    cursor = connection.sqlite.execute(sql)
    try:
        if cursor.description is None:
            return Result(Status.ERROR, message="the query holds no statement")
        columns = tuple(entry[0] for entry in cursor.description)
        rows: list[Row] = []
        size_bytes, truncated = 0, False
        for row in cursor:
            size_bytes += getsizeof(row) + sum(map(getsizeof, row))
            if len(rows) >= limits.max_rows or size_bytes > limits.max_bytes:
                truncated = True
                break
            rows.append(row)
    finally:
        cursor.close()
    return Result(Status.OK, columns, tuple(rows), truncated, size_bytes=size_bytes)


def fetched_undecodable(connection: Connection, sql: str, limits: Limits) -> Result:
    """Runs a query again whose result holds text that is not valid UTF-8."""
    connection.sqlite.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    try:
        return replace(attempted(connection, sql, limits), invalid_utf8=True)
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
        return failed(connection, error)
    finally:
        connection.sqlite.text_factory = str


def failed(connection: Connection, error: Exception) -> Result:
    """The result of a query that ended with an exception.

    Raises:
        KeyboardInterrupt: It arrived while SQLite ran the query and was turned into its failure.
    """
    guard = connection.guard
    code = getattr(error, "sqlite_errorcode", None)
    if guard.refusal:
        return Result(Status.DENIED, message=guard.refusal)
    if code == sqlite3.SQLITE_INTERRUPT:
        if guard.cancelled:
            return Result(Status.TIMEOUT, message="stopped because the work was called off")
        if time.monotonic() <= guard.deadline:
            raise KeyboardInterrupt from error
        return Result(Status.TIMEOUT, message="stopped at the deadline")
    if isinstance(error, MemoryError):
        return Result(Status.TOO_LARGE, message=OUT_OF_MEMORY)
    if isinstance(error, sqlite3.DataError):
        return Result(Status.TOO_LARGE, message=str(error))
    if code is not None and code & 0xFF in DATABASE_CODES:
        path = connection.identity.path
        return Result(Status.DATABASE_UNREADABLE, message=f"database {path!r}: {error}")
    return Result(Status.ERROR, message=str(error))
