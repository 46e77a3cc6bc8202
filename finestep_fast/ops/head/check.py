"""What the ops from hidden states or logits refuse, and how targets are gathered into rows."""

from __future__ import annotations

import torch
from torch import Tensor

from finestep_fast.arguments import Temperature
from finestep_fast.batch import StepBatch
from finestep_fast.config.check import check_number
from finestep_fast.errors import InputError
from finestep_fast.ops.check import (
    INT64,
    NUMBERS,
    check_batch,
    check_like,
    check_tensor,
    is_traced,
    is_wrapped,
)
from finestep_fast.ops.cpp import dense


def check_head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Refuse a head that does not fit the hidden states."""
    tensors = {"hidden": hidden, "weight": weight}
    if bias is not None:
        tensors["bias"] = bias
    for name, value in tensors.items():
        check_tensor(name, value)
        if value.device != hidden.device:
            raise InputError(f"{name} is on {value.device}; expected {hidden.device}, as hidden")
        if value.dtype != hidden.dtype and not torch.is_autocast_enabled(hidden.device.type):
            raise InputError(
                f"{name} is {value.dtype}; expected {hidden.dtype}, the dtype of hidden, "
                "outside autocast"
            )
    if hidden.dim() not in (2, 3):
        raise InputError(f"hidden has shape {tuple(hidden.shape)}; expected [T, D] or [R, L, D]")
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[-1] or weight.shape[0] == 0:
        raise InputError(
            f"weight has shape {tuple(weight.shape)}; expected [V, {hidden.shape[-1]}], D of hidden"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise InputError(
            f"bias has shape {tuple(bias.shape)}; expected ({weight.shape[0]},), V of weight"
        )


def check_logits(logits: Tensor) -> None:
    """Refuse what is not [T, V] or [R, L, V] floating point."""
    check_tensor("logits", logits)
    if logits.dim() not in (2, 3) or logits.shape[-1] == 0:
        raise InputError(f"logits has shape {tuple(logits.shape)}; expected [T, V] or [R, L, V]")


def check_target(name: str, source: Tensor, target: Tensor, batch: StepBatch | None) -> None:
    """Refuse a target that is not int64 of the shape of its source, or does not fit the batch."""
    check_tensor("target", target, INT64)
    if batch is not None:
        check_batch(batch)
        if target.numel() != batch.num_tokens:
            raise InputError(
                f"target has shape {tuple(target.shape)}; expected {batch.num_tokens} tokens, T of "
                f"{batch}"
            )
        if target.device != batch.device:
            raise InputError(
                f"target is on {target.device}; expected {batch.device}, the device of the batch"
            )
    if target.shape != source.shape[:-1]:
        raise InputError(
            f"target has shape {tuple(target.shape)}; expected {tuple(source.shape[:-1])}, the "
            f"shape of {name} without its last size"
        )
    if target.device != source.device:
        raise InputError(f"target is on {target.device}; expected {source.device}, as {name}")


def check_temperature(temperature: Temperature, target: Tensor) -> None:
    """Refuse a temperature that is not one number above 0, or one for each token."""
    if isinstance(temperature, Tensor):
        check_like("temperature", temperature, "target", target, NUMBERS)
    else:
        check_number("temperature", temperature, above=0)


def rows_of(
    target: Tensor, temperature: Temperature, tokens: Tensor | None, *, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Return target [N] int64 and temperature [N] float64 of the tokens that are read.

    Raises:
        InputError: A target lies outside the vocabulary, or a temperature is not above 0; not
            checked on a device other than the CPU, nor under a tracer.
    """
    flat = target.reshape(-1)
    chosen = flat if tokens is None else flat[tokens]
    if isinstance(temperature, Tensor):
        each = temperature.detach().reshape(-1).double()
        each = each if tokens is None else each[tokens]
    else:
        each = torch.full(chosen.shape, temperature, dtype=torch.float64, device=target.device)
    unseen = is_traced(chosen, each) or is_wrapped(chosen) or is_wrapped(each)
    if target.device.type == "cpu" and not unseen and chosen.numel():
        smallest, largest = (int(bound) for bound in chosen.aminmax())
        if smallest < 0 or largest >= vocabulary:
            wrong = smallest if smallest < 0 else largest
            raise InputError(
                f"target holds {wrong}; expected 0 .. {vocabulary - 1}, V is {vocabulary}"
            )
        coldest, hottest = (float(bound) for bound in each.aminmax())
        if not 0 < coldest <= hottest < float("inf"):
            named = hottest if coldest > 0 else coldest
            raise InputError(f"temperature holds {named}; it must be finite and above 0")
    return dense(chosen), dense(each)
