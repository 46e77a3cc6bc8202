"""What a query says: its normal form and the names in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st
from sqlglot import exp

from finestep_fast.sql import DatabaseSchema, database_schema
from finestep_fast.sql.analysis import analyse, outermost_order
from finestep_fast.sql.parsing import DIALECT, UnreadableError, text_of
from finestep_fast.sql.resolution import Reading
from support.databases import written

BASE = "SELECT name FROM customer WHERE city = 'London'"
JOINED = (
    'SELECT c.name, count(*) FROM customer AS c JOIN "Order Item" AS o ON o.customer = c.id '
    "GROUP BY c.name ORDER BY count(*) DESC LIMIT 3"
)


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> DatabaseSchema:
    return database_schema(written(tmp_path_factory.mktemp("analysis") / "shop.sqlite"))


@pytest.mark.parametrize(
    ("query", "variants"),
    [
        (
            BASE,
            [
                "select  name\nfrom customer\twhere city='London' ;",
                "SELECT NAME FROM Customer WHERE CITY = 'London'",
                "SELECT name -- who\nFROM /* all */ customer WHERE city = 'London'",
                "SELECT \"name\" FROM `customer` WHERE [city] = 'London'",
                "SELECT customer.name FROM customer WHERE customer.city = 'London'",
                "SELECT T1.name AS who FROM customer AS T1 WHERE T1.city = 'London'",
                "SELECT x.name n FROM main.customer x WHERE (x.city = 'London')",
                "SELECT name FROM customer WHERE ((city) = ('London'))",
            ],
        ),
        (
            JOINED,
            [
                JOINED.replace("c.", "zz.").replace("AS c ", "zz ").replace("JOIN", "INNER JOIN"),
                JOINED.replace("count(*) FROM", "COUNT(*) AS n FROM").replace(
                    "BY count(*)", "BY n"
                ),
                JOINED.lower().replace("order item", "ORDER ITEM"),
            ],
        ),
        (
            "WITH a AS (SELECT city AS x FROM customer) SELECT x FROM a WHERE x <> 'Paris'",
            [
                "with B as (select c.city y from customer c) select y z from B where y != 'Paris'",
                "WITH a(q) AS (SELECT city FROM customer) SELECT q FROM a WHERE q <> 'Paris'",
            ],
        ),
        (
            "SELECT d.m FROM (SELECT max(id) AS m FROM customer) AS d",
            ["SELECT e.k FROM (SELECT max(id) AS k FROM customer) e"],
        ),
        (
            "SELECT name FROM customer c WHERE EXISTS "
            '(SELECT 1 FROM "Order Item" o WHERE o.customer = c.id)',
            [
                "SELECT name FROM customer WHERE EXISTS "
                '(SELECT 1 FROM "Order Item" WHERE "Order Item".customer = customer.id)'
            ],
        ),
        (
            "SELECT city FROM customer UNION SELECT name FROM customer ORDER BY city",
            ["SELECT a.city FROM customer a UNION SELECT b.name FROM customer b ORDER BY city ASC"],
        ),
    ],
)
def test_space_case_quotes_and_aliases_do_not_change_the_normal_form(
    schema: DatabaseSchema, query: str, variants: list[str]
) -> None:
    facts = analyse(query, schema)
    assert facts.parsed
    assert facts.missing == ()
    for variant in variants:
        assert analyse(variant, schema).normal_form == facts.normal_form, variant


@pytest.mark.parametrize(
    "other",
    [
        "SELECT name FROM customer WHERE city = 'london'",
        "SELECT name FROM customer WHERE city = ' London'",
        "SELECT name FROM customer WHERE city <> 'London'",
        "SELECT DISTINCT name FROM customer WHERE city = 'London'",
        "SELECT id FROM customer WHERE city = 'London'",
        "SELECT name FROM customer WHERE name = 'London'",
        "SELECT name FROM londoner WHERE city = 'London'",
        "SELECT name FROM customer WHERE city = 'London' LIMIT 1",
        "SELECT name FROM customer WHERE city = 'London' ORDER BY name",
        "SELECT name, name FROM customer WHERE city = 'London'",
        "SELECT name FROM customer WHERE city = 'London' AND id = 1",
        "SELECT a.name FROM customer a, customer b WHERE a.city = 'London'",
    ],
)
def test_queries_that_ask_for_something_else_have_another_normal_form(
    schema: DatabaseSchema, other: str
) -> None:
    assert analyse(other, schema).normal_form != analyse(BASE, schema).normal_form


def test_swapped_aliases_differ(schema: DatabaseSchema) -> None:
    one = "SELECT a.name FROM customer a JOIN customer b ON a.id < b.id"
    two = "SELECT b.name FROM customer a JOIN customer b ON a.id < b.id"
    three = "SELECT b.name FROM customer b JOIN customer a ON b.id < a.id"
    forms = [analyse(query, schema).normal_form for query in (one, two, three)]
    assert forms[0] == forms[2] != forms[1]


def test_names_are_resolved_through_aliases_subqueries_and_expressions(
    schema: DatabaseSchema,
) -> None:
    query = """
        WITH big AS (SELECT customer AS buyer, "unit price" AS price FROM "Order Item")
        SELECT c.name, (SELECT max(b.price) FROM big b WHERE b.buyer = c.id) AS top
        FROM customer c LEFT JOIN londoner USING (name)
        WHERE c.city IN (SELECT city FROM customer) AND rowid > 0 ORDER BY top
    """
    facts = analyse(query, schema)
    assert facts.missing == ()
    assert set(facts.tables) == {"order item", "customer", "londoner"}
    assert set(facts.columns) == {
        "order item.customer",
        "order item.unit price",
        "customer.name",
        "customer.id",
        "customer.city",
        "customer.rowid",
    }
    assert facts.existing == facts.named


@pytest.mark.parametrize(
    ("query", "missing"),
    [
        ("SELECT nam FROM customer", {"nam"}),
        ("SELECT c.nam FROM customer c", {"customer.nam"}),
        ("SELECT x.name FROM customer c", {"x.name"}),
        ("SELECT name FROM customers", {"customers", "name"}),
        ("SELECT name FROM other.customer", {"other.customer", "name"}),
        ("SELECT n FROM (SELECT name FROM customer)", {"n"}),
        ("SELECT d.id FROM (SELECT name FROM customer) d", {"d.id"}),
        ("SELECT name FROM customer ORDER BY age", {"age"}),
        ("SELECT name FROM customer JOIN londoner USING (id2)", {"id2"}),
        ("SELECT d.* FROM customer", {"d.*"}),
        # SQLite takes a quoted name it does not know for a string; as a column it was invented.
        ('SELECT "nam" FROM customer', {"nam"}),
        ('SELECT name FROM customer WHERE "ctiy" = 1', {"ctiy"}),
        # ... but where a value is expected it is a string that was meant.
        ('SELECT name FROM customer WHERE city = "London"', set()),
        ('SELECT name FROM customer WHERE city IN ("London", "Paris")', set()),
        ('SELECT name FROM customer WHERE city LIKE "%on" OR city BETWEEN "a" AND "b"', set()),
        ('SELECT iif(id > 1, "yes", "no"), name || " " FROM customer', set()),
        ("SELECT name AS n FROM customer WHERE n > 'B' GROUP BY n HAVING n < 'X'", set()),
        ("SELECT value, x FROM json_each('[1]')", set()),
        ("SELECT name FROM sqlite_master", set()),
        ("SELECT * FROM (SELECT * FROM customer) WHERE city = 'x'", set()),
        ("WITH c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c", set()),
        ("WITH a AS (SELECT k FROM b), b AS (SELECT id k FROM customer) SELECT k FROM a", set()),
        ("WITH a AS (SELECT id FROM customer) SELECT name FROM a", {"name"}),
        ("SELECT name FROM customer LIMIT customer.id", {"customer.id"}),
        ("SELECT name FROM customer LIMIT (SELECT id FROM customer) OFFSET 1", set()),
        # GROUP BY and ORDER BY cannot reach the query around, WHERE can.
        ("SELECT city FROM customer WHERE 1 IN (SELECT 1 FROM londoner ORDER BY id)", {"id"}),
        ("SELECT city FROM customer WHERE 1 IN (SELECT 1 FROM londoner GROUP BY id)", {"id"}),
        ("SELECT city FROM customer WHERE 1 IN (SELECT 1 FROM londoner WHERE id)", set()),
        ("SELECT 1", set()),
    ],
)
def test_invented_names_are_found(schema: DatabaseSchema, query: str, missing: set[str]) -> None:
    facts = analyse(query, schema)
    assert facts.parsed
    assert set(facts.missing) == missing
    assert set(facts.existing) == set(facts.named) - missing


@pytest.mark.parametrize(
    ("query", "normal_form"),
    [
        ("", ""),
        ("  -- nothing", ""),
        (";;", ""),
        ("SELEC  Name, 'A b' FROM", "selec name , 'A b' from"),
        ("SELECT 1; SELECT 2", "select 1 ; select 2"),
        ("DELETE FROM t -- all", "delete from t"),
        ("SELECT 'open", "select 'open"),
    ],
)
def test_what_is_no_single_query_still_has_a_normal_form(
    schema: DatabaseSchema, query: str, normal_form: str
) -> None:
    facts = analyse(query, schema)
    assert not facts.parsed
    assert facts.normal_form == normal_form
    assert facts.named == ()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT json_extract(name, '$[#-1]') FROM customer",
        "SELECT name ->> '$[#-1]', name -> '$.a[#-2].b' FROM customer",
        "SELECT name -> 'a b', name ->> 1, json_extract(name, '$.\"x y\"', 'lax $') FROM customer",
        "EXPLAIN SELECT 1",
        "VACUUM INTO 'x'",
        "ALTER TABLE customer SET x",
    ],
)
def test_what_sqlglot_has_to_say_reaches_no_log(
    schema: DatabaseSchema,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    sql: str,
) -> None:
    facts = analyse.__wrapped__(sql, schema)
    outermost_order.__wrapped__(sql)
    assert facts.parsed == (" FROM " in sql)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    # Other callers of sqlglot still get its warnings.
    sqlglot.parse("ALTER TABLE customer SET x", dialect="sqlite")
    assert "unsupported syntax" in caplog.text


def test_an_ambiguous_name_is_not_taken_for_either_column(schema: DatabaseSchema) -> None:
    joined = "FROM customer a JOIN customer b ON a.id < b.id"
    meant = analyse(f"SELECT a.name {joined}", schema)
    ambiguous = analyse(f"SELECT name {joined}", schema)
    assert ambiguous.normal_form != meant.normal_form
    assert ambiguous.missing == ()
    same = "SELECT city FROM customer, customer"
    assert (
        analyse(same, schema).normal_form
        != analyse("SELECT a.city FROM customer a, customer b", schema).normal_form
    )
    # NATURAL and USING make one column of two.
    for join in ("NATURAL JOIN londoner b", "JOIN londoner b USING (name)"):
        merged = analyse(f"SELECT name FROM customer a {join} ORDER BY name", schema)
        assert (
            merged.normal_form
            == analyse(f"SELECT a.name FROM customer a {join} ORDER BY a.name", schema).normal_form
        )


def test_an_alias_goes_before_a_column_in_order_by_alone(schema: DatabaseSchema) -> None:
    def form(clause: str) -> str:
        return analyse(f"SELECT max(id) AS name FROM customer {clause}", schema).normal_form

    assert form("ORDER BY name DESC") == form("ORDER BY max(id) DESC")
    assert form("ORDER BY name DESC") != form("ORDER BY customer.name DESC")
    assert form("ORDER BY name") != form("ORDER BY name DESC")
    assert form("GROUP BY name") == form("GROUP BY customer.name")
    assert form("ORDER BY name || 'x'") == form("ORDER BY customer.name || 'x'")


SCRAPS = """
    SELECT FROM WHERE ( ) , * . ; ' " [ ` customer name c AS JOIN ON = < IN NOT NULL WITH UNION
    ORDER BY GROUP HAVING LIMIT CASE WHEN THEN END 1 'x' count( -- /* ?1 :a @b x'0 EXISTS OVER
    VALUES RECURSIVE CAST INT || -> LATERAL DISTINCT ALL USING {} $$ é
"""
WORDS = st.sampled_from([*SCRAPS.split(), "\0"])


@given(st.one_of(st.lists(WORDS, max_size=25).map(" ".join), st.text(max_size=40)))
def test_any_text_has_facts(schema: DatabaseSchema, text: str) -> None:
    facts = analyse(text, schema)
    assert set(facts.missing) <= set(facts.named)
    assert isinstance(outermost_order(text), bool)


MUTATED = (
    BASE,
    JOINED,
    "WITH a AS (SELECT city AS x FROM customer) SELECT x FROM a WHERE x <> 'Paris' ORDER BY 1",
    "SELECT city FROM customer NATURAL JOIN londoner UNION SELECT 'é' ORDER BY city LIMIT 1, 2",
    "SELECT CASE WHEN id IN (1, 2) THEN rank() OVER (PARTITION BY city ORDER BY id) END FROM "
    "(SELECT * FROM customer AS c WHERE c.name LIKE '%a' ESCAPE '\\') AS d JOIN json_each(d.x)",
)


@given(st.sampled_from(MUTATED), st.lists(st.tuples(WORDS, st.floats(0, 1), st.integers(0, 9))))
def test_any_mutated_query_has_facts(
    schema: DatabaseSchema, query: str, changes: list[tuple[str, float, int]]
) -> None:
    for scrap, place, length in changes[:4]:
        start = int(place * len(query))
        query = f"{query[:start]} {scrap} {query[start + length :]}"
    facts = analyse(query, schema)
    assert set(facts.missing) <= set(facts.named)
    assert isinstance(outermost_order(query), bool)


@pytest.mark.parametrize(
    "unit", ["(", "(SELECT ", "abs(", "NOT ", "CASE WHEN ", "- ", "1+", "a AND "]
)
def test_deep_and_long_queries_have_facts_soon(schema: DatabaseSchema, unit: str) -> None:
    for count in (30, 300, 3000):
        closing = ")" * (count if unit.endswith("(") or "(SELECT" in unit else 0)
        analyse("SELECT " + unit * count + "1" + closing, schema)


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT a FROM t ORDER  BY a", True),
        ("SELECT a FROM t order\nby a LIMIT 1", True),
        ("SELECT a FROM t UNION SELECT b FROM t ORDER BY 1", True),
        ("WITH x AS (SELECT 1 ORDER BY 1) SELECT * FROM x", False),
        ("SELECT * FROM (SELECT a FROM t ORDER BY a)", False),
        ("SELECT 'order by' FROM t", False),
        ("SELECT row_number() OVER (ORDER BY a) FROM t", False),
        ("SELECT a FROM t -- ORDER BY a", False),
        ("SELECT ( FROM t ORDER BY a", False),  # never parses: judged by its tokens
        ("SELECT a FRO t ORDER BY (a", True),
    ],
)
def test_only_the_outermost_order_counts(query: str, ordered: bool) -> None:
    assert outermost_order(query) is ordered


@pytest.mark.parametrize("bug", [AttributeError, LookupError, TypeError, ValueError])
def test_a_bug_of_our_own_in_reading_a_tree_is_raised(
    schema: DatabaseSchema, monkeypatch: pytest.MonkeyPatch, bug: type[Exception]
) -> None:
    def broken(*arguments: object) -> None:
        raise bug("planted")

    monkeypatch.setattr(Reading, "_select", broken)
    with pytest.raises(bug, match="planted"):
        analyse(f"SELECT '{bug.__name__}'", schema)


@pytest.mark.parametrize("bug", [AttributeError, LookupError, TypeError, ValueError])
def test_whatever_sqlglot_raises_is_a_query_without_a_parse(
    schema: DatabaseSchema, monkeypatch: pytest.MonkeyPatch, bug: type[Exception]
) -> None:
    def broken(*arguments: object) -> None:
        raise bug("sqlglot's")

    monkeypatch.setattr(DIALECT, "parse", broken)
    assert not analyse(f"SELECT  'not {bug.__name__}'", schema).parsed
    assert outermost_order(f"SELECT 'not {bug.__name__}' ORDER BY 1")
    monkeypatch.undo()
    monkeypatch.setattr(exp.Table, "sql", broken)
    with pytest.raises(UnreadableError, match="Table"):
        text_of(exp.Table())


def test_facts_do_not_depend_on_the_hash_seed(
    schema: DatabaseSchema, tmp_path_factory: pytest.TempPathFactory
) -> None:
    query = (
        "SELECT name FROM customer UNION SELECT city FROM customer "
        "ORDER BY nam LIMIT (SELECT min(a) FROM x) OFFSET (SELECT min(b) FROM y)"
    )
    program = (
        "import dataclasses, json, sys; from finestep_fast.sql import database_schema; "
        "from finestep_fast.sql.analysis import analyse; "
        "print(json.dumps(dataclasses.astuple(analyse(sys.argv[2], database_schema(sys.argv[1])))))"
    )
    database: Path = written(tmp_path_factory.mktemp("seeds") / "shop.sqlite")
    facts = {
        subprocess.run(
            [sys.executable, "-c", program, database, query],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in "02"
    }
    assert len(facts) == 1
    assert json.loads(facts.pop())[-1] is True
