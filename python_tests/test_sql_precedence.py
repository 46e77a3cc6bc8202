"""Two texts with one normal form mean the same to SQLite, however operators are put together."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from finestep_fast.sql import DatabaseSchema, database_schema
from finestep_fast.sql.analysis import analyse
from finestep_fast.sql.lexer import folded_text
from support.databases import written
from support.profile import THOROUGH

# SQLite's binary operators, those of one rank on one line.
RANKS = (
    ("||", "->", "->>"),
    ("*", "/", "%"),
    ("+", "-"),
    ("&", "|", "<<", ">>"),
    ("<", "<=", ">", ">="),
    ("=", "==", "<>", "!=", "IS", "IS NOT", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"),
    ("LIKE", "NOT LIKE", "GLOB", "NOT GLOB"),  # of the same rank as those above
    ("AND",),
    ("OR",),
)
BINARY = tuple(operator for rank in RANKS for operator in rank)
SOME = ("||", "%", "*", "-", "<", "IS", "LIKE")

# What may seem to be two spellings of one thing, those of one kind on one line.
SPELLINGS = (
    [f"CAST('7.9' AS {kind}) / 2" for kind in ("DECIMAL", "NUMERIC", "REAL", "FLOAT", "INT")],
    [f"typeof(CAST('7' AS {kind}))" for kind in ("STRING", "TEXT", "CHAR", "VARCHAR(2)", "BLOB")],
    ("CAST('2020-05-06' AS DATE)", "date('2020-05-06')", "CAST('2020-05-06' AS DATETIME)"),
    ("mod(7, 2.5)", "7 % 2.5", "mod(7, 3) / 2", "7 % 3 / 2"),
    ("log(100)", "log10(100)", "ln(100)", "log(10, 100)", "log2(100)", "log(100, 10)"),
    ("round(2.567)", "round(2.567, 0)", "round(2.567, 1)", "trunc(2.567)", "CAST(2.567 AS INT)"),
    ("sum(1)", "total(1)", "avg(1)", "count(*)", "count(1)", "count(NULL)", "count(DISTINCT 1)"),
    ("group_concat('a')", "group_concat('a', ';')", "group_concat('a', '')"),
    ("trim('xax', 'x')", "ltrim('xax', 'x')", "rtrim('xax', 'x')", "trim('xax')"),
    [f"strftime('%{letter}', '2020-01-02 10:11:12')" for letter in "YmdHMSsjwWfJ"],
    ("date('2020-01-02', '+1 day')", "date('2020-01-02', '-1 day')", "date('2020-01-02', '1 day')"),
    ("1", "'1'", '"1"', "1.0", "x'31'", "0x1", "TRUE", "+1", "- -1", "1e0", "(1)"),
    ("2 IS TRUE", "2 = TRUE", "2 IS NOT FALSE", "NOT 2 = 1", "(NOT 2) = 1"),
    ("'a' LIKE 'A'", "'a' GLOB 'A'", "'a' = 'A'", "'a' = 'A' COLLATE NOCASE"),
    ("json_extract(j, '$.a')", "j -> '$.a'", "j ->> '$.a'", "j -> 'a'", "j ->> 'b'"),
    ("json_extract(j, '$.b[0]')", "json_extract(j, '$.b[1]')", "json_extract(j, '$.b[#-1]')"),
    ("'it''s'", "'its'", "'it' || 's'", "NULL || 's'", "ifnull(NULL, 's')", "coalesce(NULL, 's')"),
    ("1 BETWEEN 0 AND 2", "1 IN (0, 2)", "1 NOT IN (0, 2)", "1 IN ()", "1 NOT BETWEEN 0 AND 2"),
)
BEFORE = ("-", "+", "~", "NOT ")
AFTER = (
    " COLLATE NOCASE",
    " ISNULL",
    " NOTNULL",
    " NOT NULL",
    " IS NULL",
    " IS NOT NULL",
    " IN (1, 2)",
    " NOT IN (1, 0)",
    " BETWEEN 0 AND 1",
    " NOT BETWEEN 0 AND 1",
    " LIKE '1' ESCAPE '/'",
    " NOT LIKE '1' ESCAPE '/'",
)
VALUES = """
    (1, 2, 3), ('2', '1', 0), (3, 2, 1), (0, 1, 1), ('a', 'A', 'b'), (NULL, 1, 0), (5, 3, 2),
    ('1', 1, '1'), (7, 2, 3), (0, 0, 0), ('{"a": [5, 6]}', '$.a', 1), (1, '[1, 2]', 1),
    ('a', 'b', 'A'), (2, 0, NULL), ('x', NULL, 'x'), (6, 4, 1), (-7, 2, 3), ('[4, 1]', 1, 2)
"""


def pairs(operators: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Return the ways to read any two binary operators."""
    for x in operators:
        for y in operators:
            yield f"a {x} b {y} c", f"(a {x} b) {y} c", f"a {x} (b {y} c)"


def pairs_with_others(operators: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Return the ways to read a binary operator beside a unary one, and two unary ones."""
    for x in operators:
        for f in BEFORE:
            yield f"{f}a {x} b", f"({f}a) {x} b", f"{f}(a {x} b)"
            yield f"a {x} {f}b", f"a {x} ({f}b)"
        for f in AFTER:
            head, _, last = f.rpartition(" ")
            inside = (f"a{head} ({last} {x} b)",) if "BETWEEN" in f or "ESCAPE" in f else ()
            yield f"a{f} {x} b", f"(a{f}) {x} b", *inside
            yield f"a {x} b{f}", f"a {x} (b{f})", f"(a {x} b){f}"
        yield f"a BETWEEN b {x} 0 AND c", f"a BETWEEN (b {x} 0) AND c", f"(a BETWEEN b) {x} 0 AND c"
        yield f"a BETWEEN 0 AND b {x} c", f"a BETWEEN 0 AND (b {x} c)", f"(a BETWEEN 0 AND b) {x} c"
    for f in BEFORE:
        for g in AFTER:
            yield f"{f}a{g}", f"({f}a){g}", f"{f}(a{g})"
    for f in AFTER:
        for g in AFTER:
            yield f"a{f}{g}", f"(a{f}){g}"


def pairs_with_signs_inside(operators: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Return the ways to read two operators if the second operand has an operator before it."""
    for x in operators:
        for f in BEFORE:
            for y in operators:
                readings = [f"(a {x} {f}b) {y} c", f"a {x} {f}(b {y} c)", f"a {x} ({f}b) {y} c"]
                readings += [f"a {x} ({f}b {y} c)", f"a {x} (({f}b) {y} c)"]
                yield f"a {x} {f}b {y} c", *readings


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = f"CREATE TABLE v(a, b, c); INSERT INTO v VALUES {VALUES}"
    return written(tmp_path_factory.mktemp("precedence") / "v.sqlite", script)


@pytest.fixture(scope="module")
def schema(database: Path) -> DatabaseSchema:
    return database_schema(database)


def differences(
    rows: Iterator[tuple[str, ...]], database: Path, schema: DatabaseSchema
) -> tuple[list[str], float]:
    """Return texts with one normal form and other values, and the share that was parsed."""
    connection = sqlite3.connect(database)
    rowids = [rowid for (rowid,) in connection.execute("SELECT rowid FROM v")]

    def values(text: str) -> list[object]:
        found: list[object] = []
        for rowid in rowids:
            try:
                query = f"SELECT {text} FROM v WHERE rowid = ?"
                found.append(connection.execute(query, (rowid,)).fetchone()[0])
            except sqlite3.OperationalError:  # such as malformed JSON
                found.append("error")
        return found

    different = []
    num_parsed = num_texts = 0
    for texts in rows:
        by_form = defaultdict(list)
        for text in texts:
            facts = analyse.__wrapped__(f"SELECT {text} FROM v", schema)
            by_form[facts.normal_form].append(text)
            num_parsed += facts.parsed
            num_texts += 1
        for first, *others in by_form.values():
            expected = values(first) if others else None
            different += [f"{first} and {x}" for x in others if values(x) != expected]
    connection.close()
    return different, num_parsed / num_texts


# All of them take forty seconds.
WITH_SIGNS = BINARY if THOROUGH else BINARY[::2]


@pytest.mark.gate
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(pairs(BINARY[::2]), id="some binary"),
        pytest.param(pairs_with_others(SOME), id="some with others"),
        pytest.param(pairs_with_signs_inside(SOME[:5]), id="some with signs"),
        pytest.param(pairs(BINARY), id="binary", marks=pytest.mark.slow),
        pytest.param(pairs_with_others(BINARY), id="with others", marks=pytest.mark.slow),
        pytest.param(pairs_with_signs_inside(WITH_SIGNS), id="with signs", marks=pytest.mark.slow),
    ],
)
def test_one_normal_form_of_two_operators_is_one_value(
    database: Path, schema: DatabaseSchema, rows: Iterator[tuple[str, ...]]
) -> None:
    different, parsed = differences(rows, database, schema)
    assert not different
    assert parsed > 0.8


def test_one_normal_form_of_two_spellings_is_one_value(schema: DatabaseSchema) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE v (j)")
    connection.execute("""INSERT INTO v VALUES ('{"a": "x", "b": [1, 2]}')""")
    values: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    count = 0
    for text in chain.from_iterable(SPELLINGS):
        query = f"SELECT {text} FROM v"
        try:
            value = repr(connection.execute(query).fetchall())
        except sqlite3.OperationalError:
            continue  # a function that this build of SQLite lacks
        values[analyse(query, schema).normal_form][value].append(text)
        count += 1
    connection.close()
    assert count > 70
    assert not [dict(texts) for texts in values.values() if len(texts) > 1]


@pytest.mark.parametrize(
    ("text", "grouped", "other"),
    [
        ("2 * '1' || '2'", "2 * ('1' || '2')", "(2 * '1') || '2'"),
        ("a - -b % c", "a - ((-b) % c)", "(a - -b) % c"),
        ("a = b IS NULL", "(a = b) IS NULL", "a = (b IS NULL)"),
        ("a & b + c", "a & (b + c)", "(a & b) + c"),
        ("NOT a = b", "NOT (a = b)", "(NOT a) = b"),
        ("a -> '$.x'", "(a -> '$.x')", "a -> ' $.x'"),
    ],
)
def test_operators_group_as_sqlite_groups_them(
    schema: DatabaseSchema, text: str, grouped: str, other: str
) -> None:
    forms = [analyse(f"SELECT {t} FROM v", schema).normal_form for t in (text, grouped, other)]
    assert forms[0] == forms[1] != forms[2]


@pytest.mark.parametrize("text", ["a = b LIKE c", "a < b IN (1, 2)", "a BETWEEN 0 AND b > c"])
def test_what_sqlglot_would_group_otherwise_keeps_its_words(
    schema: DatabaseSchema, text: str
) -> None:
    facts = analyse(f"SELECT {text} FROM v", schema)
    assert not facts.parsed
    assert facts.normal_form == folded_text(f"SELECT {text} FROM v")
    assert analyse(f"SELECT ({text}) FROM v", schema).normal_form != facts.normal_form
