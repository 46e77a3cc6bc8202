"""The door from hidden states to log-probabilities, for who owns the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from finestep_fast import reference
from finestep_fast.batch import StepBatch
from finestep_fast.ops.head import CHUNK_BYTES, Head, HeadGradients, Needs
from finestep_fast.ops.head_check import (
    Temperature,
    check_head,
    check_target,
    check_temperature,
    rows_of,
)
from finestep_fast.ops.row_impls import ROWS, chosen_rows
from finestep_fast.ops.tracing import untraced
from finestep_fast.reference import TokenLogp


@untraced
def token_logp(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    batch: StepBatch | None = None,
    temperature: Temperature = 1.0,
    bias: Tensor | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    impl: str = "auto",
) -> TokenLogp:
    """Return log-probability and entropy of each token under a linear head, never all logits.

    `z_t = (weight hidden_t + bias) / temperature_t`, `logp_t = z_t[target_t] - log sum_j exp
    z_t[j]`, `entropy_t = -sum_j p_t[j] log p_t[j]` with `p_t = softmax(z_t)`. Row t of `hidden` is
    the one that *predicts* target t: a causal model's states are shifted by one token before.

    Logits are made a chunk of rows at a time, and again in the backward pass: 2 and 6 N V D
    operations for N tokens. The products are in the dtype of the weights, or of autocast; what
    follows is in float32, or float64 for float64.

    Source: the definitions.

    Args:
        hidden: [T, D] or [R, L, D]; differentiable, once.
        weight: [V, D], a whole tensor, parameter or computed; differentiable, once.
        target: [T] or [R, L] int64.
        batch: Whose tokens are whose; only those inside steps are looked at. None for all.
        temperature: Logits are divided by it: one number, or one for each token, of the shape of
            `target`; a constant.
        bias: [V]; differentiable, once.
        chunk_bytes: Memory for the logits of a chunk; at least one row is taken.
        impl: Who computes it; `auto` takes the fastest for the device: `cpp`, else `torch`.

    Returns:
        `.logp` and `.entropy` in the shape of `target`; 0 outside the steps of `batch`.

    Raises:
        InputError: A shape, dtype, device, target or temperature does not fit.
        BuildError: The implementation was not built.
    """
    check_head(hidden, weight, bias)
    check_target("hidden", hidden, target, batch)
    check_temperature(temperature, target)
    name = chosen_rows(impl, hidden.device)
    if name is None:
        return reference.token_logp(
            hidden, weight, target, temperature=temperature, bias=bias, batch=batch
        )
    head = head_of(hidden, weight, target, batch, temperature, rows=name, chunk_bytes=chunk_bytes)
    return TokenLogp(*_token_logp(hidden, weight, bias, head, target.shape))


def head_of(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    batch: StepBatch | None,
    temperature: Temperature,
    *,
    rows: str,
    chunk_bytes: int,
) -> Head:
    """Return how a head looks at the tokens of a batch, or at all."""
    tokens = None if batch is None else batch.policy_token
    device_type = hidden.device.type
    is_cast = torch.is_autocast_enabled(device_type)
    return Head(
        tokens,
        *rows_of(target, temperature, tokens, vocabulary=weight.shape[0]),
        rows=ROWS[rows],
        dtype=torch.get_autocast_dtype(device_type) if is_cast else weight.dtype,
        chunk_bytes=chunk_bytes,
    )


def _token_logp(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head, shape: torch.Size
) -> Any:
    with torch.autocast(hidden.device.type, enabled=False):
        return _TokenLogp.apply(hidden, weight, bias, head, shape)  # type: ignore[no-untyped-call]


class _TokenLogp(torch.autograd.Function):
    """Logps and entropies; the backward pass makes the logits anew, as chunks of gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Head,
        shape: torch.Size,
    ) -> tuple[Tensor, Tensor]:
        sums = head.read(hidden, weight, bias)
        ctx.save_for_backward(hidden, weight, bias, sums)
        ctx.head = head
        ctx.set_materialize_grads(False)
        dtype = torch.promote_types(head.dtype, torch.float32)
        logp, entropy = (_placed(value.to(dtype), head.tokens, shape) for value in sums[:2])
        return logp, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        hidden, weight, bias, sums = ctx.saved_tensors
        needs, head = Needs(*ctx.needs_input_grad[:3]), ctx.head
        of_logp, of_entropy = (
            None if grad is None else _chosen(grad, head.tokens) for grad in grads
        )
        if of_logp is None:
            of_logp = torch.zeros_like(sums[0])

        def slopes(part: slice, sums: Tensor) -> tuple[Tensor, Tensor | None]:
            return of_logp[part], None if of_entropy is None else of_entropy[part]

        with torch.autocast(hidden.device.type, enabled=False):
            _, gradients = head.differentiate(
                hidden, weight, bias, needs=needs, slopes=slopes, sums=sums
            )
            return *handed_over(gradients, hidden, weight, bias, head), None, None


def handed_over(
    gradients: HeadGradients,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    head: Head,
    scale: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients in shape and dtype of what they belong to, scaled where they are."""
    if scale is not None:
        for gradient in gradients:
            if gradient is not None:
                rows = gradient if gradient.dim() == 2 else gradient[:, None]
                every = torch.full((1,), rows.shape[0], device=rows.device)
                head.rows.scale_(rows, torch.zeros_like(every), every, scale)
    return (
        None
        if gradients.hidden is None
        else head.scattered(gradients.hidden.to(hidden.dtype), hidden),
        None if gradients.weight is None else gradients.weight.to(weight.dtype),
        None if gradients.bias is None or bias is None else gradients.bias.to(bias.dtype),
    )


def _placed(value: Tensor, tokens: Tensor | None, shape: torch.Size) -> Tensor:
    if tokens is None:
        return value.view(shape)
    return value.new_zeros(shape.numel()).index_copy_(0, tokens, value).view(shape)


def _chosen(token_value: Tensor, tokens: Tensor | None) -> Tensor:
    flat = token_value.reshape(-1)
    return (flat if tokens is None else flat[tokens]).double().contiguous()
