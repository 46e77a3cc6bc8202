"""A program for torchrun: one learner's step, each process with its share of fixed rollouts.

Started as `-m support.two_learners MODEL OUT`. Writes every process's weights and metrics, for
every way of sharing in `SHARES`, and the learner's error for rollouts that were never sampled.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from finestep_fast import InputError
from finestep_fast.train.agree import from_main
from support.rollouts import learner_of, learning_from, plain_rollouts

NUM_ROLLOUTS = 9
SHARES: dict[str, Callable[[int, int], bool]] = {
    "every second": lambda rank, number: number % 2 == rank,
    "one and the rest": lambda rank, number: (number > 0) == (rank == 1),
    "all and none": lambda rank, number: rank == 0,
}
"""Which process learns from which rollout; one may have none."""

MICRO_BATCH_TOKENS = 64
SPOILED = 3
"""The rollout with a loss that is NaN."""


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
        measured = learner.learn(learning_from(rollouts, mine), seed=0)
        path = Path(out) / f"{name}-{rank}"
        torch.save(model.state_dict(), path.with_suffix(".pt"))
        path.with_suffix(".json").write_text(json.dumps(measured))
    # One process has nothing to compare, the other what was never sampled: both must refuse.
    learner = learner_of(
        AutoModelForCausalLM.from_pretrained(model_folder), accelerator, on_policy=True
    )
    mine = [n for n in range(NUM_ROLLOUTS) if rank == 0]
    try:
        learner.learn(learning_from(rollouts, mine), seed=0)
    except InputError as error:
        (Path(out) / f"refusal-{rank}.txt").write_text(str(error))
    _learn_what_is_not_finite(accelerator, model_folder, Path(out))
    _ask_the_main_process(accelerator, Path(out))
    accelerator.end_training()


def _learn_what_is_not_finite(accelerator: Accelerator, model_folder: str, out: Path) -> None:
    """Learn from a rollout of the last process with a NaN loss: who skips the step, and why?"""
    rank = accelerator.process_index
    rollouts = plain_rollouts(NUM_ROLLOUTS)
    item = rollouts[SPOILED].transcript
    item.token_logp[item.step_spans[0][0]] = float("nan")
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learner = learner_of(model, accelerator, micro_batch_tokens=1)
    mine = [n for n in range(NUM_ROLLOUTS) if n % 2 == rank]
    learner.learn(learning_from(rollouts, mine), seed=0)
    found = {
        "skipped": [item.rollouts for item in learner.skipped],
        "losses_are_finite": [math.isfinite(item.loss) for item in learner.skipped],
        "changed": [n for n, v in model.state_dict().items() if not torch.equal(v, before[n])],
    }
    (out / f"not-finite-{rank}.json").write_text(json.dumps(found))


def _ask_the_main_process(accelerator: Accelerator, out: Path) -> None:
    """Ask for what it says, then for what it raises; both come to every process."""

    def refuse() -> None:
        raise InputError(f"refused by {accelerator.process_index}")

    found = [from_main(accelerator, lambda: f"said by {accelerator.process_index}")]
    try:
        from_main(accelerator, refuse)
    except InputError as error:
        found.append(str(error))
    (out / f"asked-{accelerator.process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
