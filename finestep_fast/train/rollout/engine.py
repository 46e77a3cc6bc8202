"""What a run asks of whoever makes its rollouts, and the engine that makes them in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from finestep_fast.env.config import EnvConfig
from finestep_fast.env.episode import Episode
from finestep_fast.env.question import Question
from finestep_fast.env.scoring import score_episodes
from finestep_fast.rewards import RewardConfig
from finestep_fast.sql import Engine
from finestep_fast.train.rollout.record import Rollout
from finestep_fast.train.rollout.sampler import Sampler


class RolloutEngine(Protocol):
    """Plays and scores rollouts of the current policy."""

    def play(
        self,
        questions: Sequence[Question],
        num_each: int,
        *,
        seed: int,
        temperature: float | None = None,
        on_end: Callable[[int], None] = lambda count: None,
        on_tokens: Callable[[int], None] = lambda tokens: None,
    ) -> list[Rollout]:
        """Play and score `num_each` rollouts of every question.

        Args:
            questions: This process's share of the questions.
            num_each: Rollouts per question.
            seed: Of the sampling.
            temperature: Of the sampling; None for that of the settings, 0 for the most probable
                tokens.
            on_end: Called with the number of rollouts that have just ended.
            on_tokens: Called with the number of tokens that have just been added to rollouts.

        Returns:
            Scored rollouts without credit; those of a question are neighbours.
        """


class InProcessEngine:
    """A `RolloutEngine` that samples with the learner's own model.

    Args:
        sampler: Plays the episodes.
        engine: Runs the queries.
        env: Tools, prompt, limits of an episode.
        rewards: Weights of the process rewards.
        find_answers: Whether to find the queries on the way that had the gold's result.
    """

    def __init__(
        self,
        sampler: Sampler,
        engine: Engine,
        env: EnvConfig,
        rewards: RewardConfig,
        *,
        find_answers: bool = False,
    ) -> None:
        self.sampler, self.engine = sampler, engine
        self.env, self.rewards = env, rewards
        self.find_answers = find_answers

    def play(
        self,
        questions: Sequence[Question],
        num_each: int,
        *,
        seed: int,
        temperature: float | None = None,
        on_end: Callable[[int], None] = lambda count: None,
        on_tokens: Callable[[int], None] = lambda tokens: None,
    ) -> list[Rollout]:
        """Play and score `num_each` rollouts of every question; see `RolloutEngine.play`."""
        groups = [group for group in range(len(questions)) for _ in range(num_each)]
        episodes = [Episode(questions[group], self.engine, self.env) for group in groups]
        transcripts = self.sampler.play(
            episodes, seed=seed, temperature=temperature, on_end=on_end, on_tokens=on_tokens
        )
        scores = score_episodes(episodes, self.engine, self.rewards, find_answers=self.find_answers)
        return list(map(Rollout, transcripts, scores, groups))
