"""Functions called in a process on another copy of SQLite."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from finestep_fast import sql
from finestep_fast.errors import BuildError, InputError
from finestep_fast.sql.library_process import LibraryProcess
from support.programs import printed


def test_functions_run_in_a_process_on_the_library_that_was_named(shop: Path) -> None:
    path = sql.library().path
    with LibraryProcess(path) as process:
        assert process.library == sql.library()
        assert process.call(os.getpid) != os.getpid()
        (result,) = process.call(sql.run, [(str(shop), "SELECT count(*) FROM customer")])
        assert result.rows == ((4,),)
        with pytest.raises(InputError, match="timeout_s is -1"):
            process.call(sql.run, [], timeout_s=-1)
        assert process.call(sql.library).version == sqlite3.sqlite_version


@pytest.mark.parametrize("path", ["/none.so", "libm.so.6"])
def test_a_library_that_cannot_be_used_is_refused_as_in_this_process(path: str) -> None:
    with pytest.raises(BuildError, match=f"no usable SQLite library .{path}: "):
        LibraryProcess(path)


def test_a_process_that_ends_is_an_error_and_no_wait() -> None:
    with LibraryProcess(sql.library().path) as process:
        for _ in range(2):
            with pytest.raises(BuildError, match="exit status 7 before it answered"):
                process.call(os._exit, 7)


def test_leaving_ends_the_process_whatever_runs_in_it() -> None:
    with LibraryProcess(sql.library().path) as process:
        pid = process.call(os.getpid)
        handler_before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.alarm(1)
        with pytest.raises(KeyboardInterrupt), process:
            process.call(time.sleep, 600)
        signal.signal(signal.SIGALRM, handler_before)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


INTERRUPTED = """
import os, signal
from finestep_fast import sql
from finestep_fast.sql.library_process import LibraryProcess
if __name__ == "__main__":
    with LibraryProcess(sql.library().path) as process:  # the first of this program
        pid = process.call(os.getpid)
        os.kill(pid, signal.SIGINT)
        print(process.call(os.getpid) == pid, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def test_ctrl_c_does_not_reach_the_process(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(INTERRUPTED, encoding="utf-8")
    assert printed(program) == "True set()\n"
