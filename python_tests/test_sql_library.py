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
