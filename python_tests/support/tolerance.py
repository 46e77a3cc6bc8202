"""The one tolerance rule: a candidate may be as wrong as the same-typed reference, no more."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_as_exact(candidate: Tensor, same_dtype_reference: Tensor, truth: Tensor) -> None:
    """Check `|candidate - truth| <= |reference - truth| + eps(dtype) max|truth|`, elementwise.

    Args:
        candidate: what is tested.
        same_dtype_reference: the reference's result in the candidate's type.
        truth: the reference's result in float64.
    """
    assert candidate.shape == truth.shape
    assert candidate.dtype == same_dtype_reference.dtype
    if truth.numel() == 0:
        return
    allowed = (same_dtype_reference.double() - truth).abs() + _eps(candidate) * truth.abs().max()
    allowed[candidate == same_dtype_reference] = torch.inf  # also where both overflow
    _assert_within(candidate, truth, allowed)


def assert_rounded_alone(candidate: Tensor, truth: Tensor, units: Tensor) -> None:
    """Check `|candidate - truth| <= eps(dtype) units`, elementwise.

    Args:
        candidate: what is tested.
        truth: the reference's result in float64.
        units: how much one eps may amount to, float64; see `support.head_roundings`.
    """
    assert candidate.shape == truth.shape == units.shape
    if truth.numel():
        _assert_within(candidate, truth, _eps(candidate) * units)


def assert_as_exact_overall(candidate: Tensor, same_dtype_reference: Tensor, truth: Tensor) -> None:
    """Check `|candidate - truth| <= |reference - truth| + eps(dtype) |truth|` in the 2-norm.

    The rule of `assert_as_exact` for products of matrices with sums that are not taken in the
    reference's order: there the error of one element says nothing of the other's error of that
    element, only the errors of all of them together can be compared.
    """
    assert candidate.shape == truth.shape
    assert candidate.dtype == same_dtype_reference.dtype
    error = (candidate.double() - truth).norm()
    allowed = (same_dtype_reference.double() - truth).norm() + _eps(candidate) * truth.norm()
    assert bool(error <= allowed), f"off by {error:.3g} in the 2-norm, more than {allowed:.3g}"


def _assert_within(candidate: Tensor, truth: Tensor, allowed: Tensor) -> None:
    error = (candidate.double() - truth).abs()
    wrong = ~(error <= allowed) & (allowed != torch.inf)  # so NaN is wrong
    worst = int((error - allowed).nan_to_num(nan=torch.inf).masked_fill(~wrong, -1).argmax())
    assert not wrong.any(), (
        f"{candidate.flatten()[worst]!r} differs from {truth.flatten()[worst]!r} by more than "
        f"{allowed.flatten()[worst]:.3g}, at {worst}"
    )


def _eps(candidate: Tensor) -> float:
    """The distance of numbers around 1.

    In float64 the reference is the truth, with roundings of its own: there it is `eps(float32)^2`,
    64 units in the last place, so that nothing was a float32 on its way.
    """
    if candidate.dtype == torch.float64:
        return torch.finfo(torch.float32).eps ** 2
    return torch.finfo(candidate.dtype).eps
