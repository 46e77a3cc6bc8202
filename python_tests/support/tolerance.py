"""The one tolerance rule: a candidate may be as wrong as the same-typed reference, no more."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_as_exact(candidate: Tensor, same_dtype_reference: Tensor, truth: Tensor) -> None:
    """Check `|candidate - truth| <= |reference - truth| + eps(dtype) max|truth|`, elementwise.

    In float64 the reference is the truth, with roundings of its own: there eps is
    `eps(float32)^2`, 64 units in the last place, so that nothing was a float32 on its way.

    Args:
        candidate: what is tested.
        same_dtype_reference: the reference's result in the candidate's type.
        truth: the reference's result in float64.
    """
    assert candidate.shape == truth.shape
    assert candidate.dtype == same_dtype_reference.dtype
    if truth.numel() == 0:
        return
    unit = torch.finfo(candidate.dtype).eps
    if candidate.dtype == torch.float64:
        unit = torch.finfo(torch.float32).eps ** 2
    allowed = (same_dtype_reference.double() - truth).abs() + unit * truth.abs().max()
    excess = (candidate.double() - truth).abs() - allowed
    excess[candidate == same_dtype_reference] = 0  # also where both overflow
    worst = int(excess.argmax())
    assert bool((excess <= 0).all()), (
        f"{candidate.flatten()[worst]!r} differs from {truth.flatten()[worst]!r} by more than "
        f"{allowed.flatten()[worst]:.3g}, at {worst}"
    )


def assert_as_exact_overall(candidate: Tensor, same_dtype_reference: Tensor, truth: Tensor) -> None:
    """Check `|candidate - truth| <= |reference - truth| + eps(dtype) |truth|` in the 2-norm.

    The same rule for products of matrices whose sums are not taken in the reference's order: there
    the error of one element says nothing of the other's error of that element, only the errors of
    all of them together can be compared.
    """
    assert candidate.shape == truth.shape
    assert candidate.dtype == same_dtype_reference.dtype
    unit = torch.finfo(candidate.dtype).eps
    if candidate.dtype == torch.float64:
        unit = torch.finfo(torch.float32).eps ** 2
    error = (candidate.double() - truth).norm()
    allowed = (same_dtype_reference.double() - truth).norm() + unit * truth.norm()
    assert bool(error <= allowed), f"off by {error:.3g} in the 2-norm, more than {allowed:.3g}"
