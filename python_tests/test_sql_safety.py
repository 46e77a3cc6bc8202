"""A query reads the database it is given and does nothing else."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest

from finestep_fast._core import expanded_ctes, formats_are_literal
from finestep_fast.sql import Engine, Semantics, Status
from support.databases import written
from support.json_lines import json_lines

pytestmark = pytest.mark.native

WRITING = (
    "DELETE FROM t",
    "UPDATE t SET b = 'q'",
    "INSERT INTO t VALUES (1, 2)",
    "REPLACE INTO t VALUES (1, 2)",
    "WITH x AS (SELECT 1) DELETE FROM t",
    "DELETE FROM t RETURNING a",
    "DROP TABLE t",
    "ALTER TABLE t RENAME TO u",
    "ALTER TABLE t ADD COLUMN c",
    "CREATE TABLE u(a)",
    "CREATE TEMP TABLE t AS SELECT * FROM main.t WHERE 0",
    "CREATE TEMP VIEW t AS SELECT 1",
    "CREATE VIRTUAL TABLE temp.f USING fts5(x)",
    "CREATE INDEX i ON t(a)",
    "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END",
    "REINDEX",
    "ANALYZE",
    "VACUUM",
    "VACUUM INTO '{dir}/copy.db'",
    "ATTACH DATABASE '{dir}/new.db' AS e",
    "ATTACH DATABASE 'file:{dir}/new.db?mode=rwc' AS e",
    "ATTACH DATABASE '{dir}/secret.sqlite' AS e",
    "ATTACH ':memory:' AS e",
    "DETACH main",
    "PRAGMA journal_mode=wal",
    "PRAGMA user_version=5",
    "PRAGMA writable_schema=1",
    "PRAGMA query_only=0",
    "PRAGMA case_sensitive_like=1",
    "PRAGMA hard_heap_limit=100000",
    "SELECT * FROM pragma_database_list",
    "BEGIN",
    "COMMIT",
    "SAVEPOINT s",
    "EXPLAIN SELECT * FROM t",
    "/* x */ explain query plan DELETE FROM t",
    "SELECT load_extension('{dir}/x.so')",
    "SELECT LOAD_EXTENSION('{dir}/x.so')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT sqlite_compileoption_get(1)",
    "SELECT sqlite_log(1, 'x')",
)
HONEST = {
    "SELECT count(*) FROM t": ((3,),),
    "SELECT 'A' LIKE 'a'": ((1,),),
    "SELECT group_concat(b, '-') FROM t": (("x-y-z",),),
    "SELECT upper(b), round(sqrt(a), 1), printf('%05.2f', a) FROM t WHERE a = 1": (
        ("X", 1.0, "01.00"),
    ),
    "SELECT a, rank() OVER (ORDER BY a DESC) FROM t WHERE a < 3": ((2, 1), (1, 2)),
    "SELECT value FROM json_each('[1, 2]')": ((1,), (2,)),
    "SELECT json_extract('{\"k\": 7}', '$.k')": ((7,),),
    "SELECT strftime('%Y', '2020-05-06')": (("2020",),),
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < 3) SELECT * FROM c": (
        (1,),
        (2,),
        (3,),
    ),
    "SELECT name FROM sqlite_master WHERE type = 'table'": (("t",),),
    "VALUES (1), (2)": ((1,), (2,)),
    "SELECT max(a) FROM t UNION SELECT min(a) FROM t ORDER BY 1": ((1,), (3,)),
}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    script = (
        "CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'z'); "
        "CREATE INDEX t_a ON t(a)"
    )
    written(tmp_path / "secret.sqlite", "CREATE TABLE secret(a)")
    return written(tmp_path / "t.sqlite", script)


def assert_unharmed(engine: Engine, database: Path) -> None:
    """Fail unless every honest query still gets its answer."""
    results = engine.run([(database, query) for query in HONEST])
    assert {q: r.rows for q, r in zip(HONEST, results, strict=True)} == HONEST


def test_honest_queries_are_let_through(engine: Engine, database: Path) -> None:
    assert_unharmed(engine, database)


@pytest.mark.parametrize("attack", WRITING)
def test_whatever_is_more_than_reading_is_denied(
    engine: Engine, database: Path, attack: str
) -> None:
    folder = database.parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (result,) = engine.run([(database, attack.format(dir=folder))])
    assert result.status is Status.DENIED
    assert "not allowed" in result.message
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert_unharmed(engine, database)


def test_rewards_hacked_elsewhere_score_nothing(engine: Engine, database: Path) -> None:
    gold = "SELECT a FROM t WHERE b = 'y'"
    empty = "SELECT a FROM t WHERE b = 'nothing'"
    hacks = ["DELETE FROM t", "UPDATE t SET b = 'q'", "DROP TABLE t", " ", "-- nothing", "SELEC"]
    hacks += ["CREATE TEMP TABLE t AS SELECT * FROM main.t WHERE 0", "PRAGMA user_version = 5"]
    for semantics in get_args(Semantics):
        triples = [(database, hack, answer) for hack in hacks for answer in (gold, empty)]
        assert not any(match.equal for match in engine.match(triples, semantics=semantics))
        assert engine.match([(database, gold, gold)], semantics=semantics)[0].equal


def test_attacks_harm_neither_files_nor_neighbours(
    engine: Engine, tmp_path: Path, shared_data: Path
) -> None:
    database = tmp_path / "t.sqlite"
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE t(a, b)")
    rows = [(i, f"v{i}") for i in range(300)]
    connection.executemany("INSERT INTO t VALUES (?, ?)", rows)
    connection.commit()
    connection.close()
    written(tmp_path / "secret.sqlite", "CREATE TABLE secret(a)")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    entries = json_lines(shared_data / "adversarial" / "attacks.jsonl")
    attacks = [entry["sql"].replace("{dir}", str(tmp_path)) for entry in entries]
    attacks += [attack.format(dir=tmp_path) for attack in WRITING]
    attacks += [chained(24, 2), chained(4, 50)]
    honest = "SELECT count(*), 'A' LIKE 'a', length(group_concat(b)) FROM t"
    jobs = [(database, query) for attack in attacks for query in (attack, honest)]
    results = engine.run(jobs, timeout_s=0.2, max_rows=1000, max_bytes=8 << 20)
    assert {result.rows for result in results[1::2]} == {((300, 1, 1389),)}
    assert {result.status for result in results[1::2]} == {Status.OK}
    for attack, result in zip(attacks, results[::2], strict=True):
        # Generous: the machine may be busy. What hangs takes tens of seconds.
        assert result.elapsed_ms < 10_000, attack[:200]
        assert result.status is not Status.DATABASE_UNREADABLE, attack[:200]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    # The same as predictions: nothing scores but what returns the very rows.
    triples = [(database, attack, "SELECT a FROM t WHERE 0") for attack in attacks]
    for attack, match in zip(attacks, engine.match(triples, timeout_s=0.2), strict=True):
        assert not match.equal or match.status is Status.OK, attack[:200]
        assert not (match.equal and attack in WRITING), attack[:200]


def chained(length: int, reads: int) -> str:
    """Return common table expressions of which each reads the one before it several times."""
    parts = ["t0 AS (SELECT 1 x)"]
    for i in range(1, length):
        union = " UNION ALL ".join([f"SELECT * FROM t{i - 1}"] * reads)
        parts.append(f"t{i} AS ({union})")
    return f"WITH {', '.join(parts)} SELECT count(*) FROM t{length - 1}"


@pytest.mark.parametrize(("length", "reads"), [(24, 2), (14, 3), (4, 50)])
def test_expressions_that_double_are_stopped_before_sqlite_copies_them(
    engine: Engine, database: Path, length: int, reads: int
) -> None:
    started = time.monotonic()
    (result,) = engine.run([(database, chained(length, reads))], timeout_s=1)
    assert result.status is Status.DENIED
    assert time.monotonic() - started < 5


def test_the_copies_of_common_table_expressions_are_counted() -> None:
    assert expanded_ctes("SELECT 1") == 0
    assert expanded_ctes("WITH a AS (SELECT 1) SELECT * FROM a") == 1
    assert expanded_ctes("WITH a AS (SELECT 1) SELECT * FROM a x JOIN a y") == 2
    # b reads a twice and is read twice: 2 * (1 + 2).
    doubled = "WITH a AS (SELECT 1), b AS (SELECT * FROM a, a) SELECT * FROM b, b"
    assert expanded_ctes(doubled) == 6
    assert expanded_ctes(chained(10, 2)) > 1000
    quoted = 'WITH "A" AS (SELECT 1), b(x) AS NOT MATERIALIZED (SELECT 1 FROM a) SELECT * FROM [B]'
    assert expanded_ctes(quoted) == 2
    assert expanded_ctes("WITH RECURSIVE c AS (SELECT 1 UNION SELECT 1 FROM c) SELECT 1 FROM c") < 5


def test_columns_that_share_a_name_with_an_expression_are_no_reads() -> None:
    columns = ", ".join(["sales.x"] * 30)
    query = (
        "WITH sales AS (SELECT 1 x), more AS (SELECT {c} FROM sales) SELECT {c} FROM sales, more"
    )
    assert expanded_ctes(query.format(c=columns)) < 10


@pytest.mark.parametrize(
    ("query", "literal"),
    [
        ("SELECT printf('%.2f', a) FROM t", True),
        ("SELECT PRINTF ( '%d%%', a) || format('%s', b) FROM t", True),
        ("SELECT printf('%.*c', 999999999, 'x')", False),
        ("SELECT printf('%0999999999d', 1)", False),
        # A literal that something follows is only a part of the pattern.
        ("SELECT printf('%d' || b, a) FROM t", False),
        ("SELECT printf('%d' COLLATE nocase, a) FROM t", False),
        ("SELECT printf('[1]' ->> 0, a) FROM t", False),
        ("SELECT printf('%.' || '*c', 9, 'x')", False),
        ("SELECT printf('%99' || '999d', 1)", False),
        ("SELECT printf('%.2f' || ' ' || '%s', a, b) FROM t", True),
        # BLOBs and numbers are what SQLite makes of them as text.
        ("SELECT printf(x'252e3266', a) FROM t", True),  # %.2f
        ("SELECT printf(X'252A64', 9, a) FROM t", False),  # %*d
        ("SELECT printf(x'2500' || x'2a006400', 9, a) FROM t", False),  # %*d in UTF-16
        ("SELECT printf(x'25390039003900390039006400', a) FROM t", False),  # %99999d in UTF-16
        ("SELECT printf(x'256', a) FROM t", False),
        ("SELECT printf(7)", True),
        ("SELECT printf(0x25)", True),  # 37
        ("SELECT printf('%' || 0x5 || 'd', a) FROM t", True),  # %5d
        ("SELECT printf('%' || 0x0000000005 || 'd', a) FROM t", True),
        ("SELECT printf('%' || 0x1869F || 'd', a) FROM t", False),  # %99999d
        ("SELECT printf('%' || 9_9999 || 'd', a) FROM t", False),
        ("SELECT printf('it''s %d, ''*''', a) FROM t", True),
        ("SELECT printf('%''*d', 9, a) FROM t", False),
        ("SELECT printf(b, a) FROM t", False),
        ('SELECT "printf"(b, a) FROM t', False),
        ("SELECT 'printf(b)'", True),
    ],
)
def test_patterns_are_read_before_sqlite_sees_them(query: str, literal: bool) -> None:
    assert formats_are_literal(query) is literal


OUT_OF_MEMORY = """
import sys
from finestep_fast.sql import Engine
hungry = (
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < {rows}) "
    "SELECT length(json_group_array(hex(zeroblob(50000)))) FROM c"
)
database = sys.argv[1]
with Engine(workers=2, max_heap_bytes=24 << 20) as engine:
    jobs = [(database, hungry.format(rows=100)) for _ in range(40)]
    jobs.insert(20, (database, hungry.format(rows=2000)))
    results = engine.run(jobs)
    print(*(result.status for result in results))
    print(results[20].message)
"""


def test_memory_is_limited_and_a_neighbour_does_not_pay_for_it(database: Path) -> None:
    # In a process of its own: the limit is the process's, and it cannot be raised again.
    command = [sys.executable, "-P", "-c", OUT_OF_MEMORY, str(database)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    statuses, message = done.stdout.splitlines()
    assert statuses.split() == ["ok"] * 20 + ["too_large"] + ["ok"] * 20
    assert message in ("out of memory", "string or blob too big")
