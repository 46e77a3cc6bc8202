"""Which SQLite library answers, for every verdict depends on it a little."""

from __future__ import annotations

import _sqlite3
import sqlite3
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Library:
    """One loaded SQLite library.

    Attributes:
        version: Its version.
        path: Its file; the interpreter's own module where SQLite is built into that.
        options: What it was compiled with.
    """

    version: str
    path: str
    options: tuple[str, ...]


def library() -> Library:
    """The SQLite library that Python uses."""
    connection = sqlite3.connect(":memory:")
    try:
        options = tuple(name for (name,) in connection.execute("PRAGMA compile_options"))
    finally:
        connection.close()
    return Library(sqlite3.sqlite_version, mapped_path() or str(_sqlite3.__file__), options)


def mapped_path() -> str:
    """The file of the library in this process, where the system tells; else nothing."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    paths = (line.split(maxsplit=5)[-1] for line in lines)
    return next((path for path in paths if Path(path).name.startswith("libsqlite3.")), "")
