"""From rows of logits to the policy loss's gradient: a program per row that is inside a step.

Of a row of V logits of 2 bytes, 4 V bytes must be moved: read once, its gradient written once.
`logits_loss_rows` does that where its second pass finds the row in the cache, and 6 V else: it
reads a row, has its logp and entropy, works out what the loss makes of them and writes the
gradient, all in one launch. That needs the ratio to be the token's own. A shared one needs all
logps before the first gradient: `read_logit_rows` (2 V), the loss, `write_logit_gradients` (4 V).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from finestep_fast.arguments import LogitRows, TokenTerms
from finestep_fast.config import LossConfig
from finestep_fast.kernels.exponential import exponentials
from finestep_fast.kernels.row_sums import ALIGN, row_sums, write_row, write_zeros
from finestep_fast.kernels.tokens import (
    KLS,
    NEVER,
    NO_KL,
    cut_log_ratio,
    kl_terms,
    ratio_bounds,
    surrogate_slope,
)


@triton.jit(
    do_not_specialize=["num_rows", "vocabulary"],
    do_not_specialize_on_alignment=[
        "sum_ptr",
        "row_ptr",
        "target_ptr",
        "temperature_ptr",
    ],
)
def read_logit_rows(
    sum_ptr,  # [4, C] float64: logp, entropy, maximum, total
    logits_ptr,
    row_ptr,
    target_ptr,
    temperature_ptr,
    num_rows: tl.int64,
    vocabulary: tl.int32,
    COMPUTE: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program i reads row row[i]."""
    i_row = tl.program_id(0).to(tl.int64)
    logp, entropy, maximum, total = row_sums(
        logits_ptr,
        tl.load(row_ptr + i_row) * vocabulary,
        vocabulary,
        tl.load(target_ptr + i_row),
        tl.load(temperature_ptr + i_row),
        COMPUTE,
        LOWEST,
        BLOCK,
    )
    store_sums(sum_ptr + i_row, num_rows, logp, entropy, maximum, total)


@triton.jit(
    do_not_specialize=["num_rows", "vocabulary"],
    do_not_specialize_on_alignment=[
        "sum_ptr",
        "row_ptr",
        "target_ptr",
        "temperature_ptr",
        "logp_slope_ptr",
        "entropy_slope_ptr",
    ],
)
def write_logit_gradients(
    gradient_ptr,  # [rows, V]; may be the logits
    logits_ptr,
    sum_ptr,
    row_ptr,
    target_ptr,
    temperature_ptr,
    logp_slope_ptr,
    entropy_slope_ptr,  # or None
    num_rows: tl.int64,
    vocabulary: tl.int32,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program i writes row row[i]."""
    i_row = tl.program_id(0).to(tl.int64)
    entropy_slope = tl.full((), 0.0, tl.float64)
    if entropy_slope_ptr is not None:
        entropy_slope += tl.load(entropy_slope_ptr + i_row)
    write_row(
        gradient_ptr,
        logits_ptr,
        tl.load(row_ptr + i_row) * vocabulary,
        vocabulary,
        tl.load(target_ptr + i_row),
        tl.load(temperature_ptr + i_row),
        tl.load(sum_ptr + i_row),
        tl.load(sum_ptr + num_rows + i_row),
        tl.load(sum_ptr + 2 * num_rows + i_row),
        tl.load(sum_ptr + 3 * num_rows + i_row),
        tl.load(logp_slope_ptr + i_row),
        entropy_slope,
        COMPUTE,
        BLOCK,
    )


@triton.jit(
    do_not_specialize=["num_rows", "vocabulary"],
    do_not_specialize_on_alignment=[
        "sum_ptr",
        "row_ptr",
        "target_ptr",
        "temperature_ptr",
        "old_ptr",
        "ref_ptr",
        "weight_ptr",
        "advantage_ptr",
        "share_ptr",
    ],
)
def logits_loss_rows(
    gradient_ptr,  # [rows, V]; may be the logits
    sum_ptr,  # [4, C] float64
    logits_ptr,
    row_ptr,
    target_ptr,
    temperature_ptr,
    old_ptr,
    ref_ptr,
    weight_ptr,
    advantage_ptr,
    share_ptr,
    clip_low: tl.float64,
    clip_high: tl.float64,
    dual_clip: tl.float64,  # minus one
    kl_weight: tl.float64,
    entropy_weight: tl.float64,
    num_rows: tl.int64,
    vocabulary: tl.int32,
    COMPUTE: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK: tl.constexpr,
    PPO: tl.constexpr,
    KL: tl.constexpr,
):
    """Program i reads row row[i] and writes its gradient."""
    i_row = tl.program_id(0).to(tl.int64)
    clip_low = tl.full((), clip_low, tl.float64)
    clip_high = tl.full((), clip_high, tl.float64)
    dual_clip = tl.full((), dual_clip, tl.float64)
    first = tl.load(row_ptr + i_row) * vocabulary
    target = tl.load(target_ptr + i_row)
    temperature = tl.load(temperature_ptr + i_row)
    logp, entropy, maximum, total = row_sums(
        logits_ptr, first, vocabulary, target, temperature, COMPUTE, LOWEST, BLOCK
    )
    store_sums(sum_ptr + i_row, num_rows, logp, entropy, maximum, total)

    advantage = tl.load(advantage_ptr + i_row)
    share = tl.load(share_ptr + i_row)
    pull = -share * advantage
    if weight_ptr is not None:
        pull *= tl.load(weight_ptr + i_row).to(tl.float64)
    log_ratio, m_inside = cut_log_ratio(logp - tl.load(old_ptr + i_row).to(tl.float64))
    minus_one = exponentials(log_ratio)[1]
    lower, upper, _is_dual = ratio_bounds(advantage, clip_low, clip_high, dual_clip, PPO)
    slope = surrogate_slope(pull, minus_one, lower, upper, m_inside, PPO)
    if KL != NO_KL:
        log_ratio_ref, m_inside_ref = cut_log_ratio(tl.load(ref_ptr + i_row).to(tl.float64) - logp)
        slope += share * kl_weight * kl_terms(log_ratio_ref, m_inside_ref, KL)[1]
    write_row(
        gradient_ptr,
        logits_ptr,
        first,
        vocabulary,
        target,
        temperature,
        logp,
        entropy,
        maximum,
        total,
        slope,
        -entropy_weight * share,
        COMPUTE,
        BLOCK,
    )


@triton.jit
def store_sums(sum_ptr, num_rows, logp, entropy, maximum, total):
    """Write what `row_sums` found, [4, C]."""
    tl.store(sum_ptr, logp)
    tl.store(sum_ptr + num_rows, entropy)
    tl.store(sum_ptr + 2 * num_rows, maximum)
    tl.store(sum_ptr + 3 * num_rows, total)


@triton.jit(do_not_specialize=["vocabulary"], do_not_specialize_on_alignment=["is_kept_ptr"])
def clear_logit_rows(gradient_ptr, is_kept_ptr, vocabulary: tl.int32, BLOCK: tl.constexpr):
    """Program i writes zeros to row i unless that is kept."""
    i_row = tl.program_id(0).to(tl.int64)
    if tl.load(is_kept_ptr + i_row) == 0:
        write_zeros(gradient_ptr, i_row * vocabulary, vocabulary, BLOCK)


def read(rows: LogitRows) -> Tensor:
    """Return logp, entropy, largest logit, sum of exponentials, [4, C] float64, in one launch."""
    sums = rows.temperature.new_empty((4, rows.row.numel()))
    if rows.row.numel():
        with torch.cuda.device_of(rows.logits):
            read_logit_rows[(rows.row.numel(),)](
                sums, *rows, rows.row.numel(), rows.logits.shape[-1], **_constants(rows.logits)
            )
    return sums


def write(
    rows: LogitRows,
    sums: Tensor,
    logp_slope: Tensor,
    entropy_slope: Tensor | None,
    gradient: Tensor,
) -> None:
    """Write the gradients of rows that were read, in one launch.

    Args:
        rows: as they were read.
        sums: [4, C], what `read` returned.
        logp_slope: [C] float64 d loss / d logp.
        entropy_slope: [C] float64 d loss / d entropy.
        gradient: [rows, V] of the logits' dtype, or the logits.
    """
    if rows.row.numel() == 0:
        return
    constants = _constants(rows.logits)
    del constants["LOWEST"]
    with torch.cuda.device_of(rows.logits):
        write_logit_gradients[(rows.row.numel(),)](
            gradient,
            rows.logits,
            sums,
            rows.row,
            rows.target,
            rows.temperature,
            logp_slope,
            entropy_slope,
            rows.row.numel(),
            rows.logits.shape[-1],
            **constants,
        )


def read_and_write(
    rows: LogitRows,
    terms: TokenTerms,
    *,
    loss: LossConfig,
    entropy_weight: float,
    gradient: Tensor,
) -> Tensor:
    """Return what `read` does, and write the gradients for a ratio of each token's own: one launch.

    Args:
        rows: of which tokens.
        terms: of the same tokens.
        loss: The settings.
        entropy_weight: Of the entropy bonus.
        gradient: [rows, V] of the logits' dtype, or the logits.
    """
    sums = rows.temperature.new_empty((4, rows.row.numel()))
    if rows.row.numel():
        with torch.cuda.device_of(rows.logits):
            logits_loss_rows[(rows.row.numel(),)](
                gradient,
                sums,
                *rows,
                *terms,
                float(loss.clip_low),
                float(loss.clip_high),
                NEVER.value if loss.dual_clip is None else loss.dual_clip - 1.0,
                float(loss.kl_weight),
                float(entropy_weight),
                rows.row.numel(),
                rows.logits.shape[-1],
                **_constants(rows.logits),
                PPO=loss.kind == "ppo",
                KL=KLS[loss.kl],
            )
    return sums


def clear_others(gradient: Tensor, row: Tensor) -> None:
    """Write zeros to the rows of gradient [rows, V] that are not among `row` [C], in one launch."""
    if gradient.numel() == 0:
        return
    is_kept = torch.zeros(gradient.shape[0], dtype=torch.uint8, device=gradient.device)
    is_kept.index_fill_(0, row, 1)
    shape = _shape(gradient)
    with torch.cuda.device_of(gradient):
        clear_logit_rows[(gradient.shape[0],)](gradient, is_kept, gradient.shape[1], **shape)


def _constants(logits: Tensor) -> dict[str, object]:
    """What kernels are compiled for: types, the ends of their range, blocks."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return {
        "COMPUTE": tl.float64 if wide == torch.float64 else tl.float32,
        "LOWEST": torch.finfo(wide).min,
        **_shape(logits),
    }


def _shape(logits: Tensor) -> dict[str, int]:
    """Blocks as wide as a row, within limits."""
    largest = 2048 if logits.dtype == torch.float64 else 8192
    block = max(64, min(largest, triton.next_power_of_2(logits.shape[-1] + ALIGN.value - 1)))
    return {"BLOCK": block, "num_warps": max(1, min(16, block // 256))}
