"""A program for torchrun: one learner's step, each process with its share of fixed rollouts.

Started as `-m support.two_learners MODEL OUT`. Writes every process's weights and metrics, for
every way of sharing in `SHARES`, and what a learner says to rollouts that nobody has sampled.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from finestep_fast import InputError
from finestep_fast.train.rollouts import ScoredRollouts
from support.rollouts import learner_of, plain_rollouts

NUM_ROLLOUTS = 9
SHARES: dict[str, Callable[[int, int], bool]] = {
    "every second": lambda rank, number: number % 2 == rank,
    "one and the rest": lambda rank, number: (number > 0) == (rank == 1),
    "all and none": lambda rank, number: rank == 0,
}
"""Which process learns from which rollout; one may have none."""

MICRO_BATCH_TOKENS = 64


def share_of(rollouts: ScoredRollouts, numbers: list[int]) -> ScoredRollouts:
    """Some of the rollouts."""
    return dataclasses.replace(
        rollouts,
        learnt=numbers,
        step_return=[rollouts.step_return[n] for n in numbers],
        step_advantage=[rollouts.step_advantage[n] for n in numbers],
    )


def main(model_folder: str, out: str) -> None:
    """Learn with each share and write what came of it."""
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    rollouts = plain_rollouts(NUM_ROLLOUTS)
    for name, is_mine in SHARES.items():
        model = AutoModelForCausalLM.from_pretrained(model_folder)
        learner = learner_of(
            model,
            accelerator,
            learning_rate=0.1,
            passes=2,
            micro_batch_tokens=MICRO_BATCH_TOKENS,
        )
        mine = [n for n in range(NUM_ROLLOUTS) if is_mine(rank, n)]
        measured = learner.learn(share_of(rollouts, mine), seed=0)
        path = Path(out) / f"{name}-{rank}"
        torch.save(model.state_dict(), path.with_suffix(".pt"))
        path.with_suffix(".json").write_text(json.dumps(measured))
    # One process has nothing to compare, the other what nobody sampled: both must refuse.
    learner = learner_of(
        AutoModelForCausalLM.from_pretrained(model_folder), accelerator, on_policy=True
    )
    mine = [n for n in range(NUM_ROLLOUTS) if rank == 0]
    try:
        learner.learn(share_of(rollouts, mine), seed=0)
    except InputError as error:
        (Path(out) / f"refusal-{rank}.txt").write_text(str(error))
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
