"""A query that is refused is told why in the words in which it was written.

Also: a look at the schema is for `run`, and earns nothing in `match`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from finestep_fast.sql import Engine, Status
from support.databases import written

pytestmark = pytest.mark.native

SCRIPT = """
    CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT NOT NULL);
    CREATE TABLE u(x REFERENCES t(a));
    CREATE INDEX t_b ON t(b);
    CREATE VIEW columns_of_t AS SELECT name FROM pragma_table_info('t');
    CREATE VIEW pages AS SELECT * FROM pragma_page_size;
    CREATE TABLE pragma_notes(a); INSERT INTO pragma_notes VALUES (7);
"""
ONLY_READS = " is not allowed: only a query that reads tables is"
ONLY_SIX = (
    " is not allowed: only the pragmas foreign_key_list, index_info, index_list, table_info, "
    "table_list and table_xinfo are"
)
IN_MATCH = " is not allowed in match: only a query that reads tables is"
# What each statement does, in its own words; refused in `run` and in `match` alike.
STATEMENTS = {
    "DELETE FROM t": "DELETE",
    "WITH x AS (SELECT 1) DELETE FROM t": "DELETE",
    "WITH x AS (SELECT 1), y AS (VALUES (2)) INSERT INTO t SELECT 1, 2": "INSERT",
    "UPDATE t SET b = 'q'": "UPDATE",
    "REPLACE INTO t VALUES (1, 2)": "REPLACE",
    "INSERT INTO t SELECT a + 9, b FROM t RETURNING a": "INSERT",
    "DROP TABLE t": "DROP TABLE",
    "drop view pages": "DROP VIEW",
    "DROP INDEX t_b": "DROP INDEX",
    "; ; /* x */ DROP /* y */ TABLE t -- z": "DROP TABLE",
    "ALTER TABLE t ADD COLUMN c": "ALTER TABLE",
    "CREATE TABLE IF NOT EXISTS x(a)": "CREATE TABLE",
    "CREATE TABLE x AS SELECT * FROM t": "CREATE TABLE",
    "CREATE TEMP TABLE t AS SELECT 1": "CREATE TEMP TABLE",
    "CREATE TEMPORARY VIEW t AS SELECT 1": "CREATE TEMPORARY VIEW",
    "CREATE UNIQUE INDEX i ON t(b)": "CREATE UNIQUE INDEX",
    "CREATE VIRTUAL TABLE temp.f USING fts5(x)": "CREATE VIRTUAL TABLE",
    "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END": "CREATE TRIGGER",
    "REINDEX": "REINDEX",
    "ANALYZE": "ANALYZE",
    "VACUUM": "VACUUM",
    "VACUUM INTO '/nowhere/copy.db'": "VACUUM",
    "ATTACH ':memory:' AS e": "ATTACH",
    "DETACH main": "DETACH",
    "BEGIN": "BEGIN",
    "begin immediate": "BEGIN",
    "COMMIT": "COMMIT",
    "END": "END",
    "ROLLBACK": "ROLLBACK",
    "SAVEPOINT s": "SAVEPOINT",
    "RELEASE s": "RELEASE",
    "EXPLAIN DELETE FROM t": "DELETE",
    "EXPLAIN QUERY PLAN DROP TABLE t": "DROP TABLE",
    "SELECT * FROM sqlite_stmt": "sqlite_stmt",
    "SELECT a FROM t, SQLITE_STMT": "sqlite_stmt",
}
# Refused in both, but where there are pragmas to use instead, `run` names them.
PRAGMAS = {
    "PRAGMA journal_mode": "PRAGMA journal_mode",
    "pragma Journal_Mode = wal": "PRAGMA journal_mode",
    "PRAGMA main.user_version(5)": "PRAGMA user_version",
    "PRAGMA writable_schema=1": "PRAGMA writable_schema",
    "PRAGMA foreign_key_check": "PRAGMA foreign_key_check",
    "PRAGMA no_such_pragma": "PRAGMA no_such_pragma",
    "EXPLAIN QUERY PLAN PRAGMA user_version = 5": "PRAGMA user_version",
    "SELECT * FROM pragma_page_size": "pragma_page_size",
    "SELECT * FROM Pragma_Database_List": "pragma_database_list",
    'SELECT name FROM "pragma_module_list" WHERE name IN (SELECT b FROM t)': "pragma_module_list",
    "SELECT * FROM pages": "pragma_page_size",
}
FUNCTIONS = {
    "SELECT load_extension('x.so')": "the function load_extension is not allowed",
    "SELECT a FROM t WHERE SQLITE_LOG(1, 'x')": "the function sqlite_log is not allowed",
    "SELECT printf(b, a) FROM t": (
        "printf needs a literal pattern without '*' and of bounded width"
    ),
}
# What `run` shows of the schema: its rows, and what `match` calls it.
LOOKS = {
    "PRAGMA table_info(t)": (
        ((0, "a", "INTEGER", 0, None, 1), (1, "b", "TEXT", 1, None, 0)),
        "PRAGMA table_info",
    ),
    "pragma main.TABLE_INFO = 'u'": (((0, "x", "", 0, None, 0),), "PRAGMA table_info"),
    'PRAGMA table_xinfo("u")': (((0, "x", "", 0, None, 0, 0),), "PRAGMA table_xinfo"),
    "PRAGMA table_list(u)": ((("main", "u", "table", 1, 0, 0),), "PRAGMA table_list"),
    "PRAGMA foreign_key_list(u)": (
        ((0, 0, "t", "x", "a", "NO ACTION", "NO ACTION", "NONE"),),
        "PRAGMA foreign_key_list",
    ),
    "PRAGMA index_list(t)": (((0, "t_b", 0, "c", 0),), "PRAGMA index_list"),
    "PRAGMA index_info(t_b)": (((0, 1, "b"),), "PRAGMA index_info"),
    "PRAGMA table_info(absent)": ((), "PRAGMA table_info"),
    "SELECT name FROM pragma_table_info('t')": ((("a",), ("b",)), "pragma_table_info"),
    "SELECT name FROM pragma_table_xinfo('u')": ((("x",),), "pragma_table_xinfo"),
    "SELECT count(*) FROM pragma_table_list('t')": (((1,),), "pragma_table_list"),
    "SELECT name FROM pragma_index_list('t') WHERE origin = 'c'": (
        (("t_b",),),
        "pragma_index_list",
    ),
    "SELECT name FROM pragma_index_info('t_b')": ((("b",),), "pragma_index_info"),
    'SELECT m.name, f."table" FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) f': (
        (("u", "t"),),
        "pragma_foreign_key_list",
    ),
    "SELECT name FROM columns_of_t": ((("a",), ("b",)), "pragma_table_info"),
    "WITH c AS (SELECT * FROM pragma_table_info('u')) SELECT name FROM c": (
        (("x",),),
        "pragma_table_info",
    ),
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM pragma_index_list('t'))": (((1,),), "pragma_index_list"),
    "SELECT name FROM pragma_table_info('t') WHERE 0": ((), "pragma_table_info"),
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("refusals") / "r.sqlite", SCRIPT)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(workers=1) as engine:
        yield engine


def refused(engine: Engine, database: Path, query: str) -> str:
    """Return why `run` denies a query, and check that its rows are not to be had."""
    (result,) = engine.run([(database, query)])
    assert result.status is Status.DENIED
    assert not result.rows
    return result.message


def refused_in_match(engine: Engine, database: Path, query: str) -> str:
    """Return why `match` denies a query, and check that it says the same of it as a gold."""
    (match,) = engine.match([(database, query, "SELECT 1 WHERE 0")])
    assert match.status is Status.PREDICTED_DENIED
    assert not match.equal
    (as_gold,) = engine.match([(database, query, query)])
    assert as_gold.status is Status.GOLD_DENIED
    assert not as_gold.equal
    assert as_gold.message == f"gold query: {match.message}"
    return match.message


@pytest.mark.parametrize(("query", "what"), STATEMENTS.items())
def test_a_refusal_says_what_the_statement_does(
    engine: Engine, database: Path, query: str, what: str
) -> None:
    assert refused(engine, database, query) == what + ONLY_READS
    assert refused_in_match(engine, database, query) == what + ONLY_READS


@pytest.mark.parametrize(("query", "what"), PRAGMAS.items())
def test_a_refusal_names_the_pragma(engine: Engine, database: Path, query: str, what: str) -> None:
    assert refused(engine, database, query) == what + ONLY_SIX
    assert refused_in_match(engine, database, query) == what + ONLY_READS


@pytest.mark.parametrize(("query", "message"), FUNCTIONS.items())
def test_a_refusal_names_the_function(
    engine: Engine, database: Path, query: str, message: str
) -> None:
    assert refused(engine, database, query) == message
    assert refused_in_match(engine, database, query) == message


@pytest.mark.parametrize(("query", "expected"), LOOKS.items())
@pytest.mark.parametrize("match_first", [False, True])
def test_run_shows_the_schema_and_match_does_not(
    engine: Engine,
    database: Path,
    query: str,
    expected: tuple[tuple[object, ...], str],
    match_first: bool,
) -> None:
    rows, what = expected
    if match_first:  # on a connection on which SQLite has made no table of a pragma yet
        with Engine(workers=1) as fresh:
            assert refused_in_match(fresh, database, query) == what + IN_MATCH
    (result,) = engine.run([(database, query)])
    assert (result.status, result.message) == (Status.OK, "")
    assert result.rows == rows
    assert refused_in_match(engine, database, query) == what + IN_MATCH


def test_run_explains_a_query_plan_and_nothing_else(engine: Engine, database: Path) -> None:
    plan = "EXPLAIN QUERY PLAN SELECT * FROM t WHERE b = 'x'"
    (result,) = engine.run([(database, plan)])
    assert result.status is Status.OK
    assert [row[3] for row in result.rows] == ["SEARCH t USING COVERING INDEX t_b (b=?)"]
    assert refused_in_match(engine, database, plan) == "EXPLAIN QUERY PLAN" + IN_MATCH
    program = "EXPLAIN SELECT * FROM t"
    expected = "EXPLAIN is not allowed: only EXPLAIN QUERY PLAN is"
    assert refused(engine, database, program) == expected
    assert refused_in_match(engine, database, program) == "EXPLAIN" + ONLY_READS


def test_a_pragma_that_needs_a_name_says_so(engine: Engine, database: Path) -> None:
    for name in ("table_info", "index_info", "foreign_key_list"):
        expected = f"PRAGMA {name} needs a name, as in PRAGMA {name}(name)"
        assert refused(engine, database, f"PRAGMA {name}") == expected
    tables = engine.run([(database, "PRAGMA table_list")])[0].rows
    assert {"t", "u", "columns_of_t"} <= {row[1] for row in tables}


def test_a_table_of_the_database_may_be_called_like_a_pragma(
    engine: Engine, database: Path
) -> None:
    query = "SELECT a FROM pragma_notes"
    assert engine.run([(database, query)])[0].rows == ((7,),)
    assert engine.match([(database, query, "SELECT 7")])[0].equal


def test_a_refusal_leaves_nothing_behind(engine: Engine, database: Path) -> None:
    for query in ("SELECT * FROM pragma_page_size", "PRAGMA table_info", "DROP TABLE t"):
        engine.run([(database, query)])
        (result,) = engine.run([(database, "SELECT count(*) FROM t")])
        assert (result.status, result.message, result.rows) == (Status.OK, "", ((0,),))
