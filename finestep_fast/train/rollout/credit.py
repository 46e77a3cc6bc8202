"""Rollouts of one update: sampled, scored, credited.

From questions to `ScoredRollouts`, the plain data that learning, metrics and the log are made from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finestep_fast import CreditConfig, StepBatch, reference, step_advantage
from finestep_fast.env.config import EnvConfig
from finestep_fast.env.episode import Episode
from finestep_fast.env.question import Question
from finestep_fast.env.scoring import RolloutScore, score_episodes
from finestep_fast.rewards import RewardConfig
from finestep_fast.sql import Engine
from finestep_fast.train.rollout.sampler import Sampler
from finestep_fast.train.rollout.transcript import Transcript


@dataclass(frozen=True)
class ScoredRollouts:
    """Rollouts with what they earned.

    Attributes:
        transcripts: [R] all rollouts, those left out of the statistics too.
        scores: [R] outcomes and process rewards.
        group_of_rollout: [R] which question of the update a rollout belongs to.
        learnt: indices of the rollouts to learn from: counted, and with at least one step.
        step_return: per learnt rollout, the smoothed return of each of its steps.
        step_advantage: per learnt rollout, the advantage of each of its steps.
    """

    transcripts: list[Transcript]
    scores: list[RolloutScore]
    group_of_rollout: list[int]
    learnt: list[int]
    step_return: list[Tensor]
    step_advantage: list[Tensor]

    def records(self, update: int) -> list[dict[str, Any]]:
        """One JSON record per rollout: every step with its validators, return and advantage."""
        place_of_rollout = {rollout: place for place, rollout in enumerate(self.learnt)}
        return [
            self._record(rollout, update, place_of_rollout.get(rollout))
            for rollout in range(len(self.transcripts))
        ]

    def _record(self, rollout: int, update: int, place: int | None) -> dict[str, Any]:
        transcript, score = self.transcripts[rollout], self.scores[rollout]
        episode = transcript.episode
        steps: list[dict[str, Any]] = []
        for index, step in enumerate(episode.steps):
            record: dict[str, Any] = {"reply": step.text, "observation": step.observation}
            if index < len(score.process):
                record |= {"validators": score.validators[index], "process": score.process[index]}
            if place is not None:
                record["return"] = round(float(self.step_return[place][index]), 6)
                record["advantage"] = round(float(self.step_advantage[place][index]), 6)
            steps.append(record)
        return {
            "update": update,
            "question_id": episode.question.question_id,
            "db_id": episode.question.db_id,
            "question": episode.question.text,
            "gold_sql": episode.question.gold_sql,
            "final_sql": episode.final_sql,
            "status": episode.status.name,
            "answer_status": score.status,
            "counted": score.counted,
            "message": score.message or episode.message,
            "outcome": score.outcome,
            "tokens": len(transcript.token_ids),
            "policy_tokens": transcript.num_policy_tokens,
            "steps": steps,
        }


def sample_rollouts(
    questions: Sequence[Question],
    rollouts_per_prompt: int,
    *,
    sampler: Sampler,
    engine: Engine,
    env: EnvConfig,
    rewards: RewardConfig,
    seed: int,
    temperature: float | None = None,
    on_end: Callable[[int], None] = lambda count: None,
    on_tokens: Callable[[int], None] = lambda tokens: None,
) -> tuple[list[Transcript], list[RolloutScore], list[int]]:
    """Play and score `rollouts_per_prompt` episodes per question.

    Returns:
        [R] transcripts, [R] scores, [R] index of the question; its rollouts are neighbours.
    """
    group_of_rollout = [
        group for group in range(len(questions)) for _ in range(rollouts_per_prompt)
    ]
    episodes = [Episode(questions[group], engine, env) for group in group_of_rollout]
    transcripts = sampler.play(
        episodes, seed=seed, temperature=temperature, on_end=on_end, on_tokens=on_tokens
    )
    return transcripts, score_episodes(episodes, engine, rewards), group_of_rollout


def credited(
    transcripts: list[Transcript],
    scores: list[RolloutScore],
    group_of_rollout: list[int],
    credit: CreditConfig,
    *,
    drop_uniform_groups: bool,
    impl: str = "auto",
) -> ScoredRollouts:
    """Give every step of the rollouts that count its return and advantage."""
    learnt = [
        rollout
        for rollout, score in enumerate(scores)
        if score.counted and transcripts[rollout].step_spans
    ]
    if drop_uniform_groups:
        learnt = _in_mixed_groups(learnt, scores, group_of_rollout)
    if not learnt:
        return ScoredRollouts(transcripts, scores, group_of_rollout, [], [], [])
    # Credit needs steps, rollouts and groups, not tokens: the spans are those of a packed axis.
    counts = [len(transcripts[rollout].step_spans) for rollout in learnt]
    spans, first = [], 0
    for rollout in learnt:
        ids = transcripts[rollout]
        spans.append([(first + start, first + end) for start, end in ids.step_spans])
        first += len(ids.token_ids)
    groups = {
        group: place for place, group in enumerate(sorted({group_of_rollout[r] for r in learnt}))
    }
    batch = StepBatch.from_spans(
        spans, [groups[group_of_rollout[r]] for r in learnt], num_tokens=first
    )
    step_reward = torch.tensor([value for rollout in learnt for value in scores[rollout].process])
    outcome = torch.tensor([float(scores[rollout].outcome) for rollout in learnt])
    advantage = step_advantage(batch, step_reward, outcome, credit=credit, impl=impl)
    returns = reference.step_return(batch, step_reward, outcome, credit=credit)
    return ScoredRollouts(
        transcripts,
        scores,
        group_of_rollout,
        learnt,
        list(returns.split(counts)),
        list(advantage.split(counts)),
    )


def _in_mixed_groups(
    learnt: list[int], scores: list[RolloutScore], group_of_rollout: list[int]
) -> list[int]:
    outcomes: dict[int, set[float]] = {}
    for rollout in learnt:
        outcomes.setdefault(group_of_rollout[rollout], set()).add(scores[rollout].outcome)
    return [rollout for rollout in learnt if len(outcomes[group_of_rollout[rollout]]) > 1]
