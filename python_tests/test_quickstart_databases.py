"""The quickstart's databases: their styles, contents, keys and names."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from finestep_fast.train.quickstart import WorldConfig, write_world
from finestep_fast.train.quickstart.databases import STYLES
from finestep_fast.train.quickstart.kinds import KINDS
from finestep_fast.train.quickstart.questions import (
    WorldQuestion,
    draft_question,
)
from finestep_fast.train.quickstart.themes import THEMES
from support.quickstart_world import SMALL, World, small_database


def test_every_style_occurs_in_both_splits_and_a_database_has_one(world: World) -> None:
    for split in (world.train, world.dev):
        styles = Counter(world.style(db_id) for db_id in {q["db_id"] for q in split})
        assert styles.keys() == set(STYLES)
        assert max(styles.values()) == min(styles.values())


def test_every_database_has_nulls_repeated_rows_and_dates_kept_as_text(world: World) -> None:
    for db_id in world.connections:
        main, child = world.tables(db_id)
        null_types = []
        for table in (main, child):
            for name, declared in world.columns(db_id, table).items():
                (nulls,) = world.rows(db_id, f'SELECT COUNT(*) - COUNT("{name}") FROM {table}')[0]
                null_types += [(table, declared)] if nulls else []
        assert Counter(null_types) == {
            (main, "TEXT"): 1,
            (main, "INTEGER"): 1,
            (child, "INTEGER"): 1,
        }
        rows = world.rows(db_id, f"SELECT * FROM {child}")
        assert len(rows) == 70
        assert len(set(rows)) < 70
        assert all(re.fullmatch(r"20(19|2[0-4])-\d\d-\d\d", row[1]) for row in rows)
        assert list(world.columns(db_id, child).values())[1] == "TEXT"


def test_foreign_keys_are_declared_and_hold(world: World) -> None:
    for db_id in world.connections:
        main, child = world.tables(db_id)
        ((*_, parent, column, target, _u, _d, _m),) = world.rows(
            db_id, f"PRAGMA foreign_key_list({child})"
        )
        assert parent == main
        assert column == next(iter(world.columns(db_id, child)))
        assert target == next(iter(world.columns(db_id, main)))
        assert world.rows(db_id, "PRAGMA foreign_key_check") == []


def test_databases_of_a_theme_differ_in_tables_and_columns(world: World) -> None:
    shapes: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for db_id in world.connections:
        tables = world.tables(db_id)
        shapes[db_id.split("_")[0]].add((*tables, *world.columns(db_id, tables[0])))
    assert shapes.keys() == {theme.name for theme in THEMES}
    assert all(len(theme_shapes) > 5 for theme_shapes in shapes.values())


@pytest.mark.parametrize("theme_index", range(len(THEMES)))
def test_neither_question_nor_table_names_show_the_style(theme_index: int) -> None:
    databases = [small_database(theme_index, style, seed=11) for style in STYLES]
    assert len({(d.main_table, d.child_table) for d in databases}) == 1
    for kind in KINDS:
        texts, golds, results = set(), set(), set()
        for database in databases:
            with closing(database.connect()) as connection:
                draft = draft_question(kind, database, connection, Random(kind))
                assert draft is not None
                question = WorldQuestion("question", kind, draft, database)
                texts.add(draft.text)
                golds.add(question.gold_sql)
                results.add(frozenset(connection.execute(question.gold_sql).fetchall()))
        assert len(texts) == len(results) == 1
        assert len(golds) == len(STYLES)


def test_the_name_of_a_database_does_not_show_its_style(world: World, tmp_path: Path) -> None:
    write_world(tmp_path / "other", WorldConfig(**{**vars(SMALL), "seed": 4}))
    changed = 0
    for path in tmp_path.glob("other/databases/*/*.sqlite"):
        with closing(sqlite3.connect(path)) as connection:
            other = World(tmp_path, [], [], [], {path.stem: connection})
            changed += other.style(path.stem) != world.style(path.stem)
    assert changed > len(world.connections) / 2
