"""The doors to the ops: each checks its input once, chooses an implementation and calls it.

Holds no mathematics: that is `finestep_fast.reference`, and every other implementation computes the
same thing faster. A value that cannot be used is an `InputError` here, never a silent fallback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from finestep_fast import reference
from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig, LossConfig
from finestep_fast.errors import InputError
from finestep_fast.reference import LossCounts, LossOutput

Count = float | Tensor

_FINESTEP = CreditConfig()
_PPO = LossConfig()


def available_impls() -> dict[str, bool | str]:
    """Return which implementations can run here: name -> True, or the reason why not."""
    return {"reference": True}


def step_advantage(
    batch: StepBatch,
    step_reward: Tensor,
    rollout_outcome: Tensor,
    *,
    credit: CreditConfig = _FINESTEP,
    impl: str = "auto",
) -> Tensor:
    """Return what each step is worth against the others of its group.

    Discounted returns, smoothed along each rollout, compared inside each group:
    `A_s = (Q~_s - mean) / (max(std, std_floor) + epsilon)`; `finestep_fast.reference` tells it
    point by point.

    Source: the paper names step-level credit with discounting, smoothing and normalisation; the
    forms are ours, see each point.

    Args:
        batch: Whose steps are whose; it must hold whole groups.
        step_reward: [S] process rewards in [0, 1], in the order of `batch.step_start`.
        rollout_outcome: [R] outcomes, 1 where the rollout solved its task, else 0.
        credit: The settings.
        impl: Who computes it; `auto` takes the fastest for the batch's device.

    Returns:
        [S] advantages without gradient, float64 where a reward is, else float32; 0 where a step has
        nobody to be compared with.

    Raises:
        InputError: A shape, dtype or device does not fit the batch.
    """
    _check_batch(batch)
    _check_vector("step_reward", step_reward, batch.num_steps, "S", batch)
    _check_vector("rollout_outcome", rollout_outcome, batch.num_rollouts, "R", batch)
    compute = _chosen(_STEP_ADVANTAGE, impl)
    with torch.no_grad():
        return compute(batch, step_reward, rollout_outcome, credit=credit)


def token_advantage(batch: StepBatch, step_advantage: Tensor) -> Tensor:
    """Return the advantage of the step that owns each token.

    Args:
        batch: Whose tokens are whose.
        step_advantage: [S] advantages.

    Returns:
        [T] advantages, 0 outside steps.

    Raises:
        InputError: A shape, dtype or device does not fit the batch.
    """
    _check_batch(batch)
    _check_vector("step_advantage", step_advantage, batch.num_steps, "S", batch)
    return reference.token_advantage(batch, step_advantage)


def policy_loss(
    token_logp: Tensor,
    token_logp_old: Tensor,
    batch: StepBatch,
    step_advantage: Tensor,
    *,
    loss: LossConfig = _PPO,
    token_logp_ref: Tensor | None = None,
    token_weight: Tensor | None = None,
    num_policy_tokens: Count | None = None,
    num_rollouts: Count | None = None,
    num_steps: Count | None = None,
    impl: str = "auto",
) -> LossOutput:
    """Return the clipped policy loss of the tokens inside steps, and its metrics.

    `loss = -sum_t w_t v_t min(rho_t A_s, clip(rho_t, 1 - clip_low, 1 + clip_high) A_s) + kl_weight
    sum_t w_t kl_t` with `rho_t = exp(logp_t - logp_old_t)`, s the step of t, w the aggregation's
    weight and v the token weight.

    Where a batch is cut into micro-batches, each call is given the counts of the whole batch, and
    the losses (and gradients) add up to those of one call. Where data parallelism averages
    gradients over processes, give the count of all processes divided by their number.

    Source: PPO with a step's advantage for each of its tokens, as the paper says.

    Args:
        token_logp: [T] or [R, L] log-probabilities under the policy; differentiable.
        token_logp_old: Same shape, under the policy that sampled; a constant.
        batch: Whose tokens are whose.
        step_advantage: [S] advantages; constants.
        loss: The settings.
        token_logp_ref: Same shape as `token_logp`, under the reference policy, for `loss.kl`.
        token_weight: Same shape as `token_logp`: factor of each token's surrogate, applied after
            the clip (an importance correction); a constant.
        num_policy_tokens: What `token_mean` divides by; None for the batch's own.
        num_rollouts: What `rollout_mean` and `constant` divide by; None for the batch's own.
        num_steps: What `step_mean` divides by; None for the batch's own.
        impl: Who computes it; `auto` takes the fastest for the batch's device.

    Returns:
        `.loss`, [] and 0 for a batch without steps; `.metrics`, tensors on the device.

    Raises:
        InputError: A shape, dtype or device does not fit, or something the settings need is
            missing or would be ignored.
    """
    _check_batch(batch)
    _check_vector("step_advantage", step_advantage, batch.num_steps, "S", batch)
    _check_tokens(batch, token_logp, token_logp_old, token_logp_ref, token_weight, loss=loss)
    counts = _loss_counts(batch, num_policy_tokens, num_rollouts, num_steps, loss=loss)
    return _chosen(_POLICY_LOSS, impl)(
        token_logp,
        token_logp_old,
        batch,
        step_advantage,
        loss=loss,
        counts=counts,
        token_logp_ref=token_logp_ref,
        token_weight=token_weight,
    )


def step_policy_loss(
    token_logp: Tensor,
    token_logp_old: Tensor,
    batch: StepBatch,
    step_reward: Tensor,
    rollout_outcome: Tensor,
    *,
    credit: CreditConfig = _FINESTEP,
    loss: LossConfig = _PPO,
    token_logp_ref: Tensor | None = None,
    token_weight: Tensor | None = None,
    num_policy_tokens: Count | None = None,
    num_rollouts: Count | None = None,
    num_steps: Count | None = None,
    impl: str = "auto",
) -> LossOutput:
    """Return the policy loss straight from rewards: `policy_loss` of `step_advantage`.

    Source: see `step_advantage` and `policy_loss`.

    Args:
        token_logp: [T] or [R, L] log-probabilities under the policy; differentiable.
        token_logp_old: Same shape, under the policy that sampled; a constant.
        batch: Whose tokens are whose; it must hold whole groups.
        step_reward: [S] process rewards in [0, 1].
        rollout_outcome: [R] outcomes.
        credit: The settings of the advantages.
        loss: The settings of the loss.
        token_logp_ref: Same shape as `token_logp`, under the reference policy, for `loss.kl`.
        token_weight: Same shape as `token_logp`: factor of each token's surrogate; a constant.
        num_policy_tokens: What `token_mean` divides by; None for the batch's own.
        num_rollouts: What `rollout_mean` and `constant` divide by; None for the batch's own.
        num_steps: What `step_mean` divides by; None for the batch's own.
        impl: Who computes it; `auto` takes the fastest for the batch's device.

    Returns:
        `.loss`, [] and 0 for a batch without steps; `.metrics`, tensors on the device.

    Raises:
        InputError: As `step_advantage` and `policy_loss`.
    """
    advantage = step_advantage(batch, step_reward, rollout_outcome, credit=credit, impl=impl)
    return policy_loss(
        token_logp,
        token_logp_old,
        batch,
        advantage,
        loss=loss,
        token_logp_ref=token_logp_ref,
        token_weight=token_weight,
        num_policy_tokens=num_policy_tokens,
        num_rollouts=num_rollouts,
        num_steps=num_steps,
        impl=impl,
    )


_STEP_ADVANTAGE = {"reference": reference.step_advantage}
_POLICY_LOSS = {"reference": reference.policy_loss}

Op = TypeVar("Op", bound=Callable[..., object])


def _chosen(implementations: Mapping[str, Op], impl: str) -> Op:
    if impl == "auto":
        return implementations["reference"]
    if impl not in implementations:
        known = ", ".join(repr(name) for name in ["auto", *implementations])
        raise InputError(f"impl is {impl!r}; it must be one of {known}")
    return implementations[impl]


def _check_batch(batch: object) -> None:
    if not isinstance(batch, StepBatch):
        raise InputError(f"batch is a {type(batch).__name__}; it must be a StepBatch")


def _check_vector(name: str, value: Tensor, size: int, letter: str, batch: StepBatch) -> None:
    if tuple(value.shape) != (size,):
        raise InputError(
            f"{name} has shape {tuple(value.shape)}; expected ({size},), {letter} of {batch}"
        )
    if value.is_complex():
        raise InputError(f"{name} is {value.dtype}; expected real numbers")
    _check_device(name, value, batch)


def _check_device(name: str, value: Tensor, batch: StepBatch) -> None:
    if value.device != batch.device:
        raise InputError(
            f"{name} is on {value.device}; expected {batch.device}, the device of the batch"
        )


def _check_tokens(
    batch: StepBatch,
    token_logp: Tensor,
    token_logp_old: Tensor,
    token_logp_ref: Tensor | None,
    token_weight: Tensor | None,
    *,
    loss: LossConfig,
) -> None:
    if token_logp.numel() != batch.num_tokens:
        raise InputError(
            f"token_logp has shape {tuple(token_logp.shape)}; expected {batch.num_tokens} tokens, "
            f"T of {batch}"
        )
    if (token_logp_ref is None) != (loss.kl is None):
        given = "not given" if token_logp_ref is None else "given"
        raise InputError(
            f"token_logp_ref is {given} while loss.kl is {loss.kl!r}; expected both or neither"
        )
    for name, value in (
        ("token_logp", token_logp),
        ("token_logp_old", token_logp_old),
        ("token_logp_ref", token_logp_ref),
        ("token_weight", token_weight),
    ):
        if value is None:
            continue
        if value.shape != token_logp.shape:
            raise InputError(
                f"{name} has shape {tuple(value.shape)}; expected {tuple(token_logp.shape)}, the "
                "shape of token_logp"
            )
        if not value.is_floating_point():
            raise InputError(f"{name} is {value.dtype}; expected floating point")
        _check_device(name, value, batch)


def _loss_counts(
    batch: StepBatch,
    num_policy_tokens: Count | None,
    num_rollouts: Count | None,
    num_steps: Count | None,
    *,
    loss: LossConfig,
) -> LossCounts:
    given = {
        "num_policy_tokens": num_policy_tokens,
        "num_rollouts": num_rollouts,
        "num_steps": num_steps,
    }
    needed = reference.COUNT_OF_AGGREGATION[loss.aggregation]
    named = [name for name, count in given.items() if count is not None]
    if named and needed not in named:
        raise InputError(
            f"{needed} is not given while {named[0]} is; aggregation {loss.aggregation!r} "
            f"divides by {needed}"
        )
    return LossCounts(*(_count(name, count, batch) for name, count in given.items()))


def _count(name: str, count: Count | None, batch: StepBatch) -> Count:
    own: int = getattr(batch, name)
    if count is None:
        return own
    if isinstance(count, Tensor):
        if count.numel() != 1:
            raise InputError(f"{name} has shape {tuple(count.shape)}; expected one number")
        return count.reshape(())
    if not (count > 0 or (count == 0 and own == 0)):
        raise InputError(f"{name} is {count}; it must be above 0, the batch has {own}")
    return count
