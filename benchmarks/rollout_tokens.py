"""Made-up rollouts of a few steps, in the form of every loss that begins at logits or before.

Every step is followed by an observation. Beside the batch of steps stand a mask and advantages of
rollouts and tokens, as dense losses take them; both say the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import finestep_fast as ff

LOSS = ff.LossConfig()
_STEPS = 4
_OFF_BOUNDS = 0.03


class Tokens(NamedTuple):
    """What a loss is given beside logits."""

    target: Tensor
    """[R, L] int64"""
    token_logp_old: Tensor
    """[R, L] float32"""
    batch: ff.StepBatch
    step_advantage: Tensor
    """[S]: all steps of a rollout have the same one, for peers take no other."""
    rollout_advantage: Tensor
    """[R]"""
    mask: Tensor
    """[R, L] int64: 1 inside steps."""


def step_batch(rollouts: int, length: int, observed: float) -> ff.StepBatch:
    """Return steps of like length, of which that share of the tokens is observed afterwards."""
    width = length // _STEPS
    written = max(1, round((1 - observed) * width))
    spans = [
        [(step * width, step * width + written) for step in range(_STEPS)] for _ in range(rollouts)
    ]
    return ff.StepBatch.from_spans(
        spans, [0] * rollouts, num_tokens=rollouts * length, row_length=length
    )


def tokens_of(
    batch: ff.StepBatch, target: Tensor, token_logp: Tensor, generator: torch.Generator
) -> Tokens:
    """Return old logps near the present ones [R, L], and advantages.

    Some ratios are clipped, none lies near a bound: there it is chance on which side of it a
    rounded logit falls.
    """
    device = target.device
    change = 0.2 * torch.randn(target.shape, generator=generator)
    for bound in (1 - LOSS.clip_low, 1 + LOSS.clip_high):
        change[((-change).exp() - bound).abs() < _OFF_BOUNDS] = 0
    advantage = torch.randn(target.shape[0], generator=generator).to(device)
    mask = torch.zeros(batch.num_tokens, dtype=torch.int64)
    mask[batch.policy_token] = 1
    return Tokens(
        target,
        token_logp.float() + change.to(device),
        batch.to(device),
        advantage.repeat_interleave(_STEPS),
        advantage,
        mask.view(target.shape).to(device),
    )


def dense_loss(logp: Tensor, tokens: Tokens) -> Tensor:
    """Return the loss of log-probabilities [R, L], as trainers write it."""
    ratio = (logp - tokens.token_logp_old).exp()
    clipped = ratio.clamp(1 - LOSS.clip_low, 1 + LOSS.clip_high)
    advantage = tokens.rollout_advantage[:, None]
    objective = torch.minimum(ratio * advantage, clipped * advantage)
    return -(objective * tokens.mask).sum() / tokens.mask.sum()


def rollout(tokens: Tokens, row: int) -> Tokens:
    """Return the dense part of one rollout; its batch is still that of all."""
    part = slice(row, row + 1)
    return Tokens(
        tokens.target[part],
        tokens.token_logp_old[part],
        tokens.batch,
        tokens.step_advantage,
        tokens.rollout_advantage[part],
        tokens.mask[part],
    )


def assert_rows_close(made: Tensor, truth: Tensor, *, tolerance: float, what: str) -> None:
    """Raise AssertionError unless each row [rows, size] differs by no more than its tolerance.

    Rows that are 0 in truth must be 0.
    """
    assert made.shape == truth.shape, f"{what}: shape {tuple(made.shape)}"
    length = torch.linalg.vector_norm(truth, dim=-1)
    error = torch.linalg.vector_norm(made.to(truth.dtype) - truth, dim=-1)
    worst = (error / length.clamp(min=1e-30)).max()
    assert (error <= tolerance * length).all(), f"{what}: a row is off by {worst:.2g} of its length"
