"""The entry points of credit: what a step is worth, and the same for each of its tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from finestep_fast import reference
from finestep_fast.arguments import Rewards
from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig, as_credit
from finestep_fast.ops import cpp
from finestep_fast.ops.check import (
    check_batch,
    check_impl,
    check_rewards,
    check_step_advantage,
    has_tangent,
    is_traced,
    is_wrapped,
)
from finestep_fast.ops.implementations import chosen

FINESTEP = CreditConfig()


def step_advantage(
    batch: StepBatch,
    step_reward: Tensor,
    rollout_outcome: Tensor,
    *,
    step_state: Tensor | None = None,
    step_value: Tensor | None = None,
    credit: CreditConfig | str = FINESTEP,
    impl: str = "auto",
) -> Tensor:
    """Return what each step is worth: against the others of its group, or by a given value.

    Discounted returns, smoothed along each rollout, compared inside each group:
    `A_s = (Q~_s - mean) / (max(std, std_floor) + epsilon)`. With scope `value`: discounted
    differences of `step_value` along each rollout. `finestep_fast.reference` explains it point by
    point.

    Source: the paper names step-level credit with discounting, smoothing and normalisation; the
    forms are ours, see each point.

    Args:
        batch: Which steps belong to which rollout and group; it must hold whole groups.
        step_reward: [S] process rewards in [0, 1], in the order of `batch.step_start`.
        rollout_outcome: [R] finite outcomes, 1 where the rollout solved its task, else 0.
        step_state: [S] int64 keys for scope `state`: equal ones in a group are the same state, such
            as what the rollout knew when it took the step.
        step_value: [S] finite values for scope `value`: estimates of the outcome, made before the
            step was taken.
        credit: The settings, or the name of a preset.
        impl: Name of the implementation; `auto` takes the fastest for the batch's device: `cpp` on
            a CPU, `triton` on a GPU.

    Returns:
        [S] advantages without gradient, float64 where a reward is, else float32; 0 where a step has
        nothing to be compared with. On a GPU rewards are not checked: a NaN makes its group NaN.

    Raises:
        InputError: A shape, dtype or device does not fit the batch, or the implementation the
            device; states or values are missing that the scope needs, or given without it; on the
            CPU, a reward is not in [0, 1], or an outcome or a value not finite.
        BuildError: The implementation was not built.
    """
    check_batch(batch)
    settings = as_credit(credit)
    rewards = Rewards(step_reward, rollout_outcome, step_state, step_value)
    check_impl(impl, {}, **rewards._asdict())
    check_rewards(batch, rewards, credit=settings)
    return chosen(impl, batch.device).step_advantage(rewards, batch, credit=settings)


def token_advantage(batch: StepBatch, step_advantage: Tensor) -> Tensor:
    """Return the advantage of the step that owns each token.

    The losses don't need it; trainers with a loss of their own do. Compiled for CPU tensors that
    need no gradient, else plain PyTorch.

    Args:
        batch: Which tokens belong to which step, rollout and group.
        step_advantage: [S] advantages.

    Returns:
        [T] advantages, 0 outside steps; differentiable with respect to `step_advantage`.

    Raises:
        InputError: A shape, dtype or device does not fit the batch; on the CPU, an advantage is not
            finite.
    """
    check_batch(batch)
    check_step_advantage(batch, step_advantage)
    if _for_the_core(step_advantage):
        return cpp.token_values(
            cpp.dense(step_advantage), batch.step_start, batch.step_end, batch.num_tokens
        )
    return reference.token_advantage(batch, step_advantage)


def _for_the_core(value: Tensor) -> bool:
    differentiated = torch.is_grad_enabled() and value.requires_grad
    return (
        value.is_floating_point()
        and cpp.why_not(value.device) is None
        and not (differentiated or is_traced(value) or is_wrapped(value) or has_tangent(value))
    )
