"""Supervised steps on demonstrations: the policy's tokens, and only those, are learnt."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from finestep_fast.train.learn.finite import step_if_finite
from finestep_fast.train.learn.padding import pad_rows
from finestep_fast.train.learn.policy import written_logp
from finestep_fast.train.rollout.transcript import Transcript

# Batches are cut from this many neighbours sorted by length: little padding, still well mixed.
_POOL_BATCHES = 8


class DemonstrationBatches:
    """The batches of a warm start; any of them can be had again, so a run can be resumed.

    Args:
        transcripts: Demonstrations as token ids.
        tokens: How many tokens to train on, passes repeated.
        batch_rollouts: Demonstrations per step, over all processes.
        seed: Of the order.
    """

    def __init__(
        self, transcripts: Sequence[Transcript], *, tokens: int, batch_rollouts: int, seed: int
    ) -> None:
        self.transcripts = transcripts
        self.batch_rollouts = batch_rollouts
        self.seed = seed
        mean_length = sum(len(item.token_ids) for item in transcripts) / len(transcripts)
        self._num_steps = math.ceil(tokens / (mean_length * batch_rollouts))
        self._order = functools.lru_cache(maxsize=2)(self._permutation)

    def __len__(self) -> int:
        """Return the number of steps."""
        return self._num_steps

    def __getitem__(self, step: int) -> list[Transcript]:
        """Return the demonstrations of one step: neighbours by length within a pool."""
        pool, place = divmod(step, _POOL_BATCHES)
        pool_size = self.batch_rollouts * _POOL_BATCHES
        chosen = []
        for index in range(pool * pool_size, (pool + 1) * pool_size):
            epoch, within = divmod(index, len(self.transcripts))
            chosen.append(self.transcripts[self._order(epoch)[within]])
        chosen.sort(key=lambda item: len(item.token_ids))
        batch = np.random.default_rng([self.seed, 1, pool]).permutation(_POOL_BATCHES)[place]
        return chosen[batch * self.batch_rollouts : (batch + 1) * self.batch_rollouts]

    def _permutation(self, epoch: int) -> list[int]:
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.transcripts))
        return [int(index) for index in order]


class StagedBatches:
    """The batches of a warm start in stages: all of one stage come before those of the next.

    Each stage has the share of the tokens that its demonstrations make of all demonstrations.

    Args:
        stages: Of each stage, in order, its demonstrations as token ids; none is empty.
        tokens: How many tokens to train on.
        batch_rollouts: Demonstrations per step, over all processes.
        seed: Of the order within a stage.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Transcript]],
        *,
        tokens: int,
        batch_rollouts: int,
        seed: int,
    ) -> None:
        sizes = [sum(len(item.token_ids) for item in stage) for stage in stages]
        self._stages = [
            DemonstrationBatches(
                stage,
                tokens=math.ceil(tokens * size / sum(sizes)),
                batch_rollouts=batch_rollouts,
                seed=seed,
            )
            for stage, size in zip(stages, sizes, strict=True)
        ]

    def __len__(self) -> int:
        """Return the number of steps."""
        return sum(len(stage) for stage in self._stages)

    def __getitem__(self, step: int) -> list[Transcript]:
        """Return the demonstrations of one step."""
        for stage in self._stages:
            if step < len(stage):
                return stage[step]
            step -= len(stage)
        raise IndexError(step)


class SupervisedStep(NamedTuple):
    """What came of a step."""

    loss: float
    """Over all processes."""
    grad_norm: float
    """Before clipping."""
    taken: bool
    """False where loss or gradient was not finite; then nothing has changed."""


def supervised_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[Transcript],
    *,
    dtype: torch.dtype,
    max_grad_norm: float,
) -> SupervisedStep:
    """Take one optimiser step on the mean -log-probability of the policy's tokens, if finite.

    Args:
        accelerator: Of the run.
        model: As prepared by it.
        optimizer: As prepared by it.
        batch: Demonstrations of the step, at least one per process; each process takes its share.
        dtype: Of the forward pass.
        max_grad_norm: Gradients are scaled down to this norm.
    """
    share = batch[accelerator.process_index :: accelerator.num_processes]
    total = sum(item.num_policy_tokens for item in batch)
    rows = pad_rows([item.token_ids for item in share], accelerator.device)
    with torch.autocast(accelerator.device.type, dtype=dtype, enabled=dtype != torch.float32):
        logp = written_logp(model, rows, [item.step_spans for item in share], temperature=1.0)
        loss = -logp.sum() / total
    accelerator.backward(loss * accelerator.num_processes)  # the wrapper averages over processes
    grad_norm, taken = step_if_finite(
        accelerator, model, optimizer, [loss.detach()], max_grad_norm=max_grad_norm
    )
    return SupervisedStep(float(accelerator.reduce(loss.detach(), "sum")), grad_norm, taken)
