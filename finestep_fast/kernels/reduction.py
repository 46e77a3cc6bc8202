"""The second, tiny launch of the policy loss: the sums of all programs become loss and metrics.

The order of every sum is fixed, so that two runs give the same bits. Reads 80 bytes for each
program of the first launch, and 12 for each step.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from finestep_fast.arguments import SCALAR_METRICS
from finestep_fast.batch import StepBatch

SUMS = (*SCALAR_METRICS, "loss")
"""What each program of the first launch leaves a number for: the scalar metrics, and the loss."""
POLICY_TOKENS = tl.constexpr(0)
LOW = tl.constexpr(1)
HIGH = tl.constexpr(2)
DUAL = tl.constexpr(3)
APPROX_KL = tl.constexpr(4)
RATIO_MEAN = tl.constexpr(5)
RATIO_MAX = tl.constexpr(6)
EFFECTIVE_SAMPLE_SIZE = tl.constexpr(7)
REFERENCE_KL = tl.constexpr(8)
LOSS = tl.constexpr(9)


@triton.jit
def store_program_sums(
    sum_ptr,  # of this program
    num_tokens,
    low_sum,
    high_sum,
    num_dual,
    kl_sum,
    ratio_sum,
    ratio_max,
    square_sum,
    reference_sum,
    loss_sum,
):
    """Add up the lanes of one program of the first launch; each sum has a row of programs."""
    row = tl.num_programs(0).to(tl.int64)
    tl.store(sum_ptr + POLICY_TOKENS * row, num_tokens.to(tl.float64))
    tl.store(sum_ptr + LOW * row, tl.sum(low_sum, axis=0).to(tl.float64))
    tl.store(sum_ptr + HIGH * row, tl.sum(high_sum, axis=0).to(tl.float64))
    tl.store(sum_ptr + DUAL * row, num_dual)
    tl.store(sum_ptr + APPROX_KL * row, tl.sum(kl_sum.to(tl.float64), axis=0))
    tl.store(sum_ptr + RATIO_MEAN * row, tl.sum(ratio_sum, axis=0))
    tl.store(sum_ptr + RATIO_MAX * row, tl.max(ratio_max, axis=0).to(tl.float64))
    tl.store(sum_ptr + EFFECTIVE_SAMPLE_SIZE * row, tl.sum(square_sum, axis=0))
    tl.store(sum_ptr + REFERENCE_KL * row, tl.sum(reference_sum.to(tl.float64), axis=0))
    tl.store(sum_ptr + LOSS * row, loss_sum)


@triton.jit(
    do_not_specialize=["num_programs", "num_rollouts"],
    do_not_specialize_on_alignment=["step_offsets_ptr", "advantage_ptr"],
)
def policy_loss_reduction(
    loss_ptr,
    metric_ptr,
    sum_ptr,  # [SUMS, num_programs] float64
    step_offsets_ptr,
    advantage_ptr,
    num_programs: tl.int64,
    num_rollouts: tl.int64,
    TINY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program i makes scalar metric i, the loss, or the mean advantage at one position."""
    i_metric = tl.program_id(0)
    o_block = tl.arange(0, BLOCK)
    value_sum = tl.zeros([BLOCK], tl.float64)
    count_sum = tl.zeros([BLOCK], tl.float64)
    if i_metric <= LOSS:
        value_max = tl.zeros([BLOCK], tl.float64)
        ratio_sum = tl.zeros([BLOCK], tl.float64)
        for i_program in range(0, num_programs, BLOCK):
            o_program = i_program + o_block
            m_program = o_program < num_programs
            row_ptr = sum_ptr + o_program
            value = tl.load(row_ptr + i_metric * num_programs, mask=m_program, other=0.0)
            value_sum += value
            value_max = tl.maximum(value_max, value)
            count_sum += tl.load(row_ptr + POLICY_TOKENS * num_programs, mask=m_program, other=0.0)
            ratio_sum += tl.load(row_ptr + RATIO_MEAN * num_programs, mask=m_program, other=0.0)
        value = tl.sum(value_sum, axis=0)
        ratio = tl.sum(ratio_sum, axis=0)
        share = 1.0 / tl.maximum(tl.sum(count_sum, axis=0), 1.0)
        if i_metric == LOSS:
            tl.store(loss_ptr, value.to(loss_ptr.dtype.element_ty))
        else:
            if i_metric == RATIO_MAX:
                # A maximum sees no NaN; the sum of the same ratios does.
                value = tl.where(ratio == ratio, tl.max(value_max, axis=0), ratio)
            elif i_metric == EFFECTIVE_SAMPLE_SIZE:
                value = ratio * ratio / tl.where(value < TINY, TINY, value) * share
            elif i_metric != POLICY_TOKENS:
                value *= share
            tl.store(metric_ptr + i_metric, value.to(metric_ptr.dtype.element_ty))
    else:
        i_position = i_metric - LOSS - 1
        for i_rollout in range(0, num_rollouts, BLOCK):
            o_rollout = i_rollout + o_block
            m_rollout = o_rollout < num_rollouts
            step = tl.load(step_offsets_ptr + o_rollout, mask=m_rollout, other=0) + i_position
            last = tl.load(step_offsets_ptr + o_rollout + 1, mask=m_rollout, other=0)
            m_step = step < last
            advantage = tl.load(advantage_ptr + step, mask=m_step, other=0.0)
            value_sum += advantage.to(tl.float64)
            count_sum += m_step.to(tl.float64)
        mean = tl.sum(value_sum, axis=0) / tl.sum(count_sum, axis=0)
        tl.store(metric_ptr + i_metric - 1, mean.to(metric_ptr.dtype.element_ty))


def reduced(
    program_sum: Tensor, batch: StepBatch, step_advantage: Tensor, *, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Launch `policy_loss_reduction`.

    Args:
        program_sum: [SUMS, programs] float64 what each program of the first launch left.
        batch: Which steps belong to which rollout; at least one rollout has steps.
        step_advantage: [S] advantages.
        dtype: Of what is returned.

    Returns:
        The loss [] and the metrics [len(SUMS) - 1 + max_rollout_steps].
    """
    max_rollout_steps = batch.max_rollout_steps
    loss = torch.empty((), dtype=dtype, device=program_sum.device)
    metrics = torch.empty(len(SUMS) - 1 + max_rollout_steps, dtype=dtype, device=program_sum.device)
    policy_loss_reduction[(len(SUMS) + max_rollout_steps,)](
        loss,
        metrics,
        program_sum,
        batch.step_offsets,
        step_advantage,
        program_sum.shape[1],
        batch.num_rollouts,
        TINY=torch.finfo(dtype).tiny,
        BLOCK=1024,
        num_warps=4,
    )
    return loss, metrics
