"""What the entry points refuse. Each function names the value, what it is and what it must be.

Numbers inside tensors are checked on the CPU alone, and only those of steps, rollouts, counts and
temperatures: a check on a GPU would make the host wait. There, as for log-probabilities
everywhere, the rule is NaN in, NaN out. Under a tracer there are no numbers to check.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from finestep_fast.arguments import COUNT_OF_AGGREGATION, Count, Rewards, TokenConstants
from finestep_fast.batch import StepBatch
from finestep_fast.config import CreditConfig, LossConfig
from finestep_fast.errors import InputError, shown
from finestep_fast.ops import cpp

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NUMBERS = (*FLOATS, torch.int64, torch.int32, torch.uint8, torch.int16, torch.int8)
REALS = (*NUMBERS, torch.bool)
INT64 = (torch.int64,)
_EXPECTED = {
    FLOATS: "floating point of 16, 32 or 64 bits",
    NUMBERS: "integers, or floating point of 16, 32 or 64 bits",
    REALS: "real numbers: bool, integers, or floating point of 16, 32 or 64 bits",
    INT64: "int64",
}
LARGEST = torch.finfo(torch.float64).max


def check_tensor(name: str, value: object, dtypes: tuple[torch.dtype, ...] = FLOATS) -> None:
    """Refuse what is not a dense tensor of one of the types."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is {shown(value)}; expected a tensor, {_EXPECTED[dtypes]}")
    if value.dtype not in dtypes:
        raise InputError(f"{name} is {value.dtype}; expected {_EXPECTED[dtypes]}")
    if value.layout is not torch.strided or value.is_nested:
        kind = "nested" if value.is_nested else value.layout
        raise InputError(f"{name} is a {kind} tensor; expected a dense one")
    if type(value) not in PLAIN and hasattr(value, "full_tensor"):
        raise InputError(
            f"{name} is a DTensor, in pieces on several processes; expected a whole tensor: "
            "call the op in the forward of the module that fully_shard wraps, or hand over "
            f"{name}.full_tensor(grad_placements=[Partial()])"
        )


def check_impl(impl: object, differentiable: dict[str, Tensor | None], **others: object) -> None:
    """Refuse tensors that compiled code would not see as torch does.

    Inside `vmap`, `grad` or `jvp` of torch.func tensors are wrapped and have no memory of their
    own; a tangent of forward-mode differentiation would be dropped. The reference takes both.
    """
    if not isinstance(impl, str):
        raise InputError(f"impl is {shown(impl)}; it must be a name, such as 'auto'")
    if impl == "reference" or torch.compiler.is_compiling():
        return
    is_unwrapped = torch._C._functorch.maybe_current_level() is None
    if is_unwrapped and forward_ad._current_level < 0:
        return
    for tensors in (differentiable, others):
        for name, value in tensors.items():
            if isinstance(value, Tensor) and is_wrapped(value):
                raise InputError(
                    f"{name} is wrapped by torch.func (vmap, grad, jvp ...) while impl is "
                    f"{impl!r}; it must be a tensor of its own there, or impl 'reference'"
                )
    for name, value in differentiable.items():
        if isinstance(value, Tensor) and has_tangent(value):
            raise InputError(
                f"{name} has a tangent of forward-mode differentiation, which impl {impl!r} does "
                "not carry on; it must be without, or impl 'reference'"
            )


def is_wrapped(value: Tensor) -> bool:
    """Return whether torch.func stands between us and the numbers of a tensor."""
    functorch = torch._C._functorch
    # The second is what autograd's batched gradients still use.
    return functorch.is_functorch_wrapped_tensor(value) or functorch.is_legacy_batchedtensor(value)


def has_tangent(value: Tensor) -> bool:
    """Return whether a tensor has a tangent of forward-mode differentiation."""
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(value).tangent is not None


PLAIN = (Tensor, torch.nn.Parameter)


def is_opaque(*tensors: Tensor | None) -> bool:
    """Return whether there is no memory to read: under a compiler, or in a subclass of `Tensor`."""
    return torch.compiler.is_compiling() or any(
        value is not None and type(value) not in PLAIN for value in tensors
    )


def is_traced(*tensors: Tensor | None) -> bool:
    """Return whether operators are needed: by a compiler, a subclass of `Tensor` or a mode."""
    return is_in_torch_dispatch_mode() or is_opaque(*tensors)


def check_batch(batch: object) -> None:
    """Refuse what is not a `StepBatch`."""
    if not isinstance(batch, StepBatch):
        raise InputError(f"batch is a {type(batch).__name__}; it must be a StepBatch")


def check_loss(loss: object) -> None:
    """Refuse what is not a `LossConfig`."""
    if not isinstance(loss, LossConfig):
        raise InputError(f"loss is {shown(loss)}; it must be a LossConfig, as LossConfig(kl='k3')")


def check_rewards(batch: StepBatch, rewards: Rewards, *, credit: CreditConfig) -> None:
    """Refuse rewards that are not [S] in [0, 1] and [R] finite, on the batch's device.

    States and values are refused that do not fit the scope or are not [S].
    """
    step_reward, rollout_outcome, step_state, step_value = rewards
    check_vector("step_reward", step_reward, batch.num_steps, "S", batch)
    check_vector("rollout_outcome", rollout_outcome, batch.num_rollouts, "R", batch)
    rounding = 4 * torch.finfo(step_reward.dtype).eps if step_reward.is_floating_point() else 0
    check_numbers(
        "step_reward", step_reward, -rounding, 1 + rounding, "numbers from 0 to 1, one for a step"
    )
    check_numbers("rollout_outcome", rollout_outcome)
    for name, scope, value in (
        ("step_state", "state", step_state),
        ("step_value", "value", step_value),
    ):
        if (value is not None) != (credit.scope == scope):
            given = "not given" if value is None else "given"
            raise InputError(
                f"{name} is {given} while credit.scope is {credit.scope!r}; it must be given for "
                f"scope {scope!r}, and only for that"
            )
    if step_state is not None:
        check_tensor("step_state", step_state, INT64)
        check_vector("step_state", step_state, batch.num_steps, "S", batch)
    if step_value is not None:
        check_vector("step_value", step_value, batch.num_steps, "S", batch)
        check_numbers("step_value", step_value)


def check_step_advantage(batch: StepBatch, step_advantage: Tensor) -> None:
    """Refuse advantages that are not [S] finite numbers on the batch's device."""
    check_vector("step_advantage", step_advantage, batch.num_steps, "S", batch)
    check_numbers("step_advantage", step_advantage)


def check_vector(name: str, value: Tensor, size: int, letter: str, batch: StepBatch) -> None:
    """Refuse what is not [size] real numbers on the batch's device."""
    check_tensor(name, value, REALS)
    _check_device(name, value, batch)
    if torch.compiler.is_compiling() and value.ndim == 1:
        # A size that the compiler does not know yet is no condition to branch on.
        torch._check(value.shape[0] == size)
    elif value.ndim != 1 or value.shape[0] != size:
        raise InputError(
            f"{name} has shape {tuple(value.shape)}; expected ({size},), {letter} of {batch}"
        )


def check_numbers(
    name: str,
    value: Tensor,
    low: float = -LARGEST,
    high: float = LARGEST,
    rule: str = "finite numbers",
) -> None:
    """Refuse a tensor on the CPU that holds anything but numbers from low to high."""
    if not value.is_cpu or is_traced(value) or is_wrapped(value):
        return
    if value.dtype in FLOATS:
        if cpp.NOT_BUILT is None and cpp.all_within(cpp.dense(value), low, high):
            return
    elif value.numel() == 0 or (low <= int(value.min()) and int(value.max()) <= high):
        return
    flat = value.detach().reshape(-1).double()
    wrong = (~((flat >= low) & (flat <= high))).nonzero()
    if wrong.numel():
        place = int(wrong[0])
        raise InputError(f"{name} holds {float(flat[place]):g}, at {place}; expected {rule}")


def check_tokens(
    batch: StepBatch, token_logp: Tensor, constants: TokenConstants, *, loss: LossConfig
) -> None:
    """Refuse token tensors that do not fit the batch, each other or the settings."""
    check_tensor("token_logp", token_logp)
    if token_logp.numel() != batch.num_tokens:
        raise InputError(
            f"token_logp has shape {tuple(token_logp.shape)}; expected {batch.num_tokens} tokens, "
            f"T of {batch}"
        )
    _check_device("token_logp", token_logp, batch)
    check_constants("token_logp", token_logp, constants, loss=loss)


def check_constants(
    name: str, tokens: Tensor, constants: TokenConstants, *, loss: LossConfig
) -> None:
    """Refuse token tensors that do not have the shape and device of the tensor of that name."""
    token_logp_old, token_logp_ref, token_weight = constants
    if (token_logp_ref is None) != (loss.kl is None):
        given = "not given" if token_logp_ref is None else "given"
        raise InputError(
            f"token_logp_ref is {given} while loss.kl is {loss.kl!r}; expected both or neither"
        )
    check_like("token_logp_old", token_logp_old, name, tokens)
    if token_logp_ref is not None:
        check_like("token_logp_ref", token_logp_ref, name, tokens)
    if token_weight is not None:
        check_like("token_weight", token_weight, name, tokens)


def check_like(
    name: str,
    value: Tensor,
    other: str,
    tokens: Tensor,
    dtypes: tuple[torch.dtype, ...] = FLOATS,
) -> None:
    """Refuse a tensor that does not have the shape and device of the other one."""
    check_tensor(name, value, dtypes)
    if value.shape != tokens.shape:
        raise InputError(
            f"{name} has shape {tuple(value.shape)}; expected {tuple(tokens.shape)}, the shape of "
            f"{other}"
        )
    if value.device != tokens.device:
        raise InputError(f"{name} is on {value.device}; expected {tokens.device}, as {other}")


def loss_count(
    batch: StepBatch,
    num_policy_tokens: Count | None,
    num_rollouts: Count | None,
    num_steps: Count | None,
    *,
    loss: LossConfig,
) -> Count | None:
    """Return the one count that the aggregation divides by; None for the batch's own.

    Raises:
        InputError: A count is not above 0, or others are given than the one that matters.
    """
    if num_policy_tokens is None and num_rollouts is None and num_steps is None:
        return None
    given = {
        "num_policy_tokens": num_policy_tokens,
        "num_rollouts": num_rollouts,
        "num_steps": num_steps,
    }
    for name, count in given.items():
        if count is not None:
            _check_count(name, count, batch)
    needed = COUNT_OF_AGGREGATION[loss.aggregation]
    if given[needed] is None:
        for name, count in given.items():
            if count is not None:
                raise InputError(
                    f"{needed} is not given while {name} is; aggregation {loss.aggregation!r} "
                    f"divides by {needed}"
                )
    return given[needed]


def _check_device(name: str, value: Tensor, batch: StepBatch) -> None:
    if value.device != batch.device:
        raise InputError(
            f"{name} is on {value.device}; expected {batch.device}, the device of the batch"
        )


def _check_count(name: str, count: object, batch: StepBatch) -> None:
    number = count
    if isinstance(count, Tensor):
        check_tensor(name, count, NUMBERS)
        if count.numel() != 1:
            raise InputError(f"{name} has shape {tuple(count.shape)}; expected one number")
        _check_device(name, count, batch)
        if count.device.type != "cpu" or is_traced(count) or is_wrapped(count):
            return
        number = count.item()
    if isinstance(number, bool) or not isinstance(number, Real):
        raise InputError(f"{name} is {shown(number)}; it must be a number above 0")
    own: int = getattr(batch, name)
    real: Any = number  # mypy does not know that the reals are ordered
    if not (0 < real <= LARGEST or (real == 0 and own == 0)):
        raise InputError(
            f"{name} is {shown(number)}; it must be above 0 and finite, the batch has {own}"
        )
