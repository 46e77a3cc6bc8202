"""One row of logits, read and turned into its gradient: device helpers, no kernel of their own.

A row is read once, lane by lane: each lane keeps its own largest logit and, relative to that, the
sums of `exp` and of `x exp` (online log-sum-exp, arXiv:1805.02867). One `exp` per element does:
`exp(-|d|)` of the difference to the largest so far rescales the sums or is the new term. Lanes are
added up in float64 at the end.

Rows of a vocabulary that is no multiple of 16 do not start at a multiple of 16 bytes. Blocks are
therefore laid from the last such place before the row; only the first and the last, which hang over
an end of the row, are masked, all others move as wide as the memory allows, and nothing outside the
row is touched. The masks stand before and after the loop: a load in a branch of it would wait for
its turn, and one in the loop itself is begun STAGES - 1 blocks ahead (`cp.async` on NVIDIA's).
"""

from __future__ import annotations

import triton
import triton.language as tl

from finestep_fast.kernels.exponential import exponentials

ALIGN = tl.constexpr(16)
"""Elements: a multiple of 16 bytes in every dtype."""
STAGES = tl.constexpr(3)
"""Of the loops over a row: two blocks are on their way while one is computed."""
FARTHEST = tl.constexpr(1e4)
"""Its exponential is 0 in every dtype, and it is not infinite: 0 times it is 0."""


@triton.jit
def load_end(row_ptr, start, shift, end, BLOCK: tl.constexpr):
    """Return elements [start, start + BLOCK) counted from row_ptr; -inf outside [shift, end)."""
    o_block = start + tl.arange(0, BLOCK)
    m_row = (o_block >= shift) & (o_block < end)
    return tl.load(row_ptr + o_block, mask=m_row, other=float("-inf"))


@triton.jit
def store_end(row_ptr, value, start, shift, end, BLOCK: tl.constexpr):
    """Write elements [start, start + BLOCK) counted from row_ptr, but none outside [shift, end)."""
    o_block = start + tl.arange(0, BLOCK)
    m_row = (o_block >= shift) & (o_block < end)
    tl.store(row_ptr + o_block, value.to(row_ptr.dtype.element_ty), mask=m_row)


@triton.jit
def cut(x):
    """Return x, and FARTHEST where that is less; a NaN stays one."""
    return tl.where(x > FARTHEST, FARTHEST, x)


@triton.jit
def _added(logit, largest, total, weighted, factor):
    """Return the lanes' largest logits and sums with one logit more for each."""
    logit = logit.to(largest.dtype)
    apart = (logit - largest) * factor
    is_larger = apart > 0.0
    apart = cut(tl.abs(apart))
    term = tl.exp(-apart)
    weighted = tl.where(is_larger, term * (weighted - apart * total), weighted - apart * term)
    total = tl.where(is_larger, total * term + 1.0, total + term)
    return tl.where(is_larger, logit, largest), total, weighted


@triton.jit
def row_sums(
    logits_ptr,
    first,
    vocabulary,
    target,
    temperature,
    COMPUTE: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return logp of the target, entropy, largest logit, sum of exp(z - largest), in float64.

    Logits z are divided by the temperature.
    """
    inverse = 1.0 / temperature
    factor = inverse.to(COMPUTE)
    row_ptr = logits_ptr + first // ALIGN * ALIGN
    shift = (first % ALIGN).to(tl.int32)
    end = shift + vocabulary
    of_target = tl.load(logits_ptr + first + target).to(COMPUTE)
    # Every lane begins at the target's: no difference is larger than those within the row.
    largest = tl.zeros([BLOCK], COMPUTE) + tl.where(of_target < LOWEST, LOWEST, of_target)
    total = tl.zeros([BLOCK], COMPUTE)
    weighted = tl.zeros([BLOCK], COMPUTE)
    logit = load_end(row_ptr, 0, shift, end, BLOCK)
    largest, total, weighted = _added(logit, largest, total, weighted, factor)
    last = end // BLOCK * BLOCK
    for start in tl.range(BLOCK, last, BLOCK, num_stages=STAGES):
        logit = tl.load(row_ptr + start + tl.arange(0, BLOCK))
        largest, total, weighted = _added(logit, largest, total, weighted, factor)
    if (last > 0) & (last < end):
        logit = load_end(row_ptr, last, shift, end, BLOCK)
        largest, total, weighted = _added(logit, largest, total, weighted, factor)
    maximum = tl.max(largest, axis=0)
    apart = cut((maximum - largest) * factor)
    term = tl.exp(-apart)
    row_weighted = tl.sum((term * (weighted - apart * total)).to(tl.float64), axis=0)
    row_total = tl.sum((term * total).to(tl.float64), axis=0)
    maximum = maximum.to(tl.float64)
    row_total += (maximum - maximum) * 0.0  # of an infinite logit nothing can be said
    log_total = tl.log(row_total)
    entropy = log_total - row_weighted / row_total
    entropy = tl.where(entropy < 0.0, 0.0, entropy)
    return (of_target.to(tl.float64) - maximum) * inverse - log_total, entropy, maximum, row_total


@triton.jit
def write_row(
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
    logp_slope,
    entropy_slope,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write d loss / d logit of a row, in whose place the logits may be; 0 where slopes are 0.

    With x = (z - maximum) / temperature and p = exp(x) / total:
    `gradient = (logp_slope (1[target] - p) - entropy_slope p (log p + entropy)) / temperature`.
    """
    inverse = 1.0 / temperature
    base = first // ALIGN * ALIGN
    shift = (first % ALIGN).to(tl.int32)
    end = shift + vocabulary
    if (logp_slope == 0.0) & (entropy_slope == 0.0):
        write_zeros(gradient_ptr, first, vocabulary, BLOCK)
    else:
        # What all of a row share is multiplied in float64, and rounded once.
        share = inverse / total
        mean = entropy - tl.log(total)  # of -x
        constant = (-(logp_slope + entropy_slope * mean) * share).to(COMPUTE)
        slope = (-entropy_slope * share).to(COMPUTE)
        # Of the target 1 - p, which is -expm1(logp): a sure target leaves more than a rounding.
        near = tl.where(logp < -20.0, -20.0, logp)
        minus_one = exponentials(near)[1]
        finite = tl.where(logp < -1e4, -1e4, logp)  # 0 log 0 = 0
        of_target = -logp_slope * minus_one - entropy_slope * tl.exp(finite) * (finite + entropy)
        of_target = (of_target * inverse).to(COMPUTE)
        factor = inverse.to(COMPUTE)
        largest = maximum.to(COMPUTE)
        row_ptr = logits_ptr + base
        to_ptr = gradient_ptr + base
        # All of a block that depends on no other: it may be loaded while others are written.
        terms = (largest, factor, constant, slope, shift + target.to(tl.int32), of_target)
        value = _gradient(load_end(row_ptr, 0, shift, end, BLOCK), 0, terms, BLOCK)
        store_end(to_ptr, value, 0, shift, end, BLOCK)
        last = end // BLOCK * BLOCK
        for start in tl.range(BLOCK, last, BLOCK, num_stages=STAGES):
            o_block = start + tl.arange(0, BLOCK)
            value = _gradient(tl.load(row_ptr + o_block), start, terms, BLOCK)
            tl.store(to_ptr + o_block, value.to(gradient_ptr.dtype.element_ty))
        if (last > 0) & (last < end):
            value = _gradient(load_end(row_ptr, last, shift, end, BLOCK), last, terms, BLOCK)
            store_end(to_ptr, value, last, shift, end, BLOCK)


@triton.jit
def _gradient(logit, start, terms, BLOCK: tl.constexpr):
    """Return the gradients of the logits of a block, of which one may be the target's."""
    largest, factor, constant, slope, place, of_target = terms
    apart = cut((largest - logit.to(largest.dtype)) * factor)
    value = tl.exp(-apart) * (constant - slope * apart)
    return tl.where(start + tl.arange(0, BLOCK) == place, of_target, value)


@triton.jit
def write_zeros(gradient_ptr, first, vocabulary, BLOCK: tl.constexpr):
    """Write a row of zeros."""
    base = first // ALIGN * ALIGN
    shift = (first % ALIGN).to(tl.int32)
    end = shift + vocabulary
    zeros = tl.zeros([BLOCK], gradient_ptr.dtype.element_ty)
    last = end // BLOCK * BLOCK
    store_end(gradient_ptr + base, zeros, 0, shift, end, BLOCK)
    for start in range(BLOCK, last, BLOCK):
        tl.store(gradient_ptr + base + start + tl.arange(0, BLOCK), zeros)
    if (last > 0) & (last < end):
        store_end(gradient_ptr + base, zeros, last, shift, end, BLOCK)
