"""Read-only connections to database files, kept open between queries.

Not tied to threads: a connection is borrowed by one thread at a time and may next be borrowed by
another. A file that was replaced or rewritten is another database with connections of its own.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from finestep_fast.sql.guard import Guard, fence

CACHED_STATEMENTS = 32


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What makes two looks at a path the same database: the file itself, its size and its age."""

    path: str
    device: int
    inode: int
    size_bytes: int
    modified_ns: int


class UnreadableDatabaseError(Exception):
    """A database file is missing or cannot be opened; its text says which and why."""


def file_identity(path: str | os.PathLike[str]) -> FileIdentity:
    """The identity of a database file.

    Raises:
        UnreadableDatabaseError: The file is missing, is no file, or may not be looked at.
    """
    name = os.fspath(path)
    try:
        found = os.stat(name)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UnreadableDatabaseError(f"database {name!r}: {reason}") from error
    return FileIdentity(name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def open_read_only(path: str) -> sqlite3.Connection:
    """A connection that cannot write to the file and takes no lock on it.

    Raises:
        UnreadableDatabaseError: The file cannot be opened, or a write-ahead log beside it holds
            changes that a reader without locks would miss.
    """
    for suffix in ("-wal", "-journal"):
        if os.path.exists(path + suffix) and os.path.getsize(path + suffix) > 0:
            raise UnreadableDatabaseError(
                f"database {path!r}: {path + suffix!r} holds unfinished changes; "
                "open the database once with a program that may write to it"
            )
    try:
        return sqlite3.connect(
            Path(path).absolute().as_uri() + "?mode=ro&immutable=1",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=CACHED_STATEMENTS,
        )
    except sqlite3.Error as error:
        raise UnreadableDatabaseError(f"database {path!r}: {error}") from error


@dataclass(eq=False, slots=True)
class Connection:
    """One fenced connection with its guard."""

    identity: FileIdentity
    sqlite: sqlite3.Connection
    guard: Guard


class ConnectionPool:
    """Idle connections by database, at most `max_idle` of them; the longest unused go first."""

    def __init__(self, max_idle: int, max_heap_bytes: int) -> None:
        self._max_idle = max_idle
        self._max_heap_bytes = max_heap_bytes
        self._lock = threading.Lock()
        self._idle: OrderedDict[FileIdentity, list[Connection]] = OrderedDict()
        self._num_idle = 0
        self._borrowed: set[Connection] = set()
        self._closed = False

    def borrow(self, identity: FileIdentity) -> Connection:
        """A connection to the database for one thread, until it is given back.

        Raises:
            UnreadableDatabaseError: The file cannot be opened as a database.
        """
        with self._lock:
            waiting = self._idle.get(identity)
            if waiting:
                connection = waiting.pop()
                self._num_idle -= 1
                self._borrowed.add(connection)
                return connection
        guard = Guard()
        connection = Connection(identity, open_read_only(identity.path), guard)
        try:
            fence(connection.sqlite, guard, self._max_heap_bytes)
        except sqlite3.Error as error:
            connection.sqlite.close()
            raise UnreadableDatabaseError(f"database {identity.path!r}: {error}") from error
        with self._lock:
            self._borrowed.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """Takes a borrowed connection back and closes those that are too many."""
        surplus = []
        with self._lock:
            self._borrowed.discard(connection)
            if self._closed:
                surplus.append(connection)
            else:
                self._idle.setdefault(connection.identity, []).append(connection)
                self._idle.move_to_end(connection.identity)
                self._num_idle += 1
                while self._num_idle > self._max_idle:
                    oldest, waiting = next(iter(self._idle.items()))
                    if waiting:
                        surplus.append(waiting.pop(0))
                        self._num_idle -= 1
                    if not waiting:
                        del self._idle[oldest]
        for extra in surplus:
            extra.sqlite.close()

    def cancel(self) -> None:
        """Asks every query that runs on a borrowed connection to stop."""
        with self._lock:
            for connection in self._borrowed:
                connection.guard.cancel()

    def close(self) -> None:
        """Closes every idle connection now and the borrowed ones when they come back."""
        with self._lock:
            self._closed = True
            idle = [connection for waiting in self._idle.values() for connection in waiting]
            self._idle.clear()
            self._num_idle = 0
        for connection in idle:
            connection.sqlite.close()
