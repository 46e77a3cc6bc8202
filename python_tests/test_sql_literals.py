"""Which constants of a query count as its literals."""

from __future__ import annotations

import pytest

from finestep_fast.sql.analysis import analyse
from finestep_fast.sql.schema import DatabaseSchema, database_schema
from support.databases import written


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> DatabaseSchema:
    return database_schema(written(tmp_path_factory.mktemp("literals") / "shop.sqlite"))


@pytest.mark.parametrize(
    ("condition", "literals"),
    [
        ("name = 'Ada'", ("Ada",)),
        ('name = "Ada"', ("Ada",)),  # no column, so a string to SQLite
        ('name = "city"', ()),  # a column
        ("'Ada' <> name AND NOT id > 3", ("Ada", 3)),
        ("id > -3 AND id < -(2.5)", (-3, -2.5)),
        ("id = 0x10 OR id = 1e3 OR id = 2 OR id = 2.0", (16, 1000.0, 2)),
        ("city IN ('a', 'b') OR id NOT IN (4, 5)", ("a", "b", 4, 5)),
        ("id BETWEEN 6 AND 7", (6, 7)),
        ("name LIKE '%a!_%' ESCAPE '!'", ("%a!_%",)),
        ("name GLOB 'A*' AND name IS NOT 'x' AND city IS NULL", ("A*", "x")),
        ("lower(name) = lower('Ada')", ("Ada",)),
        ("id = CAST('7' AS INTEGER)", ("7",)),
        ("strftime('%Y', joined) = '2020'", ("2020",)),  # the format is no literal
        ("substr(name, 1, 4) = 'Adam' AND id * 2 > 9", ("Adam", 9)),
        ("CASE city WHEN 'L' THEN 'yes' ELSE 'no' END = 'yes'", ("L", "yes")),
        ("id IN (SELECT id FROM customer WHERE city = 'P' LIMIT 8)", ("P",)),
        ("name = ''", ("",)),
    ],
)
def test_constants_that_something_is_held_against_are_literals(
    schema: DatabaseSchema, condition: str, literals: tuple[str | int | float, ...]
) -> None:
    facts = analyse(f"SELECT name FROM customer WHERE {condition}", schema)
    assert facts.parsed
    assert facts.literals == literals
    assert [type(value) for value in facts.literals] == [type(value) for value in literals]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT name FROM customer ORDER BY 1 LIMIT 5 OFFSET 2",
        "SELECT count(*), city FROM customer GROUP BY 2",
        "SELECT 100.0 * sum(CASE WHEN city IS NULL THEN 1 ELSE 0 END) / count(*) FROM customer",
        "SELECT 'label', id + 1, round(id, 2), coalesce(city, 'none') FROM customer",
        "SELECT id FROM customer UNION SELECT 7 ORDER BY 1 LIMIT 3",
    ],
)
def test_constants_that_are_shown_counted_or_computed_with_are_none(
    schema: DatabaseSchema, sql: str
) -> None:
    facts = analyse(sql, schema)
    assert facts.parsed
    assert facts.literals == ()


def test_a_query_that_cannot_be_parsed_has_no_literals(schema: DatabaseSchema) -> None:
    assert analyse("SELECT name FROM customer WHERE = 'Ada'", schema).literals == ()
