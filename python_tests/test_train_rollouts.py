"""Scored rollouts: what counts, what each step is credited with, and what they are in numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finestep_fast import CreditConfig, StepBatch, step_advantage
from finestep_fast.env.question import Question
from finestep_fast.env.scoring import RolloutScore
from finestep_fast.rewards import VALIDATORS
from finestep_fast.train.rollouts import ScoredRollouts, credited
from finestep_fast.train.summary import Tally, farming_alarm, tally
from support.rollouts import sampled
from support.tiny import Tiny


@pytest.fixture(scope="module")
def questions(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    """Sound ones, one whose database is missing, one whose gold query fails."""
    good = list(tiny.data.train[:3])
    missing = tmp_path_factory.mktemp("none") / "none.sqlite"
    return [
        good[0],
        dataclasses.replace(good[1], question_id="missing", database=missing),
        dataclasses.replace(good[1], question_id="bad gold", gold_sql="SELECT a FROM nowhere"),
        *good[1:],
    ]


@pytest.fixture(scope="module")
def rollouts(tiny: Tiny, questions: list[Question]) -> ScoredRollouts:
    return sampled(tiny, questions, 4)


def test_rollouts_of_a_question_are_neighbours(
    rollouts: ScoredRollouts, questions: list[Question]
) -> None:
    assert rollouts.group_of_rollout == [group for group in range(5) for _ in range(4)]
    for rollout, group in enumerate(rollouts.group_of_rollout):
        assert rollouts.transcripts[rollout].episode.question is questions[group]


def test_failures_outside_the_policy_are_recorded_and_left_out(rollouts: ScoredRollouts) -> None:
    assert rollouts.learnt == [*range(4), *range(12, 20)]
    for rollout in range(4, 12):
        score = rollouts.scores[rollout]
        assert not score.counted
        assert score.outcome == 0.0
    records = rollouts.records(7)
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


def test_a_record_tells_every_step_with_validators_return_and_advantage(
    rollouts: ScoredRollouts,
) -> None:
    records = rollouts.records(7)
    for place, rollout in enumerate(rollouts.learnt):
        record, score = records[rollout], rollouts.scores[rollout]
        episode = rollouts.transcripts[rollout].episode
        assert record["update"] == 7
        assert record["outcome"] == score.outcome
        assert record["final_sql"] == episode.final_sql
        assert record["tokens"] == len(rollouts.transcripts[rollout].token_ids)
        assert len(record["steps"]) == len(episode.steps) == len(score.process)
        for index, step in enumerate(record["steps"]):
            assert step["reply"] == episode.steps[index].text
            assert step["observation"] == episode.steps[index].observation
            assert step["validators"].keys() == set(VALIDATORS)
            assert step["process"] == score.process[index]
            assert step["return"] == pytest.approx(
                float(rollouts.step_return[place][index]), abs=1e-6
            )
            assert step["advantage"] == pytest.approx(
                float(rollouts.step_advantage[place][index]), abs=1e-6
            )
    assert json.loads(json.dumps(records)) == records


PRESETS = ("finestep", "finestep_index", "finestep_decoupled", "grpo", "matchtir")


@pytest.mark.parametrize("preset", PRESETS)
def test_advantages_are_those_of_step_advantage_over_the_rollouts_that_count(
    rollouts: ScoredRollouts, preset: str
) -> None:
    credit = CreditConfig.preset(preset)
    made = credited(
        rollouts.transcripts,
        rollouts.scores,
        rollouts.group_of_rollout,
        credit,
        drop_uniform_groups=False,
    )
    # By hand: a token per step is enough to say who is whose.
    counts = [len(rollouts.scores[r].process) for r in made.learnt]
    first, spans = 0, []
    for count in counts:
        spans.append([(first + 2 * n, first + 2 * n + 1) for n in range(count)])
        first += 2 * count
    batch = StepBatch.from_spans(spans, [0] * 4 + [1] * 4 + [2] * 4, num_tokens=first)
    expected = step_advantage(
        batch,
        torch.tensor([p for r in made.learnt for p in rollouts.scores[r].process]),
        torch.tensor([rollouts.scores[r].outcome for r in made.learnt]),
        credit=credit,
    )
    torch.testing.assert_close(torch.cat(made.step_advantage), expected)
    assert [len(item) for item in made.step_advantage] == counts
    assert [len(item) for item in made.step_return] == counts


def test_groups_of_one_outcome_are_dropped_on_request(rollouts: ScoredRollouts) -> None:
    scores = [
        dataclasses.replace(score, outcome=float(rollout in (1, 12, 13, 14, 15)))
        for rollout, score in enumerate(rollouts.scores)
    ]
    made = credited(
        rollouts.transcripts,
        scores,
        rollouts.group_of_rollout,
        CreditConfig(),
        drop_uniform_groups=True,
    )
    assert made.learnt == [0, 1, 2, 3]
    nothing = [dataclasses.replace(score, outcome=0.0) for score in rollouts.scores]
    made = credited(
        rollouts.transcripts,
        nothing,
        rollouts.group_of_rollout,
        CreditConfig(),
        drop_uniform_groups=True,
    )
    assert (made.learnt, made.step_advantage) == ([], [])
    assert len(made.records(0)) == 20


def test_no_rollouts_are_credited_to_nothing() -> None:
    made = credited([], [], [], CreditConfig(), drop_uniform_groups=False)
    assert (made.learnt, made.step_return, made.records(0)) == ([], [], [])


def score_of(
    outcome: float, *steps: tuple[float, float, float, float], counted: bool = True
) -> RolloutScore:
    """A score whose steps have the validators (format, executes, novel, grounded)."""
    values = tuple(dict(zip(VALIDATORS, step, strict=True)) for step in steps)
    process = tuple(sum(step) / 4 for step in steps)
    return RolloutScore(outcome, process, values, counted, "ok", "")


def test_a_tally_counts_rollouts_steps_and_calls(rollouts: ScoredRollouts) -> None:
    good, bad, again = (1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 1.0)
    scores = [
        score_of(1.0, good, again, good),
        score_of(0.0, bad, good),
        score_of(0.0, good, good, counted=False),
    ]
    transcripts = rollouts.transcripts[:3]
    rates = tally(transcripts, scores).rates()
    tokens = [len(item.token_ids) for item in transcripts[:2]]
    policy = [item.num_policy_tokens for item in transcripts[:2]]
    assert rates == {
        "ex": 1 / 2,
        "process_reward": pytest.approx(((1 + 0.75 + 1) / 3 + 1 / 2) / 2),
        "calls": 4 / 2,
        "silent_rate": 1 / 2,
        "redundant_rate": 1 / 4,
        "malformed_rate": 1 / 5,
        "policy_tokens": sum(policy) / 2,
        "tokens": sum(tokens) / 2,
        "rollouts": 2.0,
        "failed": 1.0,
    }


def test_tallies_of_parts_add_up_to_that_of_the_whole(rollouts: ScoredRollouts) -> None:
    whole = tally(rollouts.transcripts, rollouts.scores)
    parts = [
        tally(rollouts.transcripts[part], rollouts.scores[part])
        for part in (slice(0, 7), slice(7, None))
    ]
    added = Tally.of([a + b for a, b in zip(parts[0].values(), parts[1].values(), strict=True)])
    assert added.rates() == pytest.approx(whole.rates())
    assert whole.rates()["failed"] == 8.0


def test_a_rate_over_nothing_is_none_and_not_zero(rollouts: ScoredRollouts) -> None:
    uncounted = [score_of(0.0, counted=False)]
    for rates in (tally([], []).rates(), tally(rollouts.transcripts[:1], uncounted).rates()):
        counts = {key: rates.pop(key) for key in ("rollouts", "failed")}
        assert counts["rollouts"] == 0.0
        assert set(rates.values()) == {None}
    silent = tally(rollouts.transcripts[:1], [score_of(0.0, (0.0, 0.0, 0.0, 0.0))]).rates()
    assert (silent["redundant_rate"], silent["malformed_rate"], silent["ex"]) == (None, 1.0, 0.0)


def metrics(calls: list[Any], ex: list[Any]) -> list[dict[str, Any]]:
    return [{"calls": c, "ex": e} for c, e in zip(calls, ex, strict=True)]


def test_more_calls_without_better_answers_raise_the_alarm() -> None:
    records = metrics([2.0] * 10 + [2.5] * 10, [0.5] * 20)
    alarm = farming_alarm(records)
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
    assert farming_alarm(metrics(calls, ex)) is None


def test_the_message_of_a_missing_database_names_the_file(
    rollouts: ScoredRollouts, questions: list[Question]
) -> None:
    path: Path = questions[1].database
    assert str(path) in rollouts.records(0)[4]["message"]
