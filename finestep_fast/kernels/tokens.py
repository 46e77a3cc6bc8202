"""What the policy loss does with tokens, step by step: device helpers, no kernel of their own."""

from __future__ import annotations

import triton
import triton.language as tl

from finestep_fast.arguments import LOG_RATIO_LIMIT
from finestep_fast.kernels.exponential import exponentials

LIMIT = tl.constexpr(LOG_RATIO_LIMIT)
"""Differences of logps are cut to plus and minus this."""

PER_TOKEN = tl.constexpr(0)
PER_ROLLOUT = tl.constexpr(1)
PER_STEP = tl.constexpr(2)
AGGREGATIONS = {"token_mean": 0, "constant": 0, "rollout_mean": 1, "step_mean": 2}
"""Whether a weight is divided by the tokens of a step or rollout, too."""

NO_KL = tl.constexpr(0)
K1 = tl.constexpr(1)
K2 = tl.constexpr(2)
K3 = tl.constexpr(3)
KLS = {None: 0, "k1": 1, "k2": 2, "k3": 3}

NEVER = tl.constexpr(1e9)
"""Above exp(20), the largest ratio."""


@triton.jit
def cut_log_ratio(x):
    """Return a difference of logps cut to +- LIMIT, and where it was not cut; a NaN never is."""
    is_above = x > LIMIT
    is_below = x < -LIMIT
    return tl.where(is_above, LIMIT, tl.where(is_below, -LIMIT, x)), (is_above | is_below) == 0


@triton.jit
def ratio_bounds(advantage, clip_low, clip_high, dual_clip, PPO: tl.constexpr):
    """Return the bounds of the ratio, minus one, and 1 where the upper one is the dual clip.

    `min(rho A, clip(rho) A) = A min(rho, 1 + clip_high)` for A > 0; for A < 0 it is
    `A max(rho, 1 - clip_low)`, and at least c A: `A min(.., c)`. So both are one cut of rho.
    """
    lower = -clip_low
    upper = clip_high
    is_dual = tl.full((), 0, tl.int32)
    if PPO:
        lower = tl.where(advantage < 0.0, lower, -NEVER)
        upper = tl.where(advantage > 0.0, upper, tl.where(advantage < 0.0, dual_clip, NEVER))
        is_dual = (advantage < 0.0).to(tl.int32)
    return lower, upper, is_dual


@triton.jit
def surrogate_slope(pull, minus_one, lower, upper, m_inside, PPO: tl.constexpr):
    """Return d loss / d logp of a token, its ratio held by the bounds; it is `pull` at ratio 1.

    A shared ratio stands in the place of the token's own. A cut ratio has no slope in ppo; in cispo
    it is a constant that weighs the logp.
    """
    is_below = minus_one < lower
    is_above = minus_one > upper
    if PPO:
        slope = tl.where(is_below | is_above, 0.0, pull + pull * minus_one)
        slope = tl.where(m_inside, slope, 0.0)
    else:
        slope = pull + pull * tl.where(is_below, lower, tl.where(is_above, upper, minus_one))
    return slope


@triton.jit
def kl_terms(log_ratio_ref, m_inside, KL: tl.constexpr):
    """Return an estimate of the distance to the reference, and its slope in the logp."""
    if KL == K1:
        kl = -log_ratio_ref
        slope = 1.0 + (log_ratio_ref - log_ratio_ref)  # 1, or NaN
    elif KL == K2:
        kl = log_ratio_ref * log_ratio_ref * 0.5
        slope = -log_ratio_ref
    else:
        _ratio, minus_one, kl = exponentials(log_ratio_ref)
        slope = -minus_one
    return kl, tl.where(m_inside, slope, 0.0)


@triton.jit
def step_sums(
    logp_ptr, old_ptr, weight_ptr, start, end, COMPUTE: tl.constexpr, WIDE_BLOCK: tl.constexpr
):
    """Return the sums of the log ratios and of the token weights of a step, float64."""
    log_ratio = tl.zeros([WIDE_BLOCK], COMPUTE)
    weight = tl.zeros([WIDE_BLOCK], COMPUTE)
    for i_token in range(start, end, WIDE_BLOCK):
        o_token = i_token + tl.arange(0, WIDE_BLOCK).to(tl.int64)
        m_token = o_token < end
        logp = tl.load(logp_ptr + o_token, mask=m_token, other=0.0).to(COMPUTE)
        old = tl.load(old_ptr + o_token, mask=m_token, other=0.0).to(COMPUTE)
        log_ratio += cut_log_ratio(logp - old)[0]
        if weight_ptr is not None:
            weight += tl.load(weight_ptr + o_token, mask=m_token, other=0.0).to(COMPUTE)
    if weight_ptr is None:
        total_weight = (end - start).to(tl.float64)
    else:
        total_weight = tl.sum(weight.to(tl.float64), axis=0)
    return tl.sum(log_ratio.to(tl.float64), axis=0), total_weight


@triton.jit
def token_share(divisor, num_tokens, AGGREGATION: tl.constexpr):
    """Return the weight w_t of a step's tokens, float64."""
    if AGGREGATION == PER_STEP:
        divisor *= num_tokens.to(tl.float64)
    return 1.0 / divisor


@triton.jit
def rollout_ratio(
    logp_ptr,
    old_ptr,
    step_start_ptr,  # of the rollout's first step
    step_end_ptr,
    rollout_steps,
    rollout_tokens,
    COMPUTE: tl.constexpr,
    WIDE_BLOCK: tl.constexpr,
):
    """Return what `exponentials` makes of the mean log ratio of a rollout's tokens."""
    log_ratio = tl.full((), 0.0, tl.float64)
    for i_step in range(rollout_steps):
        start = tl.load(step_start_ptr + i_step)
        end = tl.load(step_end_ptr + i_step)
        log_ratio += step_sums(logp_ptr, old_ptr, None, start, end, COMPUTE, WIDE_BLOCK)[0]
    return exponentials(log_ratio / rollout_tokens)


@triton.jit
def averaged_pull(
    logp_ptr,
    old_ptr,
    weight_ptr,
    step_start_ptr,  # of the rollout's first step
    step_end_ptr,
    rollout_steps,
    advantages,
    shared_minus_one,
    divisor,
    clip_low,
    clip_high,
    dual_clip,
    COMPUTE: tl.constexpr,
    AGGREGATION: tl.constexpr,
    POSITIONS: tl.constexpr,
    WIDE_BLOCK: tl.constexpr,
):
    """Return what the objective of a rollout gains with its ratio, all its steps together (ppo)."""
    o_position = tl.arange(0, POSITIONS)
    rollout_pull = tl.full((), 0.0, tl.float64)
    for i_step in range(rollout_steps):
        start = tl.load(step_start_ptr + i_step)
        end = tl.load(step_end_ptr + i_step)
        advantage = tl.sum(tl.where(o_position == i_step, advantages, 0.0), axis=0)
        bounds = ratio_bounds(advantage, clip_low, clip_high, dual_clip, True)
        held = (shared_minus_one < bounds[0]) | (shared_minus_one > bounds[1])
        step_weight = (end - start).to(tl.float64)
        if weight_ptr is not None:
            step_weight = step_sums(logp_ptr, old_ptr, weight_ptr, start, end, COMPUTE, WIDE_BLOCK)[
                1
            ]
        share = token_share(divisor, end - start, AGGREGATION)
        rollout_pull += tl.where(held, 0.0, share * advantage * step_weight)
    return rollout_pull


@triton.jit
def store_zeros(gradient_ptr, start, end, i_part, num_parts, WIDE_BLOCK: tl.constexpr):
    """Write zeros to gradient[start:end]; each of the parts writes some."""
    for i_token in range(start + i_part * WIDE_BLOCK, end, num_parts * WIDE_BLOCK):
        o_token = i_token + tl.arange(0, WIDE_BLOCK).to(tl.int64)
        zero = tl.zeros([WIDE_BLOCK], gradient_ptr.dtype.element_ty)
        tl.store(gradient_ptr + o_token, zero, mask=o_token < end)


@triton.jit
def clear_after_steps(
    gradient_ptr,
    step_start_ptr,
    step_end_ptr,
    first,
    rollout_steps,
    num_steps,
    num_tokens,
    i_part,
    num_parts,
    WIDE_BLOCK: tl.constexpr,
):
    """Write zeros after each step of a rollout, up to the next; before the first of all, too."""
    for i_step in range(first, first + rollout_steps):
        start = tl.load(step_end_ptr + i_step)
        i_next = i_step + 1
        end = tl.load(step_start_ptr + i_next, mask=i_next < num_steps, other=num_tokens)
        store_zeros(gradient_ptr, start, end, i_part, num_parts, WIDE_BLOCK)
        if i_step == 0:
            end = tl.load(step_start_ptr)
            store_zeros(gradient_ptr, end * 0, end, i_part, num_parts, WIDE_BLOCK)
