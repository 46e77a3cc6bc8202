"""What the doors refuse. Each function names the value, what it is and what it must be."""

from __future__ import annotations

from torch import Tensor

from finestep_fast import reference
from finestep_fast.batch import StepBatch
from finestep_fast.config import LossConfig
from finestep_fast.errors import InputError

Count = float | Tensor


def check_batch(batch: object) -> None:
    """Refuse what is not a `StepBatch`."""
    if not isinstance(batch, StepBatch):
        raise InputError(f"batch is a {type(batch).__name__}; it must be a StepBatch")


def check_rewards(batch: StepBatch, step_reward: Tensor, rollout_outcome: Tensor) -> None:
    """Refuse rewards that are not [S] and [R] real numbers on the batch's device."""
    check_vector("step_reward", step_reward, batch.num_steps, "S", batch)
    check_vector("rollout_outcome", rollout_outcome, batch.num_rollouts, "R", batch)


def check_vector(name: str, value: Tensor, size: int, letter: str, batch: StepBatch) -> None:
    """Refuse what is not [size] real numbers on the batch's device."""
    if value.ndim != 1 or value.shape[0] != size:
        raise InputError(
            f"{name} has shape {tuple(value.shape)}; expected ({size},), {letter} of {batch}"
        )
    if value.is_complex():
        raise InputError(f"{name} is {value.dtype}; expected real numbers")
    _check_device(name, value, batch)


def check_tokens(
    batch: StepBatch,
    token_logp: Tensor,
    token_logp_old: Tensor,
    token_logp_ref: Tensor | None,
    token_weight: Tensor | None,
    *,
    loss: LossConfig,
) -> None:
    """Refuse token tensors that do not fit the batch, each other or the settings."""
    if token_logp.numel() != batch.num_tokens:
        raise InputError(
            f"token_logp has shape {tuple(token_logp.shape)}; expected {batch.num_tokens} tokens, "
            f"T of {batch}"
        )
    if (token_logp_ref is None) != (loss.kl is None):
        given = "not given" if token_logp_ref is None else "given"
        raise InputError(
            f"token_logp_ref is {given} while loss.kl is {loss.kl!r}; expected both or neither"
        )
    for name, value in (
        ("token_logp", token_logp),
        ("token_logp_old", token_logp_old),
        ("token_logp_ref", token_logp_ref),
        ("token_weight", token_weight),
    ):
        if value is None:
            continue
        if value.shape != token_logp.shape:
            raise InputError(
                f"{name} has shape {tuple(value.shape)}; expected {tuple(token_logp.shape)}, the "
                "shape of token_logp"
            )
        if not value.is_floating_point():
            raise InputError(f"{name} is {value.dtype}; expected floating point")
        _check_device(name, value, batch)


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
    given = {
        "num_policy_tokens": num_policy_tokens,
        "num_rollouts": num_rollouts,
        "num_steps": num_steps,
    }
    for name, count in given.items():
        if count is not None:
            _check_count(name, count, batch)
    needed = reference.COUNT_OF_AGGREGATION[loss.aggregation]
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


def _check_count(name: str, count: Count, batch: StepBatch) -> None:
    if isinstance(count, Tensor):
        if count.numel() != 1:
            raise InputError(f"{name} has shape {tuple(count.shape)}; expected one number")
        return
    own: int = getattr(batch, name)
    if not (count > 0 or (count == 0 and own == 0)):
        raise InputError(f"{name} is {count}; it must be above 0, the batch has {own}")
