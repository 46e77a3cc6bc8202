"""A rollout of an update: its tokens, its rewards, and the credit of each step.

Everything that learns, measures or logs takes these records; a place is an index in their list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from finestep_fast.env.question import Question
from finestep_fast.env.scoring import RolloutScore
from finestep_fast.train.rollout.transcript import Transcript


@dataclass(frozen=True)
class Rollout:
    """One whole episode of a question."""

    transcript: Transcript
    """Token ids, and the episode that they were played in."""
    score: RolloutScore
    """Outcome and process rewards."""
    group: int
    """Which question of its process's share the rollout belongs to."""
    step_return: Tensor | None = None
    """[n] smoothed return of each step; None where the rollout is not learnt from."""
    step_advantage: Tensor | None = None
    """[n] advantage of each step; None where the rollout is not learnt from."""
    step_value: Tensor | None = None
    """[n] value of the state in which each step was taken; None where no value was asked for."""

    @property
    def question(self) -> Question:
        """Return the question that was asked."""
        return self.transcript.episode.question

    @property
    def learnt(self) -> bool:
        """Return whether the rollout is learnt from."""
        return self.step_advantage is not None

    def record(self, update: int) -> dict[str, Any]:
        """Return a JSON record: every step with its state, validators, return and advantage.

        A state is 16 hexadecimal digits, a 64-bit key in two's complement.
        """
        transcript, score = self.transcript, self.score
        episode = transcript.episode
        steps: list[dict[str, Any]] = []
        for index, step in enumerate(episode.steps):
            record: dict[str, Any] = {"reply": step.text, "observation": step.observation}
            if index < len(score.process):
                record |= {"validators": score.validators[index], "process": score.process[index]}
            if index < len(score.states):
                record["state"] = f"{score.states[index] & (2**64 - 1):016x}"
            if self.step_value is not None:
                record["value"] = round(float(self.step_value[index]), 6)
            if self.step_return is not None and self.step_advantage is not None:
                record["return"] = round(float(self.step_return[index]), 6)
                record["advantage"] = round(float(self.step_advantage[index]), 6)
            steps.append(record)
        return {
            "update": update,
            "question_id": episode.question.question_id,
            "db_id": episode.question.db_id,
            "question": episode.question.text,
            "gold_sql": episode.question.gold_sql,
            "other_golds": list(episode.question.other_golds),
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
