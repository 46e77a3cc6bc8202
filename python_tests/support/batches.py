"""Ragged batches of rollouts for tests: a table of shapes with reasons, and hypothesis strategies.

A `Rollout` says what happened; `packed` and `padded` lay the same rollouts out on a token axis.
What belongs to policy tokens is made in their order [N] and put in place by `placed`, so that two
layouts can be given the same values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from hypothesis import strategies as st
from torch import Tensor

from finestep_fast import StepBatch


@dataclass(frozen=True)
class Rollout:
    """One rollout: its group, its outcome, and for each step a length and a reward."""

    group: int = 0
    step_length: tuple[int, ...] = ()
    reward: tuple[float, ...] = ()
    outcome: float = 0.0
    gap: tuple[int, ...] = (1,)
    """Numbers of observed tokens before each step and after the last one, repeated as needed."""

    def gap_before(self, step: int) -> int:
        return self.gap[step % len(self.gap)]

    @property
    def length(self) -> int:
        gaps = sum(self.gap_before(step) for step in range(len(self.step_length) + 1))
        return sum(self.step_length) + gaps

    def spans(self, start: int) -> list[tuple[int, int]]:
        spans = []
        for step, length in enumerate(self.step_length):
            start += self.gap_before(step)
            spans.append((start, start + length))
            start += length
        return spans


def packed(rollouts: Sequence[Rollout]) -> StepBatch:
    start, spans = 0, []
    for rollout in rollouts:
        spans.append(rollout.spans(start))
        start += rollout.length
    return StepBatch.from_spans(spans, groups(rollouts), num_tokens=start)


def padded(rollouts: Sequence[Rollout], *, extra: int = 0) -> StepBatch:
    row_length = max((rollout.length for rollout in rollouts), default=0) + extra
    return StepBatch.from_spans(
        [rollout.spans(0) for rollout in rollouts],
        groups(rollouts),
        num_tokens=len(rollouts) * row_length,
        row_length=row_length,
    )


def groups(rollouts: Sequence[Rollout]) -> list[int]:
    return [rollout.group for rollout in rollouts]


def step_reward(rollouts: Sequence[Rollout], dtype: torch.dtype = torch.float64) -> Tensor:
    rewards = [reward for rollout in rollouts for reward in rollout.reward]
    return torch.tensor(rewards, dtype=dtype)


def rollout_outcome(rollouts: Sequence[Rollout], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([rollout.outcome for rollout in rollouts], dtype=dtype)


def some_states(batch: StepBatch) -> Tensor:
    """Return keys [S] by position: some are shared, some come back, all rollouts begin alike."""
    return torch.tensor([0, -7, 3, -7, 2**40, 5])[batch.position_of_step % 6]


def some_values(batch: StepBatch, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return values [S] between 0 and 1 by position and length of the rollout."""
    length = batch.step_offsets.diff()[batch.rollout_of_step]
    return ((0.37 * batch.position_of_step + 0.11 * length + 0.5) % 1).to(dtype)


def placed(batch: StepBatch, policy_value: Tensor, *, fill: float = 0.0) -> Tensor:
    """Put the values of the policy tokens [N] on the token axis [T]; `fill` everywhere else."""
    token_value = policy_value.new_full((batch.num_tokens,), fill)
    token_value[batch.policy_token] = policy_value
    return token_value


def policy_values(seed: int, batch: StepBatch) -> dict[str, Tensor]:
    """Return plausible float64 inputs of the loss, [N] each, and `step_advantage` [S]."""
    generator = torch.Generator().manual_seed(seed)

    def normal(size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    size = batch.num_policy_tokens
    old = -normal(size).abs() - 0.1
    return {
        "token_logp": old + 0.3 * normal(size),
        "token_logp_old": old,
        "token_logp_ref": old + 0.2 * normal(size),
        "token_weight": normal(size).exp().clamp(max=2),
        "step_advantage": normal(batch.num_steps),
    }


def _steps(*lengths: int, group: int = 0, outcome: float = 0.0) -> Rollout:
    reward = tuple((step % 3) / 2 for step in range(len(lengths)))
    return Rollout(group, lengths, reward, outcome, gap=(2, 1, 3))


SHAPES: dict[str, tuple[Rollout, ...]] = {
    "nothing at all": (),
    "everything masked": (_steps(), _steps(outcome=1)),
    "one token": (_steps(1, outcome=1),),
    "one step, many tokens": (_steps(33, outcome=1),),
    "a group of one beside a group of two": (
        _steps(3, 2, outcome=1),
        _steps(2, group=1),
        _steps(4, 1, group=1, outcome=1),
    ),
    "odd sizes, groups interleaved": (
        _steps(7, 3, 5, group=1, outcome=1),
        _steps(1, 1, group=0),
        _steps(13, group=1),
        _steps(2, 17, 1, 1, group=0, outcome=1),
    ),
    "one more than a block of 64": (_steps(65, outcome=1), _steps(64), _steps(63, 1)),
    "one rollout much longer than the rest": (
        _steps(*[5] * 12, outcome=1),
        _steps(1),
        _steps(2, 1, outcome=1),
    ),
    "a rollout without steps among others": (_steps(2, 3, outcome=1), _steps(), _steps(4)),
    "steps without a gap between them": (
        Rollout(0, (2, 3, 1), (1, 0.5, 0), 1, gap=(0,)),
        Rollout(0, (1, 1), (0, 1), 0, gap=(0,)),
    ),
}
"""Reason -> rollouts."""


@st.composite
def rollout_lists(
    draw: st.DrawFn,
    *,
    min_size: int = 1,
    max_size: int = 8,
    max_steps: int = 5,
    max_groups: int = 3,
) -> list[Rollout]:
    rollouts = []
    for _ in range(draw(st.integers(min_size, max_size))):
        num_steps = draw(st.integers(0 if max_steps > 1 else 1, max_steps))
        sizes = st.integers(1, 4)
        rewards = st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1, width=16)
        rollouts.append(
            Rollout(
                group=draw(st.integers(0, max_groups - 1)),
                step_length=tuple(draw(sizes) for _ in range(num_steps)),
                reward=tuple(draw(rewards) for _ in range(num_steps)),
                outcome=draw(st.sampled_from([0.0, 1.0])),
                gap=tuple(draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))),
            )
        )
    return rollouts


def parts(
    rollouts: Sequence[Rollout], cuts: Sequence[int]
) -> Iterator[tuple[StepBatch, slice, slice]]:
    """Yield the rollouts between cuts, packed, and their tokens and steps in the whole."""
    token = step = 0
    edges = sorted({0, *(min(cut, len(rollouts)) for cut in cuts), len(rollouts)})
    for start, end in pairwise(edges):
        part = packed(rollouts[start:end])
        tokens = slice(token, token + part.num_tokens)
        steps = slice(step, step + part.num_steps)
        token, step = tokens.stop, steps.stop
        yield part, tokens, steps
