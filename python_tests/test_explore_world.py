"""The explore world: its files, its questions, and what an agent must look at to answer them."""

from __future__ import annotations

import dataclasses
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from finestep_fast.config_files import config_path
from finestep_fast.env.calls import ToolCall, render_call
from finestep_fast.env.episode import Episode, EpisodeStatus
from finestep_fast.env.question import Question, load_questions
from finestep_fast.env.scoring import score_episodes
from finestep_fast.errors import InputError
from finestep_fast.rewards import RewardConfig
from finestep_fast.sql import Engine
from finestep_fast.train.__main__ import main
from finestep_fast.train.config import load_config
from finestep_fast.train.explore import ExploreConfig, ExploreDemonstrationConfig, write_world
from finestep_fast.train.explore.agent import Agent, needed_looks
from finestep_fast.train.explore.databases import make_database
from finestep_fast.train.explore.demonstrations import MOST_CALLS, QUALITIES
from finestep_fast.train.explore.questions import (
    KINDS,
    MOST_RESULT_ROWS,
    Draft,
    WorldQuestion,
    draft_question,
)
from finestep_fast.train.explore.words import THEMES
from finestep_fast.train.generated.calls import Call, submit
from finestep_fast.train.generated.model import SmallModelConfig, small_model, small_tokenizer
from support.json_lines import json_lines

SMALL = ExploreConfig(
    seed=3,
    train_databases_per_theme=4,
    dev_databases_per_theme=2,
    test_databases_per_theme=2,
    train_questions=70,
    dev_questions=28,
    test_questions=28,
    demonstrations=ExploreDemonstrationConfig(careful_per_question=2, hasty_per_question=10),
)
SPLITS = ("train", "dev", "test")
ENV = load_config(Path("explore"), []).env


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small world once."""
    written = tmp_path_factory.mktemp("explore") / "world"
    write_world(written, SMALL)
    return written


@pytest.fixture(scope="module")
def drafted() -> Iterator[list[tuple[WorldQuestion, sqlite3.Connection]]]:
    """Draft three questions of every kind, each on a database of its own."""
    with ExitStack() as stack:
        questions = []
        for number, kind in enumerate(list(KINDS) * 3):
            database = make_database(
                THEMES[number % len(THEMES)],
                db_id=f"db_{number}",
                rng=Random(number),
                entity_rows=14,
                bridge_rows=60,
            )
            connection = stack.enter_context(closing(database.connect()))
            draft = draft_question(kind, database, connection, Random(number))
            assert draft is not None
            questions.append((WorldQuestion(f"q{number}", draft), connection))
        yield questions


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def questions_of(root: Path, split: str) -> list[dict[str, str]]:
    read: list[dict[str, str]] = json.loads((root / f"{split}.json").read_text(encoding="utf-8"))
    return read


def rows(root: Path, db_id: str, sql: str) -> list[tuple[Any, ...]]:
    path = root / "databases" / db_id / f"{db_id}.sqlite"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def played(question: Question, calls: list[Call] | tuple[Call, ...], engine: Engine) -> Episode:
    """Make calls in a real episode with the settings of the shipped config."""
    episode = Episode(question, engine, ENV)
    for call in calls:
        episode.step(render_call(ToolCall(call.name, dict(call.arguments))))
    return episode


def loaded(world: WorldQuestion, connection: sqlite3.Connection, folder: Path) -> Question:
    """Write one question's database and return the question as an episode takes it."""
    path = folder / f"{world.question_id}.sqlite"
    path.write_bytes(connection.serialize())
    return Question(
        question_id=world.question_id,
        text=world.draft.text,
        gold_sql=world.gold_sql,
        db_id=world.draft.database.db_id,
        database=path,
    )


def test_equal_settings_write_equal_bytes_and_another_seed_writes_others(
    root: Path, tmp_path: Path
) -> None:
    write_world(tmp_path / "again", SMALL)
    write_world(tmp_path / "other", dataclasses.replace(SMALL, seed=4))
    first, again, other = map(contents, (root, tmp_path / "again", tmp_path / "other"))
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_no_database_is_in_two_splits_and_only_training_has_demonstrations(root: Path) -> None:
    ids = [{q["db_id"] for q in questions_of(root, split)} for split in SPLITS]
    assert [len(split) for split in ids] == [12, 6, 6]
    assert len(set.union(*ids)) == 24
    assert {d["db_id"] for d in json_lines(root / "demonstrations.jsonl")} == ids[0]


def test_every_gold_gives_a_short_settled_result_on_a_database_of_six_to_ten_tables(
    root: Path,
) -> None:
    for split in SPLITS:
        questions = questions_of(root, split)
        assert {q["kind"] for q in questions} == set(KINDS)
        assert len({(q["db_id"], q["SQL"]) for q in questions}) == len(questions)
        for question in questions:
            found = rows(root, question["db_id"], question["SQL"])
            assert 1 <= len(found) <= MOST_RESULT_ROWS, question
            assert all(cell not in (None, 0) for row in found for cell in row), question
            tables = rows(root, question["db_id"], "SELECT name FROM sqlite_schema")
            assert 6 <= len(tables) <= 10


def test_the_answer_of_a_stale_copy_or_of_any_other_natural_mistake_is_wrong(
    drafted: list[tuple[WorldQuestion, sqlite3.Connection]], tmp_path: Path
) -> None:
    with Engine() as engine:
        for world, connection in drafted:
            question, draft = loaded(world, connection, tmp_path), world.draft
            kind = KINDS[draft.kind]
            wrong = draft.mistakes()
            assert len(wrong) >= 2 + len(kind.searched) + kind.flagged
            stale = draft.database.stale[draft.side].table
            assert any(re.search(rf"\b{stale}\b", sql) for sql in wrong)
            pairs = [(question.database, sql, world.gold_sql) for sql in wrong]
            for sql, match in zip(wrong, engine.match(pairs, semantics="bird"), strict=True):
                assert not match.equal, (world.gold_sql, sql)


@pytest.mark.parametrize("seed", range(4))
def test_a_perfect_agent_is_right_within_the_steps_and_needs_every_call(
    seed: int, drafted: list[tuple[WorldQuestion, sqlite3.Connection]], tmp_path: Path
) -> None:
    with Engine() as engine:
        episodes = []
        for world, connection in drafted:
            question = loaded(world, connection, tmp_path)
            calls = perfect_calls(world, Random(seed))
            assert 3 <= len(calls) <= 8 < ENV.max_steps
            episode = played(question, calls, engine)
            assert episode.status is EpisodeStatus.SUBMITTED
            episodes.append(episode)
            copies = {names.table for names in world.draft.database.stale.values()}
            described = {call.arguments.get("table") for call in calls}
            for place, call in enumerate(calls[:-1]):
                # A copy is described to tell it from the live table, and may show its names.
                if copies & described:
                    continue
                left = [*calls[:place], *calls[place + 1 :]]
                assert unseen(world.draft, played(question, left, engine)), (calls, call)
            assert not unseen(world.draft, episode)
        scores = score_episodes(episodes, engine, RewardConfig())
        assert [score.outcome for score in scores] == [1.0] * len(scores)


def perfect_calls(world: WorldQuestion, rng: Random) -> tuple[Call, ...]:
    """Return the calls of an agent that misses nothing and wastes nothing."""
    agent = Agent(world.draft, rng)
    looks = [call for name in needed_looks(world.draft.kind) for call in agent.take(name)]
    return (*looks, submit(agent.sql()))


def unseen(draft: Draft, episode: Episode) -> set[str]:
    """Return the names and values of the gold that neither prompt nor observations show."""
    shown = "\n".join(step.observation for step in episode.steps)
    shown += "\n".join(message["content"] for message in episode.messages())
    names = draft.names()
    needed = {names[word] for word in re.findall(r"\{(\w+)\}", KINDS[draft.kind].gold)}
    return {name for name in needed if not re.search(rf"\b{name}\b", shown)}


def test_a_question_says_neither_a_name_of_its_table_nor_a_stored_value(root: Path) -> None:
    for split in SPLITS:
        for question in load_questions(root / f"{split}.json", root / "databases"):
            (literal, *_) = re.findall(r"'(\w+ \d)'", question.gold_sql)
            assert literal not in question.text
            assert literal.split()[0] in question.text


def test_careful_demonstrations_come_first_and_miss_nothing(root: Path) -> None:
    demonstrations = json_lines(root / "demonstrations.jsonl")
    careful = demonstrations[: 2 * len(questions_of(root, "train"))]
    assert all(d["stage"] == 0 and d["right"] for d in careful)
    assert {d["quality"] for d in careful} == {"perfect", "wasteful"}
    assert all(d["stage"] == 1 for d in demonstrations[len(careful) :])
    gold = {q["question_id"]: q["SQL"] for q in questions_of(root, "train")}
    assert Counter(d["question_id"] for d in careful) == dict.fromkeys(gold, 2)
    for demonstration in careful:
        assert demonstration["calls"][-1]["arguments"]["sql"] == gold[demonstration["question_id"]]
        assert len(demonstration["calls"]) <= MOST_CALLS
        needed = [c for c in demonstration["calls"] if c["name"] != "submit"]
        if demonstration["quality"] == "perfect":
            assert len({json.dumps(call) for call in needed}) == len(needed)


def test_hasty_demonstrations_are_of_every_quality_and_labelled_by_their_result(root: Path) -> None:
    demonstrations = [d for d in json_lines(root / "demonstrations.jsonl") if d["stage"]]
    gold = {q["question_id"]: q for q in questions_of(root, "train")}
    assert Counter(d["question_id"] for d in demonstrations) == dict.fromkeys(gold, 10)
    assert {d["quality"] for d in demonstrations} == set(QUALITIES)
    for quality in set(QUALITIES) - {"perfect", "wrong", "blind"}:
        assert {d["right"] for d in demonstrations if d["quality"] == quality} == {True, False}
    for demonstration in demonstrations:
        names = [call["name"] for call in demonstration["calls"]]
        assert len(names) <= MOST_CALLS
        assert names.count("submit") == 1
        assert names[-1] == "submit"
        question = gold[demonstration["question_id"]]
        try:
            found = rows(root, question["db_id"], demonstration["calls"][-1]["arguments"]["sql"])
        except sqlite3.Error:
            found = None
        expected = rows(root, question["db_id"], question["SQL"])
        assert demonstration["right"] == (found is not None and set(found) == set(expected))
    right = [d["right"] for d in demonstrations]
    assert 0.35 < sum(right) / len(right) < 0.52
    perfect = [d["quality"] == "perfect" for d in demonstrations]
    assert 0.03 < sum(perfect) / len(perfect) < 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entity_rows": 17}, r"entity_rows is 17; it must be an integer >= 8 and <= 16"),
        ({"bridge_rows": 3}, "bridge_rows is 3; it must be an integer >= 20"),
        ({"test_questions": 0}, "test_questions is 0; it must be an integer >= 1"),
    ],
)
def test_world_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_shares_of_ways_must_sum_to_one() -> None:
    with pytest.raises(InputError, match=r"direct_share, .* sum to 1\.1; they must sum to 1"):
        ExploreDemonstrationConfig(direct_share=ExploreDemonstrationConfig().direct_share + 0.1)


def test_too_few_rows_for_the_questions_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, train_databases_per_theme=1, train_questions=3000)
    with pytest.raises(InputError, match="holds no further question"):
        write_world(tmp_path / "world", config)
    assert list(tmp_path.iterdir()) == []


def test_split_names_are_one_token_wherever_they_stand(root: Path) -> None:
    config = SmallModelConfig(split_names=True)
    texts = [text for q in questions_of(root, "train") for text in (q["question"], q["SQL"])]
    tokenizer = small_tokenizer(texts, config)
    database_words = {name for q in questions_of(root, "train") for name in q["SQL"].split()}
    names = sorted(word for word in database_words if re.fullmatch("[a-z]+", word))
    assert len(names) > 25
    for name in names:
        (token,) = tokenizer.encode(name, add_special_tokens=False)
        for text in (f"{name}\n", f"x {name} TEXT", f"SELECT {name} FROM {name}", f"{name}_id"):
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert token in ids, text
            assert tokenizer.decode(ids) == text
    text = 'é {"a": 1}  \n\n <|im_start|>'
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_name_with_a_bar_is_two_tokens_the_second_with_the_bar(root: Path) -> None:
    texts = [f"{word}.place\n{word}_ref INTEGER" for word in ("users", "works")] * 9
    tokenizer = small_tokenizer(texts, SmallModelConfig(split_names=True))
    ids = tokenizer.encode("users.place works_ref", add_special_tokens=False)
    pieces = [tokenizer.decode([token]) for token in ids]
    assert pieces == ["users", ".", "place", " ", "works", "_ref"]


@pytest.mark.parametrize("spread", [0.02, 0.1])
def test_weights_start_with_the_spread_that_is_asked_for(spread: float) -> None:
    config = SmallModelConfig(initializer_range=spread)
    model = small_model(small_tokenizer(["SELECT name"], config), config, seed=0)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            assert weight.std().item() == pytest.approx(spread, rel=0.05), name


def test_the_shipped_config_trains_from_nothing_to_a_model(tmp_path: Path) -> None:
    words = [
        str(config_path("explore")),
        f"output={tmp_path / 'run'}",
        "precision=float32",
        "small_model.vocab_size=640",
        "small_model.layers=2",
        "small_model.hidden_size=64",
        "small_model.mlp_size=128",
        "data.explore.train_databases_per_theme=1",
        "data.explore.dev_databases_per_theme=1",
        "data.explore.test_databases_per_theme=1",
        "data.explore.train_questions=21",
        "data.explore.dev_questions=7",
        "data.explore.test_questions=7",
        "warm_start.tokens=40000",
        "warm_start.optim.learning_rate=1e-2",
        "rollout.prompts=2",
        "rollout.rollouts_per_prompt=4",
        "update.updates=2",
    ]
    assert main(words) == 0
    assert len(json_lines(tmp_path / "run" / "metrics.jsonl")) == 2
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    rollouts = json_lines(tmp_path / "run" / "rollouts.jsonl")
    assert any("list_tables" in json.dumps(rollout) for rollout in rollouts)
