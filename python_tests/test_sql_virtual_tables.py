"""Virtual tables are read as Python's `sqlite3` reads them, and nothing is written through them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from finestep_fast.sql import Engine, Status, database_schema
from support.databases import written

pytestmark = pytest.mark.native

SCRIPT = """
    CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 'x'), (2, 'y');
    CREATE VIRTUAL TABLE old USING fts3(x);
    INSERT INTO old VALUES ('hello world'), ('good day');
    CREATE VIRTUAL TABLE f4 USING fts4(x, y);
    INSERT INTO f4 VALUES ('hello world', 'a'), ('good day', 'b');
    CREATE VIRTUAL TABLE f5 USING fts5(x, y);
    INSERT INTO f5 VALUES ('hello world', 'a'), ('good day', 'b');
    CREATE TABLE ext(id INTEGER PRIMARY KEY, body TEXT);
    INSERT INTO ext VALUES (1, 'external text'), (2, 'more text');
    CREATE VIRTUAL TABLE "f5 ""e" USING fts5(body, content='ext', content_rowid='id');
    INSERT INTO "f5 ""e"("f5 ""e") VALUES ('rebuild');
    CREATE VIRTUAL TABLE f5v USING fts5vocab(f5, 'row');
    CREATE VIRTUAL TABLE f4v USING fts4aux(f4);
    CREATE VIRTUAL TABLE tok USING fts3tokenize('simple');
    CREATE VIRTUAL TABLE rt USING rtree(id, x0, x1, +label);
    INSERT INTO rt VALUES (1, 0, 1, 'one'), (2, 5, 6, 'two');
    CREATE VIRTUAL TABLE ri USING rtree_i32(id, x0, x1); INSERT INTO ri VALUES (1, 0, 1);
    CREATE VIEW found AS SELECT x, snippet(f4) AS s FROM f4 WHERE f4 MATCH 'hello';
    CREATE VIEW marked AS SELECT highlight(f5, 0, '[', ']') AS h FROM f5 WHERE f5 MATCH 'hello';
    CREATE VIEW far AS SELECT label FROM rt WHERE x0 > 1;
    CREATE VIEW leaking AS SELECT fts3_tokenizer('simple') AS p;
    CREATE TABLE f4_notes(a); INSERT INTO f4_notes VALUES (1);
"""
READING = (
    "SELECT * FROM old WHERE old MATCH 'hello'",
    "SELECT snippet(old), offsets(old), matchinfo(old) FROM old WHERE x MATCH 'good'",
    "SELECT docid, * FROM f4",
    "SELECT t.a FROM t JOIN f4 ON f4.y = 'a' WHERE f4 MATCH 'hello OR good'",
    "SELECT * FROM f5 WHERE f5 MATCH 'hello'",
    "SELECT * FROM f5('good')",
    "SELECT x, bm25(f5), snippet(f5, 0, '<', '>', '..', 3) FROM f5 WHERE f5 MATCH 'day' ORDER BY 2",
    "SELECT x, rank FROM f5 WHERE f5 MATCH 'hello OR good' ORDER BY rank",
    "SELECT rowid FROM f5 WHERE x LIKE 'hell%'",
    'SELECT body FROM "f5 ""e" WHERE "f5 ""e" MATCH \'text\' ORDER BY rowid',
    "SELECT * FROM f5v",
    "SELECT * FROM f4v",
    "SELECT token FROM tok WHERE input = 'a b c'",
    "SELECT id, label FROM rt WHERE x0 > 1",
    "SELECT * FROM ri WHERE x0 < 4",
    "SELECT rtreedepth(data) FROM rt_node WHERE nodeno = 1",
    "SELECT count(*) FROM f5 a JOIN rt b ON a.rowid = b.id",
    "SELECT * FROM found",
    "SELECT * FROM marked",
    "SELECT * FROM far",
    "SELECT name, pageno FROM dbstat ORDER BY pageno LIMIT 3",
    "SELECT value FROM json_each('[1, 2]')",
    "SELECT fullkey FROM json_tree('[1]')",
    "SELECT count(*) FROM f5_data",
    "SELECT fts5_source_id()",
)
# Their inputs would do no harm even if they were let through.
WRITING = (
    "INSERT INTO f5(f5) VALUES ('optimize')",
    "INSERT INTO f4(f4) VALUES ('optimize')",
    "INSERT INTO f5(f5) VALUES ('integrity-check')",
    "INSERT INTO f5(f5, rank) VALUES ('merge', 1)",
    "INSERT INTO f5(f5, rank) VALUES ('rank', 'bm25(1.0)')",
    "WITH c AS (SELECT 'optimize') INSERT INTO f5(f5) SELECT * FROM c",
    "INSERT INTO f5 SELECT * FROM f5 RETURNING rowid",
    "INSERT INTO old VALUES ('more')",
    "REPLACE INTO f4 VALUES ('more', 'c')",
    "DELETE FROM f5",
    "UPDATE f4 SET x = 'more'",
    "INSERT INTO rt VALUES (3, 0, 1, 'three')",
    "DELETE FROM ri",
    "UPDATE f5_data SET block = block",
    "DELETE FROM f4_segments",
    "INSERT INTO f5_config VALUES ('pgsz', 1000)",
    "DELETE FROM rt_node",
    "UPDATE rt_rowid SET nodeno = 1",
    "INSERT INTO dbstat(name) VALUES ('x')",
    "UPDATE json_each SET value = 1",
    "DROP TABLE f5",
    "ALTER TABLE f5 RENAME TO f6",
    "CREATE VIRTUAL TABLE f6 USING fts5(x)",
    "CREATE VIRTUAL TABLE temp.f6 USING fts5vocab(main, f5, row)",
    "CREATE VIRTUAL TABLE temp.f6 USING rtree(id, x0, x1)",
    "CREATE TEMP TABLE f5 AS SELECT 1 AS x",
)
DENIED = (
    "SELECT optimize(f4) FROM f4",
    "SELECT fts3_tokenizer('simple')",
    "SELECT hex(fts3_tokenizer('simple', x'00'))",
    "SELECT * FROM leaking",
    "SELECT fts5(1)",
    "SELECT rtreecheck('rt')",
    "PRAGMA data_version",
    "PRAGMA main.data_version",
    "SELECT * FROM pragma_data_version",
    "SELECT * FROM pragma_page_size",
    "SELECT * FROM f5, pragma_page_size WHERE f5 MATCH 'hello'",
    "SELECT * FROM sqlite_stmt",
    "SELECT * FROM f5, SQLITE_STMT WHERE f5 MATCH 'hello'",
)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("virtual") / "v.sqlite", SCRIPT)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(workers=2) as engine:
        yield engine


@pytest.mark.parametrize("query", READING)
def test_virtual_tables_are_read_as_python_reads_them(
    engine: Engine, database: Path, query: str
) -> None:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    expected = tuple(connection.execute(query).fetchall())
    connection.close()
    assert expected
    # By a connection that is new, by one that knows the table, and by one that was just refused.
    first, again = engine.run([(database, query)] * 2)
    engine.run([(database, WRITING[0]), (database, DENIED[0])])
    (later,) = engine.run([(database, query)])
    for result in (first, again, later):
        assert (result.status, result.message) == (Status.OK, "")
        assert result.rows == expected


@pytest.mark.parametrize("attack", [*WRITING, *DENIED])
def test_nothing_is_written_through_virtual_tables(
    engine: Engine, database: Path, attack: str
) -> None:
    before = {path.name: path.read_bytes() for path in database.parent.iterdir()}
    # Before and after the tables are in use.
    results = engine.run([(database, attack), (database, READING[4]), (database, attack)])
    for result in results[::2]:
        assert not result.rows
        if result.status is Status.ERROR:  # refused by SQLite itself, before it asks the guard
            assert "may not be modified" in result.message or "unsafe use" in result.message
        else:
            assert result.status is Status.DENIED
            assert "not allowed" in result.message
    assert results[1].rows == (("hello world", "a"),)
    assert {path.name: path.read_bytes() for path in database.parent.iterdir()} == before


def test_functions_with_side_effects_are_refused_inside_views_too(
    engine: Engine, tmp_path: Path
) -> None:
    database = written(
        tmp_path / "g.sqlite",
        """
        CREATE TABLE g(a); INSERT INTO g VALUES ('simple');
        CREATE VIEW v AS SELECT fts3_tokenizer(a) FROM g;
        CREATE VIEW w AS SELECT load_extension(a) FROM g;
        """,
    )
    for name in ("v", "w"):
        (result,) = engine.run([(database, f"SELECT * FROM {name}")])
        assert result.status in (Status.DENIED, Status.ERROR)
        assert "not allowed" in result.message or "unsafe" in result.message


def test_a_table_with_a_missing_module_is_an_error_and_costs_no_other(
    engine: Engine, tmp_path: Path
) -> None:
    database = written(
        tmp_path / "m.sqlite",
        """
        CREATE TABLE t(a); INSERT INTO t VALUES (1);
        PRAGMA writable_schema = 1;
        INSERT INTO sqlite_master VALUES
            ('table', 'gone', 'gone', 0, 'CREATE VIRTUAL TABLE gone USING absent(x)');
        """,
    )
    gone, there = engine.run([(database, "SELECT * FROM gone"), (database, "SELECT a FROM t")])
    assert gone.status is Status.ERROR
    assert "no such module: absent" in gone.message
    assert there.rows == ((1,),)


def test_a_schema_leaves_out_what_virtual_tables_keep_their_data_in(database: Path) -> None:
    schema = database_schema(database)
    names = [table.name for table in schema.tables]
    tables = ["t", "old", "f4", "f5", "ext", 'f5 "e', "f5v", "f4v", "tok", "rt", "ri"]
    assert names == [*tables, "found", "marked", "far", "leaking", "f4_notes"]
    # A query may name them all the same, and the hidden columns.
    assert "block" in schema.columns_by_table["f5_data"]
    assert {"x", "f5", "rank"} <= schema.columns_by_table["f5"]
    assert [column.name for column in schema.tables[3].columns] == ["x", "y"]
