"""Which SQLite is opened, and what is said when there is none."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from finestep_fast import sql
from finestep_fast.errors import InputError
from finestep_fast.sql.library import pip_copies

SAY = """
import sys
from finestep_fast import sql
from finestep_fast.errors import FinestepError
try:
    print(sql.library(*sys.argv[1:]).path)
except FinestepError as error:
    print(type(error).__name__, error)
"""


def said(*arguments: str, **variables: str) -> str:
    """Return what a new process says about its library."""
    done = subprocess.run(
        [sys.executable, "-c", SAY, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        timeout=60,
    )
    return done.stdout.strip()


def test_the_library_is_the_one_that_python_uses() -> None:
    library = sql.library()
    assert library.version == sqlite3.sqlite_version
    assert Path(library.path).is_file()
    assert any(option.startswith("THREADSAFE") for option in library.compile_options)


def test_a_named_library_is_taken_or_refused() -> None:
    path = sql.library().path
    assert said(FINESTEP_SQLITE=path) == path
    assert said("/none.so").startswith("BuildError no usable SQLite library (/none.so: ")
    assert "has no function sqlite3_" in said("libm.so.6")


def test_a_process_has_one_library() -> None:
    library = sql.library()
    assert sql.library(library.path) == library
    with pytest.raises(InputError, match="this process runs on"):
        sql.library("/other.so")


def test_copies_in_packages_are_found_where_the_packages_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("pysqlite3/_sqlite3.so", "apsw/sqlite_extra_binaries/libsqlite3_tool.so")
    for file in map(tmp_path.joinpath, files):
        file.parent.mkdir(parents=True)
        file.touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert [path for path in pip_copies() if path.startswith(str(tmp_path))] == [
        str(tmp_path / file) for file in files
    ]
