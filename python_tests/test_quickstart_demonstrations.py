"""The quickstart's demonstrations: their calls, shares and rewards, replayed."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing

import pytest

from finestep_fast.env.calls import ToolCall, render_call
from finestep_fast.env.config import EnvConfig
from finestep_fast.env.episode import Episode, EpisodeStatus
from finestep_fast.env.question import load_questions
from finestep_fast.env.scoring import score_episodes
from finestep_fast.env.tools import TOOL_SCHEMAS
from finestep_fast.rewards import RewardConfig
from finestep_fast.sql import Engine
from finestep_fast.train.quickstart.demonstrations import MOST_CALLS, QUALITIES
from finestep_fast.train.quickstart.kinds import KINDS
from support.quickstart_world import SMALL, World, small_database


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
