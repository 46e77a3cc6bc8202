"""Scored rollouts of the tiny agent, and a learner for a copy of its model."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Container, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from finestep_fast import CreditConfig, LossConfig
from finestep_fast.env.question import Question
from finestep_fast.rewards import RewardConfig
from finestep_fast.train.config import HeadKind, OptimConfig, RolloutConfig, UpdateConfig
from finestep_fast.train.learn.learner import Learner
from finestep_fast.train.rollout.credit import credited
from finestep_fast.train.rollout.engine import InProcessEngine
from finestep_fast.train.rollout.record import Rollout
from support.tiny import ENV, LIMITS, Tiny

CREDIT = CreditConfig()


def sampled(
    tiny: Tiny,
    questions: Sequence[Question],
    each: int,
    *,
    seed: int = 0,
    credit: CreditConfig = CREDIT,
    limits: RolloutConfig = LIMITS,
    drop_uniform_groups: bool = False,
) -> list[Rollout]:
    """Return rollouts that the tiny model played, scored and credited."""
    engine = InProcessEngine(tiny.sampler(limits), tiny.engine, ENV, RewardConfig())
    played = engine.play(questions, each, seed=seed)
    return credited(played, credit, drop_uniform_groups=drop_uniform_groups)


def learnt(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Return the rollouts that are learnt from."""
    return [rollout for rollout in rollouts if rollout.learnt]


def with_advantages(
    rollouts: Sequence[Rollout], changed: Callable[[Tensor], Tensor]
) -> list[Rollout]:
    """Return the rollouts with other advantages where they are learnt from."""
    return [
        rollout
        if rollout.step_advantage is None
        else dataclasses.replace(rollout, step_advantage=changed(rollout.step_advantage))
        for rollout in rollouts
    ]


def learning_from(rollouts: Sequence[Rollout], places: Container[int]) -> list[Rollout]:
    """Return the rollouts, those at other places not to be learnt from."""
    return [
        rollout
        if place in places
        else dataclasses.replace(rollout, step_return=None, step_advantage=None)
        for place, rollout in enumerate(rollouts)
    ]


def learner_of(
    model: nn.Module,
    accelerator: Accelerator | None = None,
    *,
    reference_model: PreTrainedModel | None = None,
    loss: LossConfig | None = None,
    learning_rate: float = 1e-2,
    minibatches: int = 1,
    passes: int = 1,
    micro_batch_tokens: int = 16384,
    max_kl: float | None = None,
    temperature: float = 1.0,
    impl: str = "auto",
    head: HeadKind = "linear",
    dtype: torch.dtype = torch.float32,
    on_policy: bool = False,
) -> Learner:
    """Return a learner that steps by plain gradient descent, so that a step shows its gradient."""
    accelerator = accelerator or Accelerator(cpu=True)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    model, optimizer = accelerator.prepare(model, optimizer)
    return Learner(
        accelerator,
        model,
        optimizer,
        scheduler,
        update=UpdateConfig(
            minibatches=minibatches,
            passes=passes,
            micro_batch_tokens=micro_batch_tokens,
            max_kl=max_kl,
            head=head,
            optim=OptimConfig(max_grad_norm=1e9),
        ),
        loss=loss or LossConfig(),
        temperature=temperature,
        dtype=dtype,
        reference_model=reference_model,
        impl=impl,
        on_policy=on_policy,
    )


def plain_rollouts(num_rollouts: int, *, seed: int = 0, vocab_size: int = 480) -> list[Rollout]:
    """Return rollouts of made-up tokens, lengths and advantages, made without an environment.

    They hold what a learner reads; scores are left out.
    """
    rng = random.Random(seed)
    rollouts = []
    for _ in range(num_rollouts):
        spans, length = [], rng.randint(3, 20)
        for _ in range(rng.randint(1, 4)):
            end = length + rng.randint(1, 9)
            spans.append((length, end))
            length = end + rng.randint(1, 12)
        length = spans[-1][1]
        transcript: Any = _Tokens([rng.randrange(vocab_size) for _ in range(length)], spans)
        advantage = torch.tensor([rng.uniform(-2, 2) for _ in spans])
        unscored: Any = None
        rollouts.append(Rollout(transcript, unscored, 0, advantage, advantage))
    return rollouts


class _Tokens:
    def __init__(self, token_ids: list[int], step_spans: list[tuple[int, int]]) -> None:
        self.token_ids, self.step_spans = token_ids, step_spans
        policy = {place for span in step_spans for place in range(*span)}
        self.token_logp = [-6.0 if n in policy else 0.0 for n in range(len(token_ids))]
        self.num_policy_tokens = len(policy)
