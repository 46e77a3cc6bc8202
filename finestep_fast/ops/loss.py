"""The entry points of the policy loss: from given advantages, or straight from rewards."""

from __future__ import annotations

from torch import Tensor

from finestep_fast.arguments import Count, Rewards, TokenConstants
from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig, LossConfig, as_credit
from finestep_fast.ops.check import (
    check_batch,
    check_impl,
    check_loss,
    check_rewards,
    check_step_advantage,
    check_tokens,
    loss_count,
)
from finestep_fast.ops.credit import FINESTEP
from finestep_fast.ops.implementations import chosen
from finestep_fast.reference import LossOutput

PPO = LossConfig()


def policy_loss(
    token_logp: Tensor,
    token_logp_old: Tensor,
    batch: StepBatch,
    step_advantage: Tensor,
    *,
    loss: LossConfig = PPO,
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
    weight and v the token weight. For another `loss.ratio`, rho_t has the value of the geometric
    mean over a step or rollout, and the gradient of the token's own (except `rollout_averaged`).

    Where a batch is cut into micro-batches, each call is given the counts of the whole batch, and
    the losses (and gradients) add up to those of one call. Where data parallelism averages
    gradients over processes, give the count of all processes divided by their number.

    Source: PPO with a step's advantage for each of its tokens, as the paper says.

    Args:
        token_logp: [T] or [R, L] log-probabilities under the policy; differentiable, once.
        token_logp_old: Same shape, under the policy that sampled; a constant.
        batch: Which tokens belong to which step, rollout and group.
        step_advantage: [S] finite advantages; constants.
        loss: The settings.
        token_logp_ref: Same shape as `token_logp`, under the reference policy, for `loss.kl`.
        token_weight: Same shape as `token_logp`: factor of each token's surrogate, applied after
            the clip (an importance correction); a constant.
        num_policy_tokens: What `token_mean` divides by; None for the batch's own.
        num_rollouts: What `rollout_mean` and `constant` divide by; None for the batch's own.
        num_steps: What `step_mean` divides by; None for the batch's own.
        impl: Name of the implementation; `auto` takes the fastest for the batch's device: `cpp` on
            a CPU, `triton` on a GPU.

    Returns:
        `.loss`, [] and 0 for a batch without steps; `.metrics`, tensors on the device. A NaN among
        the log-probabilities and weights inside steps makes the loss and the gradient of that token
        NaN (of all tokens that share its ratio); infinite ones are cut like any that lie far apart.

    Raises:
        InputError: A shape, dtype or device does not fit, an advantage on the CPU is not finite,
            something the settings need is missing or would be ignored, or the implementation does
            not fit the device.
        BuildError: The implementation was not built.
    """
    check_batch(batch)
    check_loss(loss)
    check_impl(
        impl,
        {"token_logp": token_logp},
        token_logp_old=token_logp_old,
        token_logp_ref=token_logp_ref,
        token_weight=token_weight,
        step_advantage=step_advantage,
        num_policy_tokens=num_policy_tokens,
        num_rollouts=num_rollouts,
        num_steps=num_steps,
    )
    check_step_advantage(batch, step_advantage)
    constants = TokenConstants(token_logp_old, token_logp_ref, token_weight)
    check_tokens(batch, token_logp, constants, loss=loss)
    count = loss_count(batch, num_policy_tokens, num_rollouts, num_steps, loss=loss)
    return chosen(impl, batch.device).policy_loss(
        token_logp, constants, batch, step_advantage, loss=loss, count=count
    )


def step_policy_loss(
    token_logp: Tensor,
    token_logp_old: Tensor,
    batch: StepBatch,
    step_reward: Tensor,
    rollout_outcome: Tensor,
    *,
    step_state: Tensor | None = None,
    step_value: Tensor | None = None,
    credit: CreditConfig | str = FINESTEP,
    loss: LossConfig = PPO,
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
        token_logp: [T] or [R, L] log-probabilities under the policy; differentiable, once.
        token_logp_old: Same shape, under the policy that sampled; a constant.
        batch: Which tokens belong to which step, rollout and group; it must hold whole groups.
        step_reward: [S] process rewards in [0, 1].
        rollout_outcome: [R] finite outcomes.
        step_state: [S] int64 keys of the states, for scope `state`.
        step_value: [S] finite values of the states, for scope `value`.
        credit: The settings of the advantages, or the name of a preset.
        loss: The settings of the loss.
        token_logp_ref: Same shape as `token_logp`, under the reference policy, for `loss.kl`.
        token_weight: Same shape as `token_logp`: factor of each token's surrogate; a constant.
        num_policy_tokens: What `token_mean` divides by; None for the batch's own.
        num_rollouts: What `rollout_mean` and `constant` divide by; None for the batch's own.
        num_steps: What `step_mean` divides by; None for the batch's own.
        impl: Name of the implementation; `auto` takes the fastest for the batch's device: `cpp` on
            a CPU, `triton` on a GPU.

    Returns:
        `.loss`, [] and 0 for a batch without steps; `.metrics`, tensors on the device.

    Raises:
        InputError: As `step_advantage` and `policy_loss`.
        BuildError: The implementation was not built.
    """
    check_batch(batch)
    check_loss(loss)
    settings = as_credit(credit)
    rewards = Rewards(step_reward, rollout_outcome, step_state, step_value)
    check_impl(
        impl,
        {"token_logp": token_logp},
        token_logp_old=token_logp_old,
        token_logp_ref=token_logp_ref,
        token_weight=token_weight,
        **rewards._asdict(),
        num_policy_tokens=num_policy_tokens,
        num_rollouts=num_rollouts,
        num_steps=num_steps,
    )
    check_rewards(batch, rewards, credit=settings)
    constants = TokenConstants(token_logp_old, token_logp_ref, token_weight)
    check_tokens(batch, token_logp, constants, loss=loss)
    count = loss_count(batch, num_policy_tokens, num_rollouts, num_steps, loss=loss)
    return chosen(impl, batch.device).step_policy_loss(
        token_logp, constants, batch, rewards, credit=settings, loss=loss, count=count
    )
