"""From masks and labels to positions, and what is refused of them: what a `StepBatch` is made of.

Knows no batch and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from finestep_fast.errors import BuildError, InputError, shown


def group_labels(group_of_rollout: Tensor | Sequence[int], *, num_rollouts: int) -> Tensor:
    """Return one integer for each rollout, equal ones for one group."""
    expected = f"integers of shape ({num_rollouts},), one for each rollout"
    if isinstance(group_of_rollout, Tensor):
        check_readable("group_of_rollout", group_of_rollout, expected)
    try:
        label = torch.as_tensor(group_of_rollout)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(
            f"group_of_rollout is {shown(group_of_rollout)}; expected {expected}: {error}"
        ) from error
    if num_rollouts == 0 and label.numel() == 0:
        label = label.long()
    if tuple(label.shape) != (num_rollouts,) or label.dtype not in _INTEGERS:
        raise InputError(
            f"group_of_rollout is {label.dtype} of shape {tuple(label.shape)}; expected {expected}"
        )
    return label


def grouped(label: Tensor) -> tuple[Tensor, Tensor]:
    """Return group_offsets [G+1] and group_rollouts [R] on the CPU."""
    _, group, size = torch.unique(label.cpu(), return_inverse=True, return_counts=True)
    return torch.cat([size.new_zeros(1), size.cumsum(0)]), group.argsort(stable=True)


_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def positions_of_mask(token_mask: Tensor, label: Tensor) -> tuple[Tensor, ...]:
    """Return the positions of a batch on the CPU."""
    try:
        import finestep_fast._core as core
    except ImportError as error:
        raise BuildError(
            "StepBatch.from_mask needs the compiled module finestep_fast._core; "
            "build it with `pip install .`, or use StepBatch.from_spans"
        ) from error
    mask = token_mask.detach().cpu().contiguous().numpy()
    spans = core.step_spans(mask, torch.get_num_threads())
    return (*(torch.from_numpy(part) for part in spans), *grouped(label))


def check_plain(name: str, value: object, expected: str) -> None:
    """Refuse what is not a dense tensor with numbers of its own."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is {shown(value)}; expected a tensor, {expected}")
    if value.layout is not torch.strided or value.is_nested or value.is_quantized:
        kind = "nested" if value.is_nested else value.layout
        raise InputError(f"{name} is a {kind} tensor of {value.dtype}; expected {expected}, dense")
    if torch.compiler.is_compiling():
        return
    if torch._C._functorch.is_functorch_wrapped_tensor(value):
        raise InputError(
            f"{name} is wrapped by torch.func (vmap, grad, jvp ...); expected a tensor of its own"
        )


def check_readable(name: str, value: object, expected: str) -> None:
    """Refuse what is not a dense tensor with numbers that can be read."""
    check_plain(name, value, expected)
    if torch.compiler.is_compiling() or not isinstance(value, Tensor):
        return
    kind = type(value)
    if value.is_meta or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise InputError(
            f"{name} is a {kind.__name__} on {value.device}, with numbers that cannot be read; "
            f"expected {expected}"
        )


def check_size(name: str, value: object) -> None:
    """Refuse what is no size of 64 bits."""
    is_whole = isinstance(value, int | torch.SymInt) and not isinstance(value, bool)
    if not is_whole or not 0 <= value < 2**63:  # type: ignore[operator]
        raise InputError(f"{name} is {shown(value)}; expected an integer >= 0, of 64 bits")
