"""What a database holds, as the schema describes it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finestep_fast.errors import InputError
from finestep_fast.sql import database_schema
from finestep_fast.sql.names import quoted_name, quoted_text
from finestep_fast.sql.schema import ForeignKey
from support.databases import written
from support.programs import printed

NAMES = st.one_of(
    st.text(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8
    ),
    st.sampled_from(["order", "Group", "a b", 'say "x"', "[x]", "1st", "ä", "x$", "left", "rowid"]),
)


def test_tables_and_views_come_in_the_order_of_their_creation(shop: Path) -> None:
    schema = database_schema(shop)
    assert [(t.name, t.is_view) for t in schema.tables] == [
        ("customer", False),
        ("Order Item", False),
        ("londoner", True),
    ]
    assert schema.table("ORDER item") is schema.tables[1]
    assert schema.table("orders") is None


def test_columns_carry_types_keys_and_targets(shop: Path) -> None:
    table = database_schema(shop).tables[1]
    assert [c.name for c in table.columns] == ["Order", "customer", "unit price", "note"]
    assert [c.type for c in table.columns] == ["INTEGER", "INTEGER", "REAL", "BLOB"]
    assert [c.in_primary_key for c in table.columns] == [True, False, False, False]
    # The target names no column: it is the primary key of the other table.
    assert table.columns[1].foreign_key == ForeignKey("customer", "id")
    assert [c.holds_text for c in table.columns] == [False, False, False, True]


def test_rows_are_counted_and_values_sampled_on_demand(shop: Path) -> None:
    schema = database_schema(shop)
    assert schema.row_count("Order Item") == 4
    assert schema.row_count("nothing") is None
    assert schema.sample_values("customer", "city") == ("London", "Paris")
    assert schema.sample_values("Order Item", "unit price", limit=1) == (2.5,)
    assert schema.sample_values("customer", "nothing") in ((), ("nothing",))


def test_counts_and_values_are_asked_for_once(shop: Path) -> None:
    schema = database_schema(shop)
    asked: list[Callable[[], object]] = [
        lambda: schema.row_count("customer"),
        lambda: schema.sample_values("customer", "city"),
        lambda: schema.sample_values("customer", "city", limit=1),
    ]
    before = [ask() for ask in asked]
    assert before == [4, ("London", "Paris"), ("London",)]
    shop.unlink()
    assert [ask() for ask in asked] == before
    assert schema.row_count("Order Item") is None


def test_a_schema_is_read_once_per_state_of_the_file(shop: Path, tmp_path: Path) -> None:
    first = database_schema(shop)
    assert database_schema(str(shop)) is first
    os.replace(written(tmp_path / "other.sqlite", "CREATE TABLE other(a)"), shop)
    assert [t.name for t in database_schema(shop).tables] == ["other"]


def test_odd_schemas_are_read(tmp_path: Path) -> None:
    script = """
        CREATE TABLE "a""b" ("x y" , "select" TEXT, CAST(3) , z AS ("x y" + 1));
        CREATE TABLE child (p REFERENCES nowhere, q REFERENCES "A""B"("X Y"));
        CREATE VIEW broken AS SELECT * FROM gone;
        CREATE VIRTUAL TABLE words USING fts5(body);
    """.replace("CAST(3) ,", "")
    schema = database_schema(written(tmp_path / "odd.sqlite", script))
    table, child, broken = schema.tables[:3]
    assert [c.name for c in table.columns] == ["x y", "select", "z"]
    assert [c.type for c in table.columns][:2] == ["", "TEXT"]
    assert child.columns[0].foreign_key == ForeignKey("nowhere", "")
    assert child.columns[1].foreign_key == ForeignKey('a"b', "x y")
    assert broken.columns == ()
    words = schema.table("words")
    assert words is not None
    assert [c.name for c in words.columns] == ["body"]


def test_an_empty_database_has_no_tables(tmp_path: Path) -> None:
    (tmp_path / "empty.sqlite").touch()
    assert database_schema(tmp_path / "empty.sqlite").tables == ()


def test_a_database_that_cannot_be_read_is_an_input_error(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.sqlite"
    garbage.write_text("no database" * 100)
    for path, reason in (
        (tmp_path / "none.sqlite", "No such file"),
        (garbage, "not a database"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            database_schema(path)
        assert repr(str(path)) in str(caught.value)


@given(NAMES, NAMES)
def test_a_name_written_by_us_is_read_back_by_sqlite(table: str, column: str) -> None:
    connection = sqlite3.connect(":memory:")
    try:
        if table.lower().startswith("sqlite_"):
            return
        connection.execute(f"CREATE TABLE {quoted_name(table)} ({quoted_name(column)})")
        connection.execute(f"INSERT INTO {quoted_name(table)} VALUES ({quoted_text(column)})")
        rows = connection.execute(
            f"SELECT t0.{quoted_name(column)} FROM {quoted_name(table)} t0 "
            f"WHERE {quoted_name(column)} IS NOT NULL ORDER BY {quoted_name(column)}"
        ).fetchall()
        assert rows == [(column,)]
    finally:
        connection.close()


def test_names_are_quoted_only_where_they_must_be() -> None:
    assert [
        quoted_name(name) for name in ("city", "Größe", "_x1", "city name", "order", "1st")
    ] == [
        "city",
        "Größe",
        "_x1",
        '"city name"',
        '"order"',
        '"1st"',
    ]


def test_importing_sql_does_not_import_sqlglot() -> None:
    code = "import sys, finestep_fast.sql, finestep_fast.rewards, finestep_fast.env.config; "
    code += "assert not {'sqlglot', 'pydantic', 'transformers'} & sys.modules.keys()"
    printed("-c", code)
