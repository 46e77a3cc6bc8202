"""The quickstart's world holds what its docstrings promise, seen from the files it writes."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from finestep_fast.env.calls import ToolCall, render_call
from finestep_fast.env.config import EnvConfig
from finestep_fast.env.episode import Episode, EpisodeStatus
from finestep_fast.env.question import load_questions
from finestep_fast.env.scoring import score_episodes
from finestep_fast.env.tools import TOOL_SCHEMAS
from finestep_fast.errors import InputError
from finestep_fast.rewards import RewardConfig
from finestep_fast.sql import Engine
from finestep_fast.train.quickstart import DemonstrationConfig, WorldConfig, write_world
from finestep_fast.train.quickstart.databases import STYLES, Database, Style, make_database
from finestep_fast.train.quickstart.demonstrations import MOST_CALLS, QUALITIES
from finestep_fast.train.quickstart.kinds import KINDS
from finestep_fast.train.quickstart.questions import (
    MOST_RESULT_ROWS,
    WorldQuestion,
    draft_question,
    rows_of,
)
from finestep_fast.train.quickstart.themes import THEMES

SMALL = WorldConfig(
    seed=3,
    train_databases_per_theme=6,
    dev_databases_per_theme=3,
    train_questions=112,
    dev_questions=42,
    demonstrations=DemonstrationConfig(per_question=10),
)
STYLE_PATTERNS = {
    "plain": r"[a-z]+",
    "suffixed": r"[a-z]+_(id|name|val|day)",
    "mixed": r"[A-Z][a-z]+(Id|Name|Val|Day)",
    "quoted": r"[a-z]+ (id|name|val|day)",
}
Rows = list[tuple[Any, ...]]


@dataclass
class World:
    """What was written, read back; connections to the files are read-only."""

    root: Path
    train: list[dict[str, str]]
    dev: list[dict[str, str]]
    demonstrations: list[dict[str, Any]]
    connections: dict[str, sqlite3.Connection]

    def rows(self, db_id: str, sql: str) -> Rows:
        return self.connections[db_id].execute(sql).fetchall()

    def tables(self, db_id: str) -> list[str]:
        return [t for (t,) in self.rows(db_id, "SELECT name FROM sqlite_schema")]

    def columns(self, db_id: str, table: str) -> dict[str, str]:
        return {row[1]: row[2] for row in self.rows(db_id, f"PRAGMA table_info({table})")}

    def style(self, db_id: str) -> str:
        names = [n for t in self.tables(db_id) for n in self.columns(db_id, t)]
        styles = [s for s, p in STYLE_PATTERNS.items() if all(re.fullmatch(p, n) for n in names)]
        assert len(styles) == 1, f"{db_id} mixes styles: {names}"
        return styles[0]

    def gives_gold(self, question_id: str, sql: str) -> bool:
        (question,) = [q for q in self.train if q["question_id"] == question_id]
        gold = set(self.rows(question["db_id"], question["SQL"]))
        try:
            return set(self.rows(question["db_id"], sql)) == gold
        except sqlite3.Error:
            return False


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("quickstart") / "world"
    write_world(root, SMALL)
    lines = (root / "demonstrations.jsonl").read_text().splitlines()
    paths = sorted(root.glob("databases/*/*.sqlite"))
    connections = {p.stem: sqlite3.connect(f"file:{p}?mode=ro", uri=True) for p in paths}
    yield World(
        root=root,
        train=json.loads((root / "train.json").read_text()),
        dev=json.loads((root / "dev.json").read_text()),
        demonstrations=[json.loads(line) for line in lines],
        connections=connections,
    )
    for connection in connections.values():
        connection.close()


def small_database(theme_index: int, style: Style, seed: int) -> Database:
    return make_database(
        THEMES[theme_index],
        db_id="database",
        style=style,
        rng=Random(seed),
        num_main_rows=30,
        num_child_rows=70,
        null_share=0.1,
        duplicate_share=0.1,
    )


# Files.


def test_equal_settings_write_equal_bytes_and_another_seed_writes_others(
    world: World, tmp_path: Path
) -> None:
    def contents(root: Path) -> dict[str, bytes]:
        files = (p for p in root.rglob("*") if p.is_file())
        return {str(p.relative_to(root)): p.read_bytes() for p in files}

    write_world(tmp_path / "again", SMALL)
    write_world(tmp_path / "other", WorldConfig(**{**vars(SMALL), "seed": 4}))
    first, again, other = map(contents, (world.root, tmp_path / "again", tmp_path / "other"))
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_dev_databases_are_never_seen_in_training(world: World) -> None:
    train, dev = ({q["db_id"] for q in split} for split in (world.train, world.dev))
    assert len(train) == 24
    assert len(dev) == 12
    assert not train & dev
    assert {d["db_id"] for d in world.demonstrations} == train
    dumps = {db_id: "\n".join(c.iterdump()) for db_id, c in world.connections.items()}
    assert len(set(dumps.values())) == len(train) + len(dev)


def test_questions_have_birds_keys_unique_ids_and_no_twin_in_their_database(world: World) -> None:
    questions = world.train + world.dev
    keys = {"question_id", "db_id", "question", "evidence", "SQL", "difficulty", "kind"}
    assert all(q.keys() == keys for q in questions)
    assert len({q["question_id"] for q in questions}) == len(questions) == 154
    assert len({(q["db_id"], q["SQL"]) for q in questions}) == len(questions)
    assert {q["difficulty"] for q in questions} == {"simple", "moderate", "challenging"}


def test_write_world_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep me")
    with pytest.raises(InputError, match="new or empty folder"):
        write_world(tmp_path, SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    config = WorldConfig(
        train_databases_per_theme=1,
        dev_databases_per_theme=1,
        train_questions=1500,
        main_rows=20,
        child_rows=20,
    )
    with pytest.raises(InputError, match="holds no further question"):
        write_world(tmp_path / "world", config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"main_rows": 41}, r"main_rows is 41; it must be an integer >= 20 and <= 40"),
        ({"child_rows": 3}, "child_rows is 3; it must be an integer >= 20"),
        ({"train_questions": 0}, "train_questions is 0; it must be an integer >= 1"),
        ({"null_share": 0.9}, r"null_share is 0.9; it must be > 0 and <= 0.5"),
    ],
)
def test_world_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WorldConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run_share": 1.5}, r"run_share is 1.5; it must be >= 0 and <= 1"),
        ({"blind_share": 0.5}, "sum to 1.4; they must sum to 1"),
        ({"per_question": -1}, "per_question is -1; it must be an integer >= 0"),
    ],
)
def test_demonstration_settings_out_of_range_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        DemonstrationConfig(**changes)


# Databases.


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
def test_neither_question_nor_table_names_tell_the_style(theme_index: int) -> None:
    databases = [small_database(theme_index, style, seed=11) for style in STYLES]
    assert len({(d.main_table, d.child_table) for d in databases}) == 1
    for kind in KINDS:
        told, golds, results = set(), set(), set()
        for database in databases:
            with closing(database.connect()) as connection:
                draft = draft_question(kind, database, connection, Random(kind))
                assert draft is not None
                question = WorldQuestion("question", kind, draft, database)
                told.add(draft.text)
                golds.add(question.gold_sql)
                results.add(frozenset(connection.execute(question.gold_sql).fetchall()))
        assert len(told) == len(results) == 1
        assert len(golds) == len(STYLES)


def test_the_name_of_a_database_does_not_tell_its_style(world: World, tmp_path: Path) -> None:
    write_world(tmp_path / "other", WorldConfig(**{**vars(SMALL), "seed": 4}))
    changed = 0
    for path in tmp_path.glob("other/databases/*/*.sqlite"):
        with closing(sqlite3.connect(path)) as connection:
            other = World(tmp_path, [], [], [], {path.stem: connection})
            changed += other.style(path.stem) != world.style(path.stem)
    assert changed > len(world.connections) / 2


# Questions.


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


# Demonstrations.


def test_demonstrations_obey_the_tool_schema(world: World) -> None:
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOL_SCHEMAS}
    per_question = Counter(d["question_id"] for d in world.demonstrations)
    assert per_question == {q["question_id"]: 10 for q in world.train}
    for demonstration in world.demonstrations:
        calls = demonstration["calls"]
        assert 1 <= len(calls) <= MOST_CALLS
        assert [c["name"] == "submit" for c in calls] == [False] * (len(calls) - 1) + [True]
        for call in calls:
            assert call.keys() == {"name", "arguments"}
            assert call["arguments"].keys() == set(schemas[call["name"]]["required"])
            assert all(isinstance(v, str) and v for v in call["arguments"].values())
            if call["name"] == "describe_table":
                assert call["arguments"]["table"] in world.tables(demonstration["db_id"])


def test_qualities_occur_in_their_shares(world: World) -> None:
    counts = Counter(d["quality"] for d in world.demonstrations)
    assert counts.keys() == set(QUALITIES)
    total = len(world.demonstrations)
    shares = {quality: count / total for quality, count in counts.items()}
    settings = SMALL.demonstrations
    assert shares["blind"] == pytest.approx(settings.blind_share, abs=0.04)
    assert shares["perfect"] + shares["wrong"] == pytest.approx(settings.look_share, abs=0.05)
    assert shares["wasteful"] == pytest.approx(settings.wasteful_share, abs=0.05)
    assert shares["failing"] == pytest.approx(settings.failing_share, abs=0.05)
    calls_per_question = sum(len(d["calls"]) for d in world.demonstrations) / total
    assert 3.0 < calls_per_question < 3.8


def test_right_demonstrations_give_the_gold_result_and_the_others_do_not(world: World) -> None:
    for demonstration in world.demonstrations:
        sql = demonstration["calls"][-1]["arguments"]["sql"]
        right = world.gives_gold(demonstration["question_id"], sql)
        assert right == demonstration["right"], demonstration
        if demonstration["quality"] in ("perfect", "wrong"):
            assert right == (demonstration["quality"] == "perfect"), demonstration


def test_replayed_demonstrations_earn_what_their_labels_say(world: World) -> None:
    databases = world.root / "databases"
    questions = {q.question_id: q for q in load_questions(world.root / "train.json", databases)}
    chosen = world.demonstrations[::4]
    with Engine() as engine:
        episodes = []
        for demonstration in chosen:
            question = questions[demonstration["question_id"]]
            episode = Episode(question, engine, EnvConfig(schema_in_prompt="tables"))
            for call in demonstration["calls"]:
                episode.step(render_call(ToolCall(call["name"], call["arguments"])))
            assert episode.status is EpisodeStatus.SUBMITTED
            assert episode.num_malformed == 0
            episodes.append(episode)
        scores = score_episodes(episodes, engine, RewardConfig())
    flawless = defaultdict(list)
    for demonstration, score in zip(chosen, scores, strict=True):
        assert score.counted
        assert score.outcome == demonstration["right"]
        flawless[demonstration["quality"]].append(min(score.process) == 1.0)
    assert all(flawless["perfect"])
    assert not any(flawless["failing"])
    assert sum(flawless["wasteful"]) < 0.3 * len(flawless["wasteful"])


def test_hard_kinds_are_mistaken_more_often_than_easy_ones(world: World) -> None:
    kind_of_question = {q["question_id"]: q["kind"] for q in world.train}
    rights: dict[bool, list[bool]] = {True: [], False: []}
    for demonstration in world.demonstrations:
        if demonstration["quality"] != "blind":
            hard = KINDS[kind_of_question[demonstration["question_id"]]].hard
            rights[hard].append(demonstration["right"])
    assert 1 - sum(rights[True]) / len(rights[True]) == pytest.approx(0.65, abs=0.07)
    assert 1 - sum(rights[False]) / len(rights[False]) == pytest.approx(0.20, abs=0.07)


def test_perfect_demonstrations_look_and_never_repeat_themselves(world: World) -> None:
    for demonstration in world.demonstrations:
        names = [c["name"] for c in demonstration["calls"]]
        if demonstration["quality"] in ("perfect", "wrong"):
            assert names in (
                ["describe_table", "submit"],
                ["describe_table", "execute_sql", "submit"],
            )
        elif demonstration["quality"] == "blind":
            assert names == ["submit"]
        elif demonstration["quality"] == "wasteful":
            repeats = len(names) - len({json.dumps(c) for c in demonstration["calls"]})
            assert repeats or {"list_tables", "search_values"} & set(names), demonstration


def test_failing_demonstrations_meet_an_unknown_column_then_look_and_repair(world: World) -> None:
    for demonstration in world.demonstrations:
        if demonstration["quality"] != "failing":
            continue
        first, second, *rest = demonstration["calls"]
        with pytest.raises(sqlite3.OperationalError, match="no such column"):
            world.rows(demonstration["db_id"], first["arguments"]["sql"])
        assert second["name"] == "describe_table"
        assert {c["name"] for c in rest} <= {"execute_sql", "submit"}
        if demonstration["right"]:
            for call in rest:
                assert world.rows(demonstration["db_id"], call["arguments"]["sql"])


def test_a_wrong_quoted_name_would_not_fail_which_is_why_none_is_tried() -> None:
    database = small_database(0, "plain", seed=1)
    sql = database.spelled(
        f"SELECT COUNT(*) FROM {database.main_table} WHERE {{name}} = 'x'", "quoted"
    )
    with closing(database.connect()) as connection:
        assert connection.execute(sql).fetchall() == [(0,)]
