"""The quickstart's questions: their results, kinds, natural mistakes and wordings."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from finestep_fast.train.generated.rows import rows_of
from finestep_fast.train.quickstart.databases import STYLES
from finestep_fast.train.quickstart.kinds import KINDS
from finestep_fast.train.quickstart.questions import (
    MOST_RESULT_ROWS,
    WorldQuestion,
    draft_question,
)
from finestep_fast.train.quickstart.themes import THEMES
from support.quickstart_world import World, small_database


def test_every_gold_gives_a_short_result_without_nulls(world: World) -> None:
    for question in world.train + world.dev:
        rows = world.rows(question["db_id"], question["SQL"])
        assert 0 < len(rows) <= MOST_RESULT_ROWS, question
        assert rows != [(0,)], question
        assert all(cell is not None for row in rows for cell in row), question


def test_every_kind_occurs_evenly_in_both_splits(world: World) -> None:
    for split in (world.train, world.dev):
        counts = Counter(q["kind"] for q in split)
        assert counts.keys() == KINDS.keys()
        assert min(counts.values()) >= 0.5 * len(split) / len(KINDS)
        assert max(counts.values()) <= 2.0 * len(split) / len(KINDS)


def test_about_half_of_the_kinds_are_hard() -> None:
    assert 12 <= len(KINDS) <= 15
    assert sum(kind.hard for kind in KINDS.values()) == len(KINDS) // 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_natural_mistake_gives_another_result(kind: str) -> None:
    num_drafts = 0
    for seed in range(12):
        database = small_database(seed % 4, STYLES[seed // 2 % 4], seed)
        with closing(database.connect()) as connection:
            draft = draft_question(kind, database, connection, Random(seed))
            if draft is None:  # as when two groups are equally large in every column
                continue
            num_drafts += 1
            question = WorldQuestion("question", kind, draft, database)
            gold = set(connection.execute(question.gold_sql).fetchall())
            mistake = rows_of(connection, question.mistake_sql)
        assert question.gold_sql != question.mistake_sql
        assert mistake is None or set(mistake) != gold
        # One mistake is refused by SQLite rather than answered: AVG in a WHERE clause.
        assert (mistake is None) == (kind == "nested")
    assert num_drafts >= 9


def test_no_gold_depends_on_the_order_of_rows(world: World) -> None:
    for question in world.train + world.dev:
        db_id = question["db_id"]
        with closing(sqlite3.connect(":memory:")) as turned:
            turned.execute("ATTACH ? AS original", (str(_path(world, db_id)),))
            for table in world.tables(db_id):
                turned.execute(
                    f"CREATE TABLE {table} AS SELECT * FROM original.{table} ORDER BY rowid DESC"
                )
            rows = turned.execute(question["SQL"]).fetchall()
        gold = world.rows(db_id, question["SQL"])
        if question["kind"] == "avg":
            assert rows[0][0] == pytest.approx(gold[0][0])
        else:
            assert set(rows) == set(gold), question


def _path(world: World, db_id: str) -> Path:
    return world.root / "databases" / db_id / f"{db_id}.sqlite"


def test_names_are_quoted_exactly_where_the_style_needs_it(world: World) -> None:
    for question in world.train + world.dev:
        assert ('"' in question["SQL"]) == (world.style(question["db_id"]) == "quoted"), question


def test_questions_name_their_tables_and_quote_their_values(world: World) -> None:
    for question in world.train + world.dev:
        text, sql = question["question"], question["SQL"]
        tables = [t for t in world.tables(question["db_id"]) if re.search(rf"\b{t}\b", text)]
        assert tables, question
        if question["kind"] not in ("year", "after"):
            assert re.findall(r"'(\w+)'", text) == re.findall(r"'(\w+)'", sql), question
        assert len(text) < 90
        assert len(sql) < 150


def test_wordings_are_few(world: World) -> None:
    words = {w for db_id in world.connections for t in world.tables(db_id) for w in [t]}
    for theme in THEMES:
        words |= {*theme.text, *theme.number, theme.child_text[0], theme.child_number[0]}
        words |= {theme.child_date}
    wordings: dict[str, set[str]] = defaultdict(set)
    for question in world.train + world.dev:
        bare = re.sub(r"'\w+'|\d+", "V", question["question"])
        bare = re.sub(r"highest|lowest", "END", bare)
        wordings[question["kind"]].add(re.sub(rf"\b({'|'.join(sorted(words))})\b", "W", bare))
    assert {kind: len(w) for kind, w in wordings.items()} == dict.fromkeys(KINDS, 2)
