"""Scored rollouts: what counts, what each step is credited with, and what they are in numbers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest
import torch

from finestep_fast import CreditConfig, StepBatch, step_advantage
from finestep_fast.env.question import Question
from finestep_fast.env.scoring import RolloutScore
from finestep_fast.rewards import VALIDATORS
from finestep_fast.train.alarms import FarmingWatch
from finestep_fast.train.rollout.credit import credited
from finestep_fast.train.rollout.record import Rollout
from finestep_fast.train.summary import Tally, tally
from support.rollouts import learning_from, learnt, sampled
from support.tiny import Tiny


@pytest.fixture(scope="module")
def questions(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    """Return sound ones, one with no database, one with a gold query that fails."""
    good = list(tiny.data.train[:3])
    missing = tmp_path_factory.mktemp("none") / "none.sqlite"
    return [
        good[0],
        dataclasses.replace(good[1], question_id="missing", database=missing),
        dataclasses.replace(good[1], question_id="bad gold", gold_sql="SELECT a FROM nowhere"),
        *good[1:],
    ]


@pytest.fixture(scope="module")
def rollouts(tiny: Tiny, questions: list[Question]) -> list[Rollout]:
    return sampled(tiny, questions, 4)


def places(rollouts: list[Rollout]) -> list[int]:
    """Return the places of the rollouts that are learnt from."""
    return [place for place, rollout in enumerate(rollouts) if rollout.learnt]


def test_rollouts_of_a_question_are_neighbours(
    rollouts: list[Rollout], questions: list[Question]
) -> None:
    assert [rollout.group for rollout in rollouts] == [g for g in range(5) for _ in range(4)]
    for rollout in rollouts:
        assert rollout.question is questions[rollout.group]


def test_failures_outside_the_policy_are_recorded_and_left_out(rollouts: list[Rollout]) -> None:
    assert places(rollouts) == [*range(4), *range(12, 20)]
    for rollout in rollouts[4:12]:
        score = rollout.score
        assert not score.counted
        assert score.outcome == 0.0
    records = [rollout.record(7) for rollout in rollouts]
    assert len(records) == 20
    for record in records[4:8]:
        assert (record["question_id"], record["counted"]) == ("missing", False)
        assert record["status"] == "FAILED"
        assert record["answer_status"] == "failed"
        assert "none.sqlite" in record["message"]
        assert record["steps"] == []
    for record in records[8:12]:
        assert (record["question_id"], record["counted"]) == ("bad gold", False)
        assert record["answer_status"] == "gold_error"
        assert "nowhere" in record["message"]
        assert record["steps"]
        assert all("advantage" not in step for step in record["steps"])


def test_a_record_holds_every_step_with_validators_return_and_advantage(
    rollouts: list[Rollout],
) -> None:
    records = [rollout.record(7) for rollout in rollouts]
    for record, rollout in zip(records, rollouts, strict=True):
        if rollout.step_return is None or rollout.step_advantage is None:
            continue
        score, episode = rollout.score, rollout.transcript.episode
        assert record["update"] == 7
        assert record["outcome"] == score.outcome
        assert record["final_sql"] == episode.final_sql
        assert record["tokens"] == len(rollout.transcript.token_ids)
        assert len(record["steps"]) == len(episode.steps) == len(score.process)
        for index, step in enumerate(record["steps"]):
            assert step["reply"] == episode.steps[index].text
            assert step["observation"] == episode.steps[index].observation
            assert step["validators"].keys() == set(VALIDATORS)
            assert step["process"] == score.process[index]
            assert step["return"] == pytest.approx(float(rollout.step_return[index]), abs=1e-6)
            assert step["advantage"] == pytest.approx(
                float(rollout.step_advantage[index]), abs=1e-6
            )
    assert json.loads(json.dumps(records)) == records


PRESETS = ("finestep", "finestep_index", "finestep_decoupled", "grpo", "matchtir")


@pytest.mark.parametrize("preset", PRESETS)
def test_advantages_are_those_of_step_advantage_over_the_rollouts_that_count(
    rollouts: list[Rollout], preset: str
) -> None:
    credit = CreditConfig.preset(preset)
    made = learnt(credited(rollouts, credit, drop_uniform_groups=False))
    # By hand: a token per step is enough to say which step belongs to which rollout.
    counts = [len(rollout.score.process) for rollout in made]
    first, spans = 0, []
    for count in counts:
        spans.append([(first + 2 * n, first + 2 * n + 1) for n in range(count)])
        first += 2 * count
    batch = StepBatch.from_spans(spans, [0] * 4 + [1] * 4 + [2] * 4, num_tokens=first)
    expected = step_advantage(
        batch,
        torch.tensor([reward for rollout in made for reward in rollout.score.process]),
        torch.tensor([rollout.score.outcome for rollout in made]),
        credit=credit,
    )
    advantages = [rollout.step_advantage for rollout in made if rollout.step_advantage is not None]
    returns = [rollout.step_return for rollout in made if rollout.step_return is not None]
    torch.testing.assert_close(torch.cat(advantages), expected)
    assert [len(item) for item in advantages] == counts
    assert [len(item) for item in returns] == counts


def with_outcomes(rollouts: list[Rollout], right: Container[int]) -> list[Rollout]:
    """Return the rollouts with an outcome of 1 at these places and 0 elsewhere."""
    return [
        dataclasses.replace(
            rollout, score=dataclasses.replace(rollout.score, outcome=float(place in right))
        )
        for place, rollout in enumerate(rollouts)
    ]


def test_groups_of_one_outcome_are_dropped_on_request(rollouts: list[Rollout]) -> None:
    mixed = with_outcomes(rollouts, (1, 12, 13, 14, 15))
    uncredited = learning_from(mixed, [])
    made = credited(uncredited, CreditConfig(), drop_uniform_groups=True)
    assert places(made) == [0, 1, 2, 3]
    nothing = learning_from(with_outcomes(rollouts, ()), [])
    made = credited(nothing, CreditConfig(), drop_uniform_groups=True)
    assert len(made) == 20
    assert places(made) == []
    assert len([rollout.record(0) for rollout in made]) == 20


def test_no_rollouts_are_credited_to_nothing() -> None:
    assert credited([], CreditConfig(), drop_uniform_groups=False) == []


def score_of(
    outcome: float, *steps: tuple[float, float, float, float], counted: bool = True
) -> RolloutScore:
    """Return a score with these validators for each step (format, executes, novel, grounded)."""
    values = tuple(dict(zip(VALIDATORS, step, strict=True)) for step in steps)
    process = tuple(sum(step) / 4 for step in steps)
    return RolloutScore(outcome, process, values, counted, "ok", "")


def scored(rollouts: list[Rollout], scores: list[RolloutScore]) -> list[Rollout]:
    """Return the first rollouts with other scores."""
    return [
        dataclasses.replace(rollout, score=score)
        for rollout, score in zip(rollouts, scores, strict=False)
    ]


def test_a_tally_counts_rollouts_steps_and_calls(rollouts: list[Rollout]) -> None:
    good, bad, again = (1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 1.0)
    scores = [
        score_of(1.0, good, again, good),
        score_of(0.0, bad, good),
        score_of(0.0, good, good, counted=False),
    ]
    rates = tally(scored(rollouts, scores)).rates()
    transcripts = [rollout.transcript for rollout in rollouts[:2]]
    tokens = [len(item.token_ids) for item in transcripts]
    policy = [item.num_policy_tokens for item in transcripts]
    unsubmitted = sum(item.episode.final_sql is None for item in transcripts)
    assert rates == {
        "ex": 1 / 2,
        "process_reward": pytest.approx(((1 + 0.75 + 1) / 3 + 1 / 2) / 2),
        "calls": 4 / 2,
        "silent_rate": 1 / 2,
        "unsubmitted_rate": unsubmitted / 2,
        "redundant_rate": 1 / 4,
        "malformed_rate": 1 / 5,
        "policy_tokens": sum(policy) / 2,
        "tokens": sum(tokens) / 2,
        "rollouts": 2.0,
        "failed": 1.0,
    }


def test_tallies_of_parts_add_up_to_that_of_the_whole(rollouts: list[Rollout]) -> None:
    whole = tally(rollouts)
    parts = [tally(rollouts[:7]), tally(rollouts[7:])]
    added = Tally.of([a + b for a, b in zip(parts[0].values(), parts[1].values(), strict=True)])
    assert added.rates() == pytest.approx(whole.rates())
    assert whole.rates()["failed"] == 8.0


def test_a_rate_over_nothing_is_none_and_not_zero(rollouts: list[Rollout]) -> None:
    uncounted = [score_of(0.0, counted=False)]
    for rates in (tally([]).rates(), tally(scored(rollouts, uncounted)).rates()):
        counts = {key: rates.pop(key) for key in ("rollouts", "failed")}
        assert counts["rollouts"] == 0.0
        assert set(rates.values()) == {None}
    malformed = [score_of(0.0, (0.0, 0.0, 0.0, 0.0))]
    silent = tally(scored(rollouts, malformed)).rates()
    assert (silent["redundant_rate"], silent["malformed_rate"], silent["ex"]) == (None, 1.0, 0.0)


def metrics(calls: list[Any], ex: list[Any]) -> list[dict[str, Any]]:
    return [{"calls": c, "ex": e} for c, e in zip(calls, ex, strict=True)]


def alarms(records: list[dict[str, Any]]) -> list[str | None]:
    """Return what a watch says after each update."""
    watch = FarmingWatch()
    return [watch.add(record) for record in records]


def test_more_calls_without_better_answers_raise_the_alarm() -> None:
    records = metrics([2.0] * 10 + [2.5] * 10, [0.5] * 20)
    *before, alarm = alarms(records)
    assert set(before) == {None}
    assert alarm is not None
    assert "from 2.00 to 2.50 over 10 updates while EX went from 50.0% to 50.0%" in alarm


@pytest.mark.parametrize(
    ("calls", "ex"),
    [
        ([2.0] * 10 + [2.5] * 10, [0.5] * 10 + [0.6] * 10),
        ([2.0] * 10 + [2.4] * 10, [0.5] * 20),
        ([2.0] * 10 + [2.5] * 9, [0.5] * 19),
        ([2.0] * 10 + [2.5] * 11, [0.5] * 21),
        ([2.5] * 10, [0.5] * 10),
        ([], []),
        ([2.0] * 10 + [None] * 10, [0.5] * 10 + [None] * 10),
    ],
    ids=[
        "EX rose",
        "a fifth is no more than a fifth",
        "too early",
        "once a window",
        "short",
        "none",
        "nothing counted",
    ],
)
def test_other_courses_raise_no_alarm(calls: list[float], ex: list[float]) -> None:
    assert set(alarms(metrics(calls, ex))[-1:]) <= {None}


@pytest.mark.parametrize("done", range(1, 25))
def test_a_watch_that_begins_from_the_log_of_a_run_says_the_same(done: int) -> None:
    records = metrics([2.0] * 10 + [2.5] * 10 + [3.1] * 10, [0.5] * 30)
    watch = FarmingWatch(records[:done])
    assert [watch.add(record) for record in records[done:]] == alarms(records)[done:]


def test_the_message_of_a_missing_database_names_the_file(
    rollouts: list[Rollout], questions: list[Question]
) -> None:
    path: Path = questions[1].database
    assert str(path) in rollouts[4].record(0)["message"]
