"""The tool that searches a database for a value: what it finds, where, and its bounds."""

from __future__ import annotations

from pathlib import Path

from finestep_fast.env.config import EnvConfig
from finestep_fast.env.episode import Episode
from finestep_fast.env.question import Question
from finestep_fast.sql import Engine, Status
from support.databases import written
from support.episodes import use


def test_a_search_is_bounded_in_values_and_time(tmp_path: Path, engine: Engine) -> None:
    rows = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < 50000) "
    columns = ", ".join(f"c{i} TEXT" for i in range(20))
    values = ", ".join(f"'value ' || (x + {i})" for i in range(20))
    script = f"CREATE TABLE t({columns}); INSERT INTO t {rows} SELECT {values} FROM c"
    question = Question("1", "?", "SELECT 1", "b", written(tmp_path / "big.sqlite", script))
    few = Episode(question, engine, EnvConfig(max_found_values=3))
    assert use(few, "search_values", text="value") == (
        "t.c0: 'value 1', 'value 2', 'value 3'\n(more may exist)"
    )
    # What is not there makes the search read everything; the deadline stops it.
    late = Episode(question, engine, EnvConfig(query_timeout_s=0.01))
    assert use(late, "search_values", text="nothing") == "error: stopped after 0.01 s"
    assert late.steps[0].status is Status.TIMEOUT


def test_what_a_search_looks_for_is_no_pattern(shop: Path, engine: Engine) -> None:
    question = Question("1", "?", "SELECT 1", "shop", shop)
    episode = Episode(question, engine, EnvConfig(max_steps=9))
    for text in ("%", "_", "\\", "Lon_on"):
        assert use(episode, "search_values", text=text) == "(no value found)"
    assert use(episode, "search_values", text="4", column="unit price") == (
        '"Order Item"."unit price": 4.0'
    )


def test_a_search_finds_text_whatever_its_column_is_declared_as(
    tmp_path: Path, engine: Engine
) -> None:
    types = ("BOOL", "BOOLEAN", "NUMERIC", "DECIMAL(10, 2)", "DATE", "", "VARCHAR(9)", "BLOB")
    columns = ", ".join(f"c{i} {declared}" for i, declared in enumerate(types))
    script = f"""
        CREATE TABLE t({columns}, n INTEGER, r REAL);
        INSERT INTO t VALUES ('Tea', 'Tea', 'Tea', 'Tea', 'Tea', 'Tea', 'Tea', 'Tea', 7, 7.5);
        INSERT INTO t VALUES (7, 7, 7, 7.5, 7, 7, 7, 7, 7, 7);
        CREATE TABLE b(x BLOB, y TEXT);
        INSERT INTO b VALUES (CAST('Black tea' AS BLOB), CAST('Green tea' AS BLOB));
    """
    question = Question("1", "?", "SELECT 1", "b", written(tmp_path / "t.sqlite", script))
    episode = Episode(question, engine, EnvConfig(max_found_values=99, max_steps=9))
    found = use(episode, "search_values", text="tea").splitlines()
    assert found == [
        *[f"t.c{i}: 'Tea'" for i in range(len(types))],
        f"b.x: x'{b'Black tea'.hex()}'",
        f"b.y: x'{b'Green tea'.hex()}'",
    ]
    # Numbers are found where a column is named, or where text is expected.
    numbers = use(episode, "search_values", text="7", table="t")
    assert numbers.splitlines() == ["t.c4: 7", "t.c5: 7", "t.c6: '7'", "t.c7: 7"]
    assert use(episode, "search_values", text="7.5", column="c3") == "t.c3: 7.5"


def test_a_search_goes_on_after_a_table_that_cannot_be_read(tmp_path: Path, engine: Engine) -> None:
    script = """
        CREATE TABLE a(x TEXT, y TEXT);
        CREATE VIEW broken AS SELECT x, y, gone FROM a;
        CREATE VIEW asking AS SELECT sqlite_compileoption_get(1) AS x, x AS y FROM a;
        CREATE VIRTUAL TABLE f4 USING fts4(x, y); INSERT INTO f4 VALUES ('green tea', 'a');
        CREATE VIRTUAL TABLE f5 USING fts5(x, y); INSERT INTO f5 VALUES ('black tea', 'a');
        CREATE TABLE z(x TEXT); INSERT INTO z VALUES ('tea');
        PRAGMA writable_schema = 1;
        INSERT INTO sqlite_master VALUES
            ('table', 'm', 'm', 0, 'CREATE VIRTUAL TABLE m USING absent(x)');
    """
    question = Question("1", "?", "SELECT 1", "b", written(tmp_path / "t.sqlite", script))
    episode = Episode(question, engine, EnvConfig(max_steps=9))
    *found, last = use(episode, "search_values", text="tea").splitlines()
    assert found == ["f4.x: 'green tea'", "f5.x: 'black tea'", "z.x: 'tea'"]
    assert last.startswith("(asking cannot be searched: ")
    assert episode.steps[0].status is Status.OK
    # Where nothing could be searched, that is all there is to say.
    assert use(episode, "search_values", text="tea", table="asking").startswith("error: ")
    assert episode.steps[1].status is not Status.OK
    assert "f4(x, y)\nf5(x, y)\nz(x TEXT)" in episode.messages()[1]["content"]
    assert use(episode, "search_values", text="coffee").startswith("(no value found)\n(asking ")
