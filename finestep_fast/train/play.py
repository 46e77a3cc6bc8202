"""Which rollouts a run plays: for an update, with extra questions where it needs them, and on dev.

Not how a rollout is played: that is the rollout engine's. Every process plays its share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from finestep_fast.env.question import Question
from finestep_fast.train.config import TrainConfig
from finestep_fast.train.data import RunData
from finestep_fast.train.rollout.engine import RolloutEngine
from finestep_fast.train.rollout.extra import extra_questions, with_extra_groups
from finestep_fast.train.rollout.record import Rollout
from finestep_fast.train.screen import Screen


class Player:
    """Plays questions, each process its share of them.

    Args:
        config: Of the run.
        accelerator: Of the run; says which share is this process's.
        engine: Plays and scores the rollouts.
        screen: Shows how far they are.
    """

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, engine: RolloutEngine, screen: Screen
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.engine, self.screen = engine, screen

    def update(self, update: int, data: RunData) -> tuple[list[Rollout], int]:
        """Return this process's rollouts of an update, and how many of them are extra."""
        limits, seed = self.config.rollout, self.config.seed
        questions = data.questions_of_update(update, limits.prompts, seed)
        title, each = f"update {update}", limits.rollouts_per_prompt
        own = self._play(title, questions, each, seed=self.seed(1, update))
        rollouts = with_extra_groups(
            own,
            extra_questions(
                data.train, questions, seed=seed, update=update, most=limits.max_extra_prompts
            ),
            wanted=limits.prompts,
            play=lambda extra, number: self._play(
                f"{title}, more", extra, each, seed=self.seed(3, update, number)
            ),
            summed=self.summed,
        )
        return rollouts, len(rollouts) - len(own)

    def greedy(self, title: str, questions: Sequence[Question]) -> list[Rollout]:
        """Return a rollout for each question of this process's share, of most probable tokens."""
        return self._play(title, questions, 1, seed=0, temperature=0.0)

    def seed(self, *purpose: int) -> int:
        """Return a seed of its own for every purpose and process."""
        words = [self.config.seed, *purpose, self.accelerator.process_index]
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    def summed(self, count: int) -> int:
        """Return the sum of a number over all processes."""
        return sum(gather_object([count]))

    def _play(
        self,
        title: str,
        questions: Sequence[Question],
        rollouts_per_prompt: int,
        *,
        seed: int,
        temperature: float | None = None,
    ) -> list[Rollout]:
        """Play this process's share of the questions."""
        share = questions[self.accelerator.process_index :: self.accelerator.num_processes]
        count = len(share) * rollouts_per_prompt
        with self.screen.bar(title, count, timed_lines_only=temperature is None) as bar:
            return self.engine.play(
                share,
                rollouts_per_prompt,
                seed=seed,
                temperature=temperature,
                on_end=bar.advance,
                on_tokens=lambda tokens: bar.advance(0, tokens=tokens),
            )
