"""Exponentials of log ratios: as good as torch's in float64, rounded to float32."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from finestep_fast.kernels.exponential import exponentials
from support.entry_points import device_of

DEVICE = device_of("triton")
SIZE = 8192


@triton.jit  # type: ignore[untyped-decorator]
def _exponentials(x_ptr, ratio_ptr, minus_one_ptr, excess_ptr, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    offset = tl.arange(0, SIZE)
    ratio, minus_one, excess = exponentials(tl.load(x_ptr + offset))
    tl.store(ratio_ptr + offset, ratio)
    tl.store(minus_one_ptr + offset, minus_one)
    tl.store(excess_ptr + offset, excess)


def by_kernel(x: Tensor) -> tuple[Tensor, ...]:
    out = [torch.empty_like(x, device=DEVICE) for _ in range(3)]
    _exponentials[(1,)](x.to(DEVICE), *out, SIZE=SIZE)
    return tuple(part.cpu() for part in out)


def arguments(dtype: torch.dtype) -> Tensor:
    everywhere = torch.linspace(-20, 20, SIZE // 2, dtype=torch.float64)
    near_zero = torch.logspace(-9, 0.3, SIZE // 4, dtype=torch.float64)
    return torch.cat([everywhere, near_zero, -near_zero]).to(dtype)


@pytest.mark.parametrize(("dtype", "units"), [(torch.float32, 1.0), (torch.float64, 2.0)])
def test_ratios_are_exact_to_the_last_place(dtype: torch.dtype, units: float) -> None:
    x = arguments(dtype)
    ratio, minus_one, _ = by_kernel(x)
    for value, truth in ((ratio, x.double().exp()), (minus_one, x.double().expm1())):
        error = (value.double() - truth).abs() / truth.abs()
        assert error.max() <= units * torch.finfo(dtype).eps


def test_what_a_ratio_exceeds_its_tangent_by_does_not_cancel() -> None:
    # expm1(x) - x in float64 has lost 16 digits less those of x: enough for x above 1e-4.
    x = arguments(torch.float32)
    excess = by_kernel(x)[2].double()
    series = x.double() ** 2 / 2 * (1 + x.double() / 3 * (1 + x.double() / 4))
    truth = torch.where(x.abs() < 1e-3, series, x.double().expm1() - x.double())
    assert ((excess - truth).abs() / truth).max() <= 2 * torch.finfo(torch.float32).eps


def test_zero_is_exact_and_a_nan_stays_one() -> None:
    x = torch.zeros(SIZE)
    x[1] = float("nan")
    ratio, minus_one, excess = by_kernel(x)
    assert [part[0].item() for part in (ratio, minus_one, excess)] == [1, 0, 0]
    assert all(part[1].isnan() for part in (ratio, minus_one, excess))
