"""What the analysis says of real queries, beside what SQLite itself does with them."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path

import pytest

from finestep_fast.sql import Engine, Status, database_schema
from finestep_fast.sql.analysis import analyse
from support.json_lines import json_lines
from support.real_questions import COLLECTIONS, database_of, golds


def predictions(folder: Path) -> set[tuple[Path, str]]:
    """Return the different predicted queries for every fourth question, with their databases."""
    found = set()
    for entry in json_lines(folder / "predictions.jsonl")[::4]:
        database = database_of(folder, entry)
        found |= {(database, query) for queries in entry["preds"].values() for query in queries}
    return found


def names_read(database: Path, query: str) -> set[tuple[str, str]]:
    """Return the (table, column) pairs that SQLite says a query reads; no column for a count.

    Raises:
        sqlite3.Error: SQLite refuses the query.
    """
    read = set()

    def note(action: int, table: str | None, column: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_READ and table and not table.startswith("sqlite_"):
            read.add((table.lower(), (column or "").lower()))
        return sqlite3.SQLITE_OK

    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        connection.set_authorizer(note)
        connection.execute(f"EXPLAIN {query}").close()
    return read


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_a_gold_query_names_what_sqlite_reads(shared_data: Path, collection: str) -> None:
    for database, query in golds(shared_data / collection):
        schema = database_schema(database)
        facts, read = analyse(query, schema), names_read(database, query)
        real = {(table, column) for table, column in read if schema.table(table) is not None}
        assert {table for table, _ in real} == set(facts.tables), query
        columns = {f"{table}.{column}" for table, column in real if column}
        assert set(facts.columns) <= columns, query
        if "*" not in query.replace("(*)", ""):
            assert set(facts.columns) == columns, query


def test_names_that_do_not_exist_are_those_sqlite_misses(shared_data: Path) -> None:
    seen: Counter[tuple[str, bool]] = Counter()
    for database, query in predictions(shared_data / "spider_dev"):
        facts = analyse(query, database_schema(database))
        if not facts.parsed:
            continue
        try:
            names_read(database, query)
            kind = "runs"
        except sqlite3.Error as error:
            kind = "no such" if str(error).startswith("no such") else "other"
            if "no such function" in str(error):
                kind = "other"
        if kind == "runs" and '"' in query:  # an unknown name in double quotes runs as a string
            continue
        seen[kind, bool(facts.missing)] += 1
    assert seen["runs", False] > 1000
    assert seen["no such", True] > 100
    assert seen["runs", True] == 0
    assert seen["no such", False] == 0


def test_queries_of_one_normal_form_that_run_have_one_result(shared_data: Path) -> None:
    of_form: dict[tuple[Path, str], list[str]] = defaultdict(list)
    for database, query in sorted(predictions(shared_data / "spider_dev")):
        of_form[database, analyse(query, database_schema(database)).normal_form].append(query)
    repeated = {form: queries for form, queries in of_form.items() if len(queries) > 1}
    assert len(repeated) > 200
    jobs = [(database, query) for (database, _), queries in repeated.items() for query in queries]
    with Engine(timeout_s=20) as engine:
        results = iter(engine.run(jobs))
    for queries in repeated.values():
        ran = [result for _ in queries if (result := next(results)).status is Status.OK]
        bags = {frozenset(Counter(result.rows).items()) for result in ran}
        assert len(bags) <= 1, queries
