"""The policy loss on the device: loss, gradient and metrics of all policy tokens in one launch.

Per policy token it reads 2 or 4 bytes of each of `token_logp`, `token_logp_old` and, where given,
`token_logp_ref` and `token_weight`, and writes 2 or 4 of gradient: 12 to 20 bytes in float32, which
is what must be moved. Where steps are in order it also writes the zeros between them, so that each
element of the gradient is written once and nothing is filled before. A ratio shared by a step or a
rollout needs a mean first: its tokens are read once more, from the cache. Shared, it stands in the
place of a token's own; only where its gradient is averaged are all steps read before the first
gradient.

One program per rollout: it loops over the steps and takes their tokens in blocks. Steps have 10 to
4000 tokens. A program per block would need a table of blocks, made before the launch, and would
work out the advantage once per block; a block across steps would look up owner and advantage for
each token. Here spans are read where they are used, the credit of a rollout's steps is worked out
together, and a short step costs one block. Only a batch of few rollouts would leave a device idle:
its rollouts are dealt out, block by block, to several programs (parts). Nothing of this needs a
number from the device, and no length is compiled in.

Programs leave their sums to `finestep_fast.kernels.reduction`. Each lane of a block adds up a few
tokens in float32; lanes, steps and programs are added up in float64.
"""

from __future__ import annotations

import triton
import triton.language as tl

from finestep_fast.kernels.credit import rollout_advantage
from finestep_fast.kernels.exponential import exponentials
from finestep_fast.kernels.reduction import store_program_sums
from finestep_fast.kernels.tokens import (
    NO_KL,
    PER_ROLLOUT,
    averaged_pull,
    clear_after_steps,
    cut_log_ratio,
    kl_terms,
    ratio_bounds,
    rollout_ratio,
    step_sums,
    surrogate_slope,
    token_share,
)

TOKEN_RATIO = tl.constexpr(0)
STEP_RATIO = tl.constexpr(1)
ROLLOUT_RATIO = tl.constexpr(2)
AVERAGED_RATIO = tl.constexpr(3)
RATIOS = {"token": 0, "step": 1, "rollout": 2, "rollout_averaged": 3}


@triton.jit(
    do_not_specialize=["num_tokens", "num_steps", "num_groups", "num_parts", "max_rollout_steps"],
    do_not_specialize_on_alignment=[
        "gradient_ptr",
        "logp_ptr",
        "old_ptr",
        "ref_ptr",
        "weight_ptr",
        "step_start_ptr",
        "step_end_ptr",
        "step_offsets_ptr",
        "advantage_ptr",
        "reward_ptr",
        "outcome_ptr",
        "state_ptr",
        "value_ptr",
        "group_offsets_ptr",
        "group_rollouts_ptr",
        "count_ptr",
    ],
)
def policy_loss_forward(
    sum_ptr,  # [SUMS, programs] float64
    gradient_ptr,  # [T], or None
    logp_ptr,
    old_ptr,
    ref_ptr,
    weight_ptr,
    step_start_ptr,
    step_end_ptr,
    step_offsets_ptr,
    advantage_ptr,  # [S], read; written where rewards are given
    reward_ptr,
    outcome_ptr,
    state_ptr,
    value_ptr,
    group_offsets_ptr,
    group_rollouts_ptr,
    setting_ptr,
    count_ptr,
    count: tl.float64,
    tokens_per_count: tl.float64,
    clip_low: tl.float64,
    clip_high: tl.float64,
    dual_clip: tl.float64,  # minus one
    kl_weight: tl.float64,
    num_tokens: tl.int64,
    num_steps: tl.int64,
    num_groups: tl.int32,
    num_parts: tl.int32,
    max_rollout_steps: tl.int32,
    COMPUTE: tl.constexpr,
    PPO: tl.constexpr,
    WITH_DUAL: tl.constexpr,
    RATIO: tl.constexpr,
    AGGREGATION: tl.constexpr,
    KL: tl.constexpr,
    WITH_ZEROS: tl.constexpr,
    SCOPE: tl.constexpr,
    WITH_TRAJECTORY: tl.constexpr,
    DECOUPLED: tl.constexpr,
    POSITIONS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE_BLOCK: tl.constexpr,
):
    """Program `place * num_parts + part` takes every num_parts-th block of one rollout."""
    i_program = tl.program_id(0)
    i_place = i_program // num_parts
    i_part = i_program % num_parts
    o_position = tl.arange(0, POSITIONS)
    clip_low = tl.full((), clip_low, COMPUTE)
    clip_high = tl.full((), clip_high, COMPUTE)
    dual_clip = tl.full((), dual_clip, COMPUTE)
    kl_weight = tl.full((), kl_weight, tl.float64)

    if reward_ptr is None:
        i_rollout = i_place.to(tl.int64)
    else:
        i_rollout = tl.load(group_rollouts_ptr + i_place)
    first = tl.load(step_offsets_ptr + i_rollout)
    rollout_steps = tl.load(step_offsets_ptr + i_rollout + 1) - first
    m_position = o_position < rollout_steps
    if reward_ptr is None:
        advantages = tl.load(advantage_ptr + first + o_position, mask=m_position, other=0.0)
        advantages = advantages.to(tl.float64)
    else:
        advantages = rollout_advantage(
            i_place,
            reward_ptr,
            outcome_ptr,
            state_ptr,
            value_ptr,
            step_offsets_ptr,
            group_offsets_ptr,
            group_rollouts_ptr,
            setting_ptr,
            num_groups,
            max_rollout_steps,
            SCOPE,
            WITH_TRAJECTORY,
            DECOUPLED,
            POSITIONS,
            TILE,
        )
        if i_part == 0:
            value = advantages.to(advantage_ptr.dtype.element_ty)
            tl.store(advantage_ptr + first + o_position, value, mask=m_position)
    starts = tl.load(step_start_ptr + first + o_position, mask=m_position, other=0)
    ends = tl.load(step_end_ptr + first + o_position, mask=m_position, other=0)
    rollout_tokens = tl.sum(ends - starts, axis=0)

    divisor = tl.full((), tokens_per_count, tl.float64)
    if count_ptr is None:
        divisor *= count
    else:
        divisor *= tl.load(count_ptr).to(tl.float64)
    if AGGREGATION == PER_ROLLOUT:
        divisor *= tl.maximum(rollout_tokens, 1).to(tl.float64)

    if RATIO >= ROLLOUT_RATIO:  # AVERAGED_RATIO, too
        shared_size = tl.maximum(rollout_tokens, 1).to(tl.float64)
        shared = rollout_ratio(
            logp_ptr,
            old_ptr,
            step_start_ptr + first,
            step_end_ptr + first,
            rollout_steps,
            shared_size,
            COMPUTE,
            WIDE_BLOCK,
        )
        shared_ratio = shared[0]
        shared_minus_one = shared[1].to(COMPUTE)
    if PPO and RATIO == AVERAGED_RATIO:
        rollout_pull = averaged_pull(
            logp_ptr,
            old_ptr,
            weight_ptr,
            step_start_ptr + first,
            step_end_ptr + first,
            rollout_steps,
            advantages,
            shared_minus_one,
            divisor,
            clip_low,
            clip_high,
            dual_clip,
            COMPUTE,
            AGGREGATION,
            POSITIONS,
            WIDE_BLOCK,
        )
        slope = (-rollout_pull * shared_ratio / shared_size).to(COMPUTE)

    loss_sum = tl.full((), 0.0, tl.float64)
    low_sum = tl.zeros([BLOCK], tl.int32)
    high_sum = tl.zeros([BLOCK], tl.int32)
    if WITH_DUAL:
        dual_sum = tl.zeros([BLOCK], tl.int32)
    kl_sum = tl.zeros([BLOCK], COMPUTE)
    ratio_sum = tl.zeros([BLOCK], tl.float64)
    ratio_max = tl.zeros([BLOCK], COMPUTE)
    square_sum = tl.zeros([BLOCK], tl.float64)
    reference_sum = tl.zeros([BLOCK], COMPUTE)
    num_blocks = tl.full((), 0, tl.int32)
    for i_step in range(rollout_steps):
        start = tl.load(step_start_ptr + first + i_step)
        end = tl.load(step_end_ptr + first + i_step)
        advantage = tl.sum(tl.where(o_position == i_step, advantages, 0.0), axis=0)
        lower, upper, is_dual = ratio_bounds(advantage, clip_low, clip_high, dual_clip, PPO)
        share = token_share(divisor, end - start, AGGREGATION)
        pull = -share * advantage
        token_pull = pull.to(COMPUTE)
        token_kl = (share * kl_weight).to(COMPUTE)
        if RATIO == STEP_RATIO:
            step_log_ratio = step_sums(logp_ptr, old_ptr, None, start, end, COMPUTE, WIDE_BLOCK)[0]
            shared = exponentials(step_log_ratio / (end - start).to(tl.float64))
            shared_ratio = shared[0]
            shared_minus_one = shared[1].to(COMPUTE)

        # The objective of a token is A v x (1 + cut), with x = 1 (ppo) or logp (cispo): summed in
        # two parts, neither is rounded to the size of the other.
        objective_at_one = tl.zeros([BLOCK], COMPUTE)
        objective_beyond = tl.zeros([BLOCK], COMPUTE)
        distance = tl.zeros([BLOCK], COMPUTE)
        skip = (i_part + num_parts - num_blocks % num_parts) % num_parts
        num_blocks += tl.cdiv(end - start, BLOCK).to(tl.int32)
        for i_token in range(start + skip * BLOCK, end, num_parts * BLOCK):
            o_token = i_token + tl.arange(0, BLOCK).to(tl.int64)
            m_token = o_token < end
            # Slots behind the end look like tokens of log ratio 0 and weight 0.
            logp = tl.load(logp_ptr + o_token, mask=m_token, other=0.0).to(COMPUTE)
            old = tl.load(old_ptr + o_token, mask=m_token, other=0.0).to(COMPUTE)
            weight = m_token.to(COMPUTE)
            if weight_ptr is not None:
                weight = tl.load(weight_ptr + o_token, mask=m_token, other=0.0).to(COMPUTE)
            log_ratio, m_inside = cut_log_ratio(logp - old)
            ratio, minus_one, excess = exponentials(log_ratio)
            if RATIO != TOKEN_RATIO:
                ratio = tl.zeros([BLOCK], COMPUTE) + shared_ratio.to(COMPUTE)
                minus_one = tl.where(m_token, shared_minus_one, 0.0)
            is_below = minus_one < lower
            is_above = minus_one > upper
            cut = tl.where(is_below, lower, tl.where(is_above, upper, minus_one))
            at_one = weight if PPO else weight * logp
            objective_at_one += at_one
            objective_beyond += at_one * cut
            if PPO and RATIO == AVERAGED_RATIO:
                gradient = tl.where(m_inside, slope, 0.0)
            else:
                pulled = token_pull * weight
                gradient = surrogate_slope(pulled, minus_one, lower, upper, m_inside, PPO)
            if KL != NO_KL:
                ref = tl.load(ref_ptr + o_token, mask=m_token, other=0.0).to(COMPUTE)
                log_ratio_ref, m_inside_ref = cut_log_ratio(ref - logp)
                kl, kl_slope = kl_terms(log_ratio_ref, m_inside_ref, KL)
                distance += kl
                gradient += token_kl * kl_slope
            if gradient_ptr is not None:
                value = gradient.to(gradient_ptr.dtype.element_ty)
                tl.store(gradient_ptr + o_token, value, mask=m_token)
            low_sum += is_below.to(tl.int32)
            high_sum += is_above.to(tl.int32) * (1 - is_dual)
            if WITH_DUAL:
                dual_sum += is_above.to(tl.int32) * is_dual
            kl_sum += excess
            ratio = tl.where(m_token, ratio, 0.0)
            ratio_max = tl.maximum(ratio_max, ratio)
            ratio = ratio.to(tl.float64)
            ratio_sum += ratio
            square_sum += ratio * ratio
        objective = objective_at_one.to(tl.float64) + objective_beyond.to(tl.float64)
        loss_sum += tl.sum(pull * objective + share * kl_weight * distance.to(tl.float64), axis=0)
        reference_sum += distance

    num_dual = tl.full((), 0.0, tl.float64)
    if WITH_DUAL:
        num_dual += tl.sum(dual_sum, axis=0).to(tl.float64)
    store_program_sums(
        sum_ptr + i_program,
        tl.where(i_part == 0, rollout_tokens, 0),
        low_sum,
        high_sum,
        num_dual,
        kl_sum,
        ratio_sum,
        ratio_max,
        square_sum,
        reference_sum,
        loss_sum,
    )
    if WITH_ZEROS and gradient_ptr is not None:
        clear_after_steps(
            gradient_ptr,
            step_start_ptr,
            step_end_ptr,
            first,
            rollout_steps,
            num_steps,
            num_tokens,
            i_part,
            num_parts,
            WIDE_BLOCK,
        )
