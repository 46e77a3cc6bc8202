"""Rows of logits at the ends of their range, of lengths that fit no block."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from finestep_fast.arguments import LogitRows
from finestep_fast.ops.head.implementations import ROWS
from support.impls import ROW_IMPLS

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# One; less, as many and more than a block; primes; vocabularies of Llama 2, 3, Qwen, Gemma.
SIZES = (1, 2, 3, 31, 511, 512, 513, 1031, 4096, 4099, 50257, 128256, 151643, 151936, 262144)


def _drawn(size: int, most: float) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return 20 * torch.randn(size, generator=generator, dtype=torch.float64)


def _alike(size: int, most: float) -> Tensor:
    return torch.full((size,), 3.0, dtype=torch.float64)


def _alike_and_large(size: int, most: float) -> Tensor:
    return torch.full((size,), most, dtype=torch.float64)


def _alike_and_far_below_0(size: int, most: float) -> Tensor:
    return torch.full((size,), -most, dtype=torch.float64)


def _rising(size: int, most: float) -> Tensor:
    return torch.linspace(-300, 300, size, dtype=torch.float64)


def _last_alone_can_be_drawn(size: int, most: float) -> Tensor:
    row = torch.full((size,), -math.inf, dtype=torch.float64)
    row[-1] = 0
    return row


def _last_as_large_as_can_be(size: int, most: float) -> Tensor:
    row = torch.full((size,), -most, dtype=torch.float64)
    row[-1] = most
    return row


ALIKE = (_alike, _alike_and_large, _alike_and_far_below_0)
ONE_WORD = (_last_alone_can_be_drawn, _last_as_large_as_can_be)
ROWS_OF: tuple[Callable[[int, float], Tensor], ...] = (*ALIKE, *ONE_WORD, _drawn, _rising)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("impl", ROW_IMPLS)
def test_logp_is_at_most_0_entropy_within_its_bounds_and_the_gradient_finite(
    impl: str, dtype: torch.dtype
) -> None:
    info = torch.finfo(dtype)
    for size in SIZES if dtype == torch.bfloat16 else SIZES[:-4]:
        logits = torch.stack([make(size, info.max) for make in ROWS_OF]).to(dtype)
        row = torch.arange(len(ROWS_OF))
        for target, heat in ((size - 1, 1.0), (0, 0.3), (size // 2, 3.0)):
            temperature = torch.full(row.shape, heat, dtype=torch.float64)
            rows = LogitRows(logits, row, torch.full_like(row, target), temperature)
            sums = ROWS[impl].read(rows)
            logp, entropy = sums[0], sums[1]
            assert logp.le(0).all()
            assert entropy.ge(0).all()
            assert entropy.le(math.log(size) * (1 + 1e-6) + 1e-12).all()
            uniform = torch.full((3,), -math.log(size), dtype=torch.float64)
            torch.testing.assert_close(logp[:3], uniform, rtol=1e-6, atol=1e-12)
            torch.testing.assert_close(entropy[:3], -uniform, rtol=1e-6, atol=1e-12)
            if target == size - 1:
                assert logp[3:5].eq(0).all()
            # The loss does not read the logp of a token that cannot be drawn.
            slope = logp.isfinite().double()
            gradient = torch.full_like(logits, torch.nan)
            ROWS[impl].write_gradient(rows, sums, slope, torch.full_like(slope, 0.5), gradient)
            assert gradient.isfinite().all()
            # What is added to all logits changes nothing except roundings.
            exact = gradient.double()
            allowed = info.eps * exact.abs().sum(-1) + 1e-5 / heat + size * info.tiny * info.eps
            assert (exact.sum(-1).abs() <= allowed).all()
