"""Which copy of SQLite the engine runs on.

Not Python's `sqlite3`: the same library as it uses, by default, so that verdicts agree with what
Python says, but stepped natively. A process has one; it is chosen when it is first needed.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finestep_fast import _core
from finestep_fast.errors import BuildError, InputError

ENVIRONMENT_VARIABLE = "FINESTEP_SQLITE"
SYSTEM_NAMES = ("libsqlite3.so.0", "libsqlite3.dylib")
# Packages that bring a SQLite of their own, and where in them it lies.
PIP_COPIES = {
    "pysqlite3": "_sqlite3*.so",
    "sqlean": "_sqlite3*.so",
    "apsw": "sqlite_extra_binaries/libsqlite3*.so*",
}


@dataclass(frozen=True, slots=True)
class Library:
    """One opened copy of SQLite."""

    version: str
    """As in "3.40.1"."""
    path: str
    """The file it was loaded from."""
    compile_options: tuple[str, ...]
    """What it was built with, without the prefix `SQLITE_`."""


_opening = threading.Lock()
_opened: list[tuple[str, _core.SqliteLibrary]] = []


def library(path: str | os.PathLike[str] | None = None) -> Library:
    """Return the copy of SQLite that all engines of this process use; open it on the first call.

    Looked for in this order: `path`; the environment variable FINESTEP_SQLITE; the copy that
    Python's own `sqlite3` uses; the system's. `path`, like the variable, is a file (a library, or
    an extension module that brings one), or "pip" for a copy that a pip-installed package brings.

    Raises:
        InputError: Another copy than that at `path` is in use already.
        BuildError: No copy can be used; the message says what was tried.
    """
    opened = open_library(None if path is None else os.fspath(path))
    return Library(opened.version, opened.path, tuple(opened.compile_options))


def open_library(path: str | None = None) -> _core.SqliteLibrary:
    """Return the opened library itself; see `library`."""
    with _opening:
        if not _opened:
            asked = path or os.environ.get(ENVIRONMENT_VARIABLE, "")
            _opened.append((asked, first_usable(asked)))
        asked, opened = _opened[0]
        if path not in (None, asked, opened.path):
            raise InputError(
                f"path is {path!r}, but this process runs on {opened.path!r} already; "
                "name the library before anything else uses SQLite"
            )
        return opened


def first_usable(asked: str) -> _core.SqliteLibrary:
    """Return the first candidate that can be opened.

    Raises:
        BuildError: There is none.
    """
    tried = []
    for candidate in candidates(asked):
        try:
            return _core.SqliteLibrary(candidate)
        except RuntimeError as error:
            tried.append(f"{candidate}: {error}")
    what = "; ".join(tried) if tried else "found no candidate"
    raise BuildError(
        f"no usable SQLite library ({what}); install one (Debian: libsqlite3-0, or "
        f"`pip install pysqlite3-binary` with {ENVIRONMENT_VARIABLE}=pip), or name its file in "
        f"{ENVIRONMENT_VARIABLE}"
    )


def candidates(asked: str) -> Iterator[str]:
    """Return files to try, in order; only the requested one, if one was requested."""
    if asked == "pip":
        yield from pip_copies()
    elif asked:
        yield asked
    else:
        spec = importlib.util.find_spec("_sqlite3")
        if spec is not None and spec.origin and Path(spec.origin).is_file():
            yield spec.origin
        yield from SYSTEM_NAMES


def pip_copies() -> Iterator[str]:
    """Return the libraries inside installed packages."""
    for package, pattern in PIP_COPIES.items():
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            yield from map(str, sorted(Path(folder).glob(pattern)))
