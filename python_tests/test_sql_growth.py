"""How far a query grows while SQLite puts it together is counted before SQLite sees it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from finestep_fast._core import expanded_ctes, grown_terms
from finestep_fast.sql import Engine, Status
from support.databases import written

pytestmark = pytest.mark.native

ENOUGH = 1 << 20
# Names and values after a column is put in the place of its name; words of the grammar count, too.
TERMS = {
    "SELECT a FROM t": 1,
    "SELECT a + 1, 'x' FROM t WHERE b": 3 + 2,
    # a+a is read, and stands in for x twice.
    "SELECT x+x FROM (SELECT a+a AS x FROM t)": 2 + 4,
    "SELECT x+x y FROM (SELECT a+a x FROM t)": 2 + 4,
    "SELECT s.x+s.x AS x FROM (SELECT a+a AS x FROM t) s": 2 + 1 + 4,
    "SELECT CASE WHEN x THEN x END FROM (SELECT a+a AS x FROM t)": 2 + 8,
    "SELECT 1 FROM (SELECT a+a AS x FROM t) WHERE x+x": 2 + 1 + 5,
    "SELECT 1 FROM t JOIN (SELECT a+a AS x FROM t) ON x = x": 2 + 1 + 5,
    "SELECT 1 FROM (SELECT a+a AS x FROM t) GROUP BY x HAVING x ORDER BY x LIMIT 1": 2 + 1 + 13,
    # An alias may be named in the query's own clauses.
    "SELECT a+a AS z FROM t WHERE z+z+z": 2 + 7,
    "SELECT 1 WHERE 1 IN (SELECT x+x FROM (SELECT a+a AS x FROM t))": 1 + 3 + 6,
    "SELECT (SELECT x+x) FROM (SELECT a+a AS x FROM t)": 2 + 4,
    "SELECT EXISTS (SELECT 1 FROM t WHERE x) FROM (SELECT a+a AS x FROM t)": 2 + 1 + 4,
    "SELECT column1+column1 FROM (VALUES (1+2), (3))": 3 + 4,
    "SELECT x+x FROM (SELECT a AS x FROM t UNION ALL SELECT b+b FROM t)": 3 + 4,
    "SELECT x+y FROM (SELECT * FROM (SELECT a+a AS x, b AS y FROM t))": 3 + 3 + 3,
    "SELECT x+x FROM ((SELECT a+a AS x FROM t))": 2 + 4,
    "SELECT x FROM (SELECT a+a AS x FROM t) JOIN (SELECT b AS x FROM t) USING (x)": 3 + 4 + 3,
    "SELECT x IS DISTINCT FROM 1 FROM (SELECT a+a AS x FROM t)": 2 + 6,
    # Common table expressions, read twice, by position, by a star that hides positions, and by IN.
    "WITH c AS (SELECT a+a AS x FROM t) SELECT x FROM c": 2 + 2,
    "WITH c AS (SELECT a+a AS x FROM t) SELECT p.x, q.x FROM c p, c q": 4 + 2 + 4,
    "WITH c(x, y) AS (SELECT a+a, b FROM t) SELECT y+x+x FROM c": 3 + 5,
    "WITH c(w, x, y, z) AS (SELECT *, a+a FROM t) SELECT w+z FROM c": 2 + 4,
    "WITH d AS (SELECT x+x AS y FROM c), c AS (SELECT a+a AS x FROM t) SELECT y FROM d": 6 + 4,
    "WITH c AS (SELECT a+a FROM t) SELECT 1 IN c": 1 + 2,
    "WITH c AS (SELECT a+a FROM t) SELECT 1 WHERE 2 NOT IN 'c'": 1 + 3 + 2,
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION SELECT x+1 FROM c) SELECT x FROM c": 1 + 2 + 2,
    "EXPLAIN QUERY PLAN SELECT x+x FROM (SELECT a+a AS x FROM t)": 2 + 4,
    # A name after a value is that of the column, also where the value ends in a name.
    "SELECT y FROM (SELECT a+a y FROM t)": 2 + 2,
    "SELECT y FROM (SELECT 1 + match y FROM (SELECT b+b AS match FROM t))": 2 + 4 + 4,
    "SELECT b FROM (SELECT a AND b AS b FROM t)": 3 + 3,
    # Names in quotes, and a column that has no name but its text.
    "SELECT \"x\"+[x]+`x`+X FROM (SELECT a+a AS 'x' FROM t)": 2 + 8,
    'SELECT "a+a"+"a+a" FROM (SELECT a+a FROM t)': 2 + 4,
    "WITH [c] AS (SELECT a+a AS x FROM t) SELECT p.x FROM \"C\" p, `c` q, 'c' r": 6 + 3 + 2,
    # A column keeps its name through parentheses and COLLATE.
    "SELECT x+x FROM (SELECT (x) FROM (SELECT a+a AS x FROM t))": 2 + 2 + 4,
    "SELECT x+x FROM (SELECT * FROM (SELECT x COLLATE nocase FROM (SELECT a+a AS x FROM t)))": (
        2 + 4 + 4 + 4
    ),
}


@pytest.mark.parametrize(("query", "terms"), TERMS.items())
def test_terms_are_counted_where_columns_are_put_in(query: str, terms: int) -> None:
    assert grown_terms(query, ENOUGH) == terms


@pytest.mark.parametrize("query", TERMS)
def test_the_counted_queries_are_sqlites(query: str) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t(a, b, c)")
    if query.startswith("EXPLAIN"):
        query = query.removeprefix("EXPLAIN QUERY PLAN ")
    connection.execute(f"EXPLAIN {query}").close()
    connection.close()


def nested(depth: int, column: str = "x+x") -> str:
    """Return queries inside one another, each of which names the column inside it."""
    query = "SELECT a AS x FROM t"
    for _ in range(depth):
        query = f"SELECT {column} AS x FROM ({query})"
    return query


def chained(depth: int, body: str, columns: str) -> str:
    """Return common table expressions of which each reads the one before it."""
    parts = ["c0(x, y) AS (SELECT a, b FROM t)"]
    parts += [f"c{i}{columns} AS ({body.format(c=f'c{i - 1}')})" for i in range(1, depth + 1)]
    return f"WITH {', '.join(parts)} SELECT x FROM c{depth}"


def test_what_doubles_at_each_level_is_seen() -> None:
    # 1 + 2 + 4 + ...: each level holds its own terms and those inside it.
    assert [grown_terms(nested(depth), ENOUGH) for depth in (0, 1, 2, 9)] == [1, 3, 7, 1023]
    assert grown_terms(nested(5, "CASE WHEN x THEN x ELSE x END"), ENOUGH) > 3**5
    # Both columns have 2, 4 and 8 terms: 2 + 4 + 8 + 16, and 8 once more.
    for body, columns in (
        ("SELECT x+y, y+x FROM {c}", "(x, y)"),
        ("SELECT x+y AS x, y+x AS y FROM {c}", ""),
        ("SELECT {c}.x+y x, y+{c}.x 'y' FROM {c}", ""),
    ):
        assert grown_terms(chained(3, body, columns), ENOUGH) == 38
    # An alias in the clauses of its own query: 3 * 3 * ... of (SELECT 1), and WHERE and AND.
    query = "(SELECT 1)"
    for expected in (5, 17, 53, 161):
        query = f"(SELECT {query} AS z WHERE z AND z)"
        assert grown_terms(query[1:-1], ENOUGH) == expected


def test_sqlite_grows_as_counted() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t(a, b)")

    def instructions(query: str) -> int:
        return len(connection.execute(f"EXPLAIN {query}").fetchall())

    for make in (
        nested,
        lambda depth: chained(depth, "SELECT x+y, y+x FROM {c}", "(x, y)"),
        lambda depth: chained(depth, "SELECT x+y AS x, y+x AS y FROM {c} ORDER BY x", ""),
    ):
        assert instructions(make(10)) > 15 * instructions(make(6))
        assert grown_terms(make(10), ENOUGH) > 15 * grown_terms(make(6), ENOUGH)
    connection.close()


def test_counting_ends_at_enough() -> None:
    assert grown_terms(nested(9), 1024) == 1023
    assert grown_terms(nested(9), 1000) == 1000
    assert grown_terms(nested(10), 100) == 100
    # A star copies many columns many times: the work counts, too.
    wide = ", ".join(f"1 AS x{i}" for i in range(50))
    stars = [f"c{i} AS (SELECT * FROM c{i - 1})" for i in range(1, 40)]
    query = f"WITH c0 AS (SELECT {wide}), {', '.join(stars)} SELECT 1 FROM c0"
    assert grown_terms(query, ENOUGH) == 50 + 1
    assert grown_terms(query, 1000) == 1000
    # Queries deeper inside one another than SQLite reads them.
    assert grown_terms("(SELECT " * 300 + "1" + ")" * 300, ENOUGH) == ENOUGH


@pytest.mark.parametrize(
    "query",
    ["SELECT", "SELECT DISTINCT", "SELECT FROM", "SELECT a AS", "SELECT (", "SELECT )", "UNION",
     "WITH", "WITH c", "WITH c AS", "WITH c(", "WITH c AS (", "WITH c AS (SELECT", "VALUES",
     "SELECT * FROM (", "SELECT a FROM t JOIN", "SELECT a IN", "SELECT 1 UNION", "(", ")", "",
     "SELECT , FROM ,", "SELECT a. FROM t.", "SELECT 1 WHERE", "SELECT 'a", "WITH c(, AS (VALUES"],
)  # fmt: skip
def test_what_is_no_query_is_counted_without_harm(query: str) -> None:
    assert 0 <= grown_terms(query, ENOUGH) < 10
    assert expanded_ctes(query) == 0


@pytest.mark.parametrize(
    "read",
    ["FROM c", 'FROM "C"', "FROM [c]", "FROM `c`", "FROM 'c'", "FROM t, c", "FROM t JOIN c",
     "FROM (c)", "WHERE 1 IN c", "WHERE 1 NOT IN c", "WHERE 1 IN 'c'",
     "WHERE 1 IN (SELECT x FROM c)",
     "WHERE CASE (SELECT x FROM c) WHEN 1 THEN 2 END", "WHERE (1) IN (VALUES ((SELECT x FROM c)))",
     "FROM (SELECT x FROM (SELECT x FROM c))", "UNION SELECT x FROM c",
     "ORDER BY (SELECT x FROM c)"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["c", '"c"', "[C]", "`c`", "'c'", "c(x)", "'c'(x)"])
def test_each_way_to_read_an_expression_is_a_copy(read: str, name: str) -> None:
    query = f"WITH {name} AS (SELECT 1 AS x) SELECT 1 {read}"
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t(a, b)")
    connection.execute(f"EXPLAIN {query}").close()
    connection.close()
    assert expanded_ctes(query) == 1
    # d reads c, itself one copy, and is read twice: 2 * (1 + 1).
    doubled = f"WITH {name} AS (SELECT 1 AS x), d AS (SELECT 1 {read}) SELECT 1 FROM d, d AS e"
    assert expanded_ctes(doubled) == 4


def test_an_expression_inside_another_is_counted_where_it_is_read() -> None:
    query = "SELECT 1 FROM t"
    for i in range(12):
        query = f"WITH c{i} AS ({query}) SELECT 1 FROM c{i}"
    assert expanded_ctes(query) == 12


def test_a_query_that_grows_too_far_is_denied(engine: Engine, tmp_path: Path) -> None:
    database = written(tmp_path / "t.sqlite", "CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 2)")
    # 16383 terms are let through; 262143, which cost a plain SQLite a second, are not.
    small, large = engine.run([(database, nested(13)), (database, nested(17))])
    assert small.rows == ((2**13,),)
    assert large.status is Status.DENIED
    assert large.message == (
        "the expressions would grow to more than 131072 terms while SQLite puts the query together"
    )
