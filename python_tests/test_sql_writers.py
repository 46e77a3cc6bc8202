"""Databases that others write to: a result is one that the database had at some moment."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from finestep_fast.errors import InputError
from finestep_fast.sql import Engine, Status, database_schema
from support.databases import aged, written

pytestmark = pytest.mark.native

COUNT = "SELECT count(*) FROM t"


@contextmanager
def writer_of(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """Yield a connection that writes, in a journal mode."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        yield connection


@pytest.mark.parametrize("mode", ["delete", "persist", "truncate", "wal"])
def test_what_is_committed_is_seen_at_once(tmp_path: Path, engine: Engine, mode: str) -> None:
    path = tmp_path / "busy.sqlite"
    with writer_of(path, mode) as writer:
        writer.execute("CREATE TABLE t(a)")
        for number in range(1, 4):
            writer.execute("INSERT INTO t VALUES (1)")
            assert engine.run([(path, COUNT)])[0].rows == ((number,),)
            right, wrong = engine.match(
                [(path, f"SELECT {number}", COUNT), (path, "SELECT 9", COUNT)]
            )
            assert (right.equal, wrong.equal) == (True, False)
        assert database_schema(path).tables[0].name == "t"


def test_what_is_not_committed_is_not_seen(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "busy.sqlite"
    with writer_of(path, "wal") as writer:
        writer.execute("CREATE TABLE t(a)")
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (1)")
        assert engine.run([(path, COUNT)])[0].rows == ((0,),)
        writer.execute("COMMIT")
        assert engine.run([(path, COUNT)])[0].rows == ((1,),)


def test_a_writer_that_holds_the_file_makes_it_unreadable_for_now(
    tmp_path: Path, engine: Engine
) -> None:
    path = tmp_path / "busy.sqlite"
    with writer_of(path, "delete") as writer:
        writer.execute("CREATE TABLE t(a)")
        writer.execute("BEGIN EXCLUSIVE")
        (held,) = engine.run([(path, COUNT)])
        assert held.status is Status.DATABASE_UNREADABLE
        assert held.message == f"database {str(path)!r}: database is locked"
        writer.execute("COMMIT")
        assert engine.run([(path, COUNT)])[0].rows == ((0,),)


KILLED = """
import os, sqlite3, sys
writer = sqlite3.connect(sys.argv[1], isolation_level=None)
writer.execute(f"PRAGMA journal_mode={sys.argv[2]}")
writer.execute("CREATE TABLE t(a)")
writer.execute("PRAGMA cache_size=1")
writer.execute("BEGIN")
writer.execute("INSERT INTO t SELECT hex(zeroblob(900)) FROM pragma_function_list LIMIT 99")
if sys.argv[2] == "wal":
    writer.execute("COMMIT")
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_changes_that_a_killed_writer_left_are_not_read_half(
    tmp_path: Path, engine: Engine, mode: str
) -> None:
    path = tmp_path / "left.sqlite"
    subprocess.run([sys.executable, "-c", KILLED, str(path), mode], check=False)
    (tmp_path / "left.sqlite-shm").unlink(missing_ok=True)
    before = sorted(os.listdir(tmp_path))
    (result,) = engine.run([(path, COUNT)])
    assert result.status is Status.DATABASE_UNREADABLE
    assert result.message.endswith(
        "a log beside it holds unfinished changes; open the database once with a program that may "
        "write to it"
    )
    with pytest.raises(InputError, match="unfinished changes"):
        database_schema(path)
    assert sorted(os.listdir(tmp_path)) == before
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(COUNT).fetchall()
    assert engine.run([(path, COUNT)])[0].status is Status.OK


@pytest.mark.parametrize("age", [0, 60])
@pytest.mark.parametrize("mode", ["delete", "persist", "wal"])
def test_reading_leaves_no_trace(tmp_path: Path, engine: Engine, mode: str, age: int) -> None:
    path = tmp_path / "still.sqlite"
    with writer_of(path, mode) as writer:
        writer.execute("CREATE TABLE t(a)")
    if age:
        aged(path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    assert engine.run([(path, COUNT)])[0].rows == ((0,),)
    assert engine.match([(path, COUNT, COUNT)])[0].equal
    database_schema(path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_another(
    tmp_path: Path, engine: Engine
) -> None:
    one = written(tmp_path / "one.sqlite", "CREATE TABLE t(a); INSERT INTO t VALUES (1)")
    two = written(tmp_path / "two.sqlite", "CREATE TABLE t(a); INSERT INTO t VALUES (2)")
    times = one.stat().st_atime_ns, one.stat().st_mtime_ns
    os.utime(two, ns=times)
    assert engine.match([(one, "SELECT 1", "SELECT a FROM t")])[0].equal
    shutil.copyfile(two, one)  # the same inode
    os.utime(one, ns=times)
    assert one.stat().st_size == two.stat().st_size
    assert engine.match([(one, "SELECT 2", "SELECT a FROM t")])[0].equal
    assert engine.run([(one, "SELECT a FROM t")])[0].rows == ((2,),)


def test_golds_of_a_file_that_changes_are_not_remembered(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "busy.sqlite"
    with writer_of(path, "delete") as writer:
        writer.execute("CREATE TABLE t(a)")
    for _ in range(2):
        assert engine.match([(path, "SELECT 0", COUNT)])[0].equal
    assert (engine.counters.golds_reused, engine.counters.verdicts_reused) == (0, 0)
    aged(path)
    for predicted in ("SELECT 0", "SELECT 0", "SELECT 1 - 1"):
        assert engine.match([(path, predicted, COUNT)])[0].equal
    assert (engine.counters.golds_reused, engine.counters.verdicts_reused) == (1, 1)


MOVES = """
import random, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
numbers = random.Random(0)
print("ready", flush=True)
while True:
    amount = numbers.randrange(1, 9)
    connection.execute("BEGIN IMMEDIATE")
    for sign, account in ((-1, numbers.randrange(400)), (1, numbers.randrange(400))):
        connection.execute("UPDATE t SET a = a + ? WHERE id = ?", (sign * amount, account))
    connection.execute("COMMIT")
"""


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_no_result_is_torn_within_a_commit(tmp_path: Path, engine: Engine, mode: str) -> None:
    path = tmp_path / "bank.sqlite"
    with writer_of(path, mode) as connection:
        connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a INT, filling TEXT)")
        connection.execute(
            "WITH RECURSIVE c(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM c WHERE x < 399) "
            "INSERT INTO t SELECT x, 100, hex(zeroblob(600)) FROM c"
        )
    aged(path)  # the first queries are begun without locks
    command = [sys.executable, "-c", MOVES, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        sums, found = set(), 0
        end = time.monotonic() + 20
        while time.monotonic() < end and found < 200:
            for result in engine.run([(path, f"SELECT sum(a), {found} FROM t")] * 20):
                if result.status is Status.OK:
                    sums.add(result.rows[0][0])
                    found += 1
                else:
                    assert "locked" in result.message
        process.send_signal(signal.SIGKILL)
    assert found >= 5  # a writer that hardly rests leaves little room for readers with locks
    assert sums == {40_000}


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, engine: Engine) -> None:
    os.mkfifo(tmp_path / "pipe.sqlite")
    (tmp_path / "folder.sqlite").mkdir()
    pipe, folder = engine.run(
        [(tmp_path / "pipe.sqlite", "SELECT 1"), (tmp_path / "folder.sqlite", "SELECT 1")]
    )
    assert pipe.status is folder.status is Status.DATABASE_UNREADABLE
    assert pipe.message.endswith("is no file with content")
    assert folder.message.endswith("is a folder")
