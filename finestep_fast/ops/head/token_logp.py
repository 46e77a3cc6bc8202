"""The door from hidden states to log-probabilities, for who owns the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from finestep_fast import reference
from finestep_fast.batch import StepBatch
from finestep_fast.config.check import check_whole
from finestep_fast.ops.check import check_impl, is_opaque
from finestep_fast.ops.cpp import dense
from finestep_fast.ops.head.check import (
    Temperature,
    check_head,
    check_target,
    check_temperature,
    rows_of,
)
from finestep_fast.ops.head.implementations import ROWS, chosen_rows
from finestep_fast.ops.head.linear_head import CHUNK_BYTES, Head, HeadGradients, Needs
from finestep_fast.ops.head.operators import (
    TEMPERATURE,
    as_outside,
    below_autograd,
    flat_temperature,
    given_temperature,
    register,
)
from finestep_fast.reference import TokenLogp


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
    check_impl(
        impl,
        {"hidden": hidden, "weight": weight, "bias": bias},
        target=target,
        temperature=temperature,
    )
    check_head(hidden, weight, bias)
    check_target("hidden", hidden, target, batch)
    check_temperature(temperature, target)
    check_whole("chunk_bytes", chunk_bytes, low=1)
    name = chosen_rows(impl, hidden.device)
    if name is None:
        tokens = None if batch is None else batch.policy_token
        rows_of(target, temperature, tokens, vocabulary=weight.shape[0])
        return reference.token_logp(
            hidden, weight, target, temperature=temperature, bias=bias, batch=batch
        )
    dtype = product_dtype(hidden, weight)
    if is_opaque(hidden, weight, bias):
        tokens = None if batch is None else batch.policy_token
        how = (target, tokens, *flat_temperature(temperature), dtype, chunk_bytes, name)
        logp, entropy, _ = _OPERATOR(hidden, weight, bias, *how)
        return TokenLogp(logp, entropy)
    head = head_of(
        weight, target, batch, temperature, rows=name, dtype=dtype, chunk_bytes=chunk_bytes
    )
    return TokenLogp(*_token_logp(hidden, weight, bias, head, target.shape))


def product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Return the type of the head's matrix products: that of autocast, or of the weights."""
    device_type = hidden.device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return weight.dtype


def head_of(
    weight: Tensor,
    target: Tensor,
    batch: StepBatch | None,
    temperature: Temperature,
    *,
    rows: str,
    dtype: torch.dtype,
    chunk_bytes: int,
) -> Head:
    """Return how a head looks at the tokens of a batch, or at all."""
    tokens = None if batch is None else batch.policy_token
    return _head(weight, target, tokens, temperature, dtype, chunk_bytes, rows)


def _head(
    weight: Tensor,
    target: Tensor,
    tokens: Tensor | None,
    temperature: Temperature,
    dtype: torch.dtype,
    chunk_bytes: int,
    rows: str,
) -> Head:
    looked_at = rows_of(target, temperature, tokens, vocabulary=weight.shape[0])
    return Head(tokens, *looked_at, rows=ROWS[rows], dtype=dtype, chunk_bytes=chunk_bytes)


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
        with torch.autocast(hidden.device.type, enabled=False):
            gradients = _differentiated(head, hidden, weight, bias, needs, sums, *grads)
            return *handed_over(gradients, hidden, weight, bias, head), None, None


def _differentiated(
    head: Head,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    needs: Needs,
    sums: Tensor,
    of_logp: Tensor | None,
    of_entropy: Tensor | None,
) -> HeadGradients:
    logp_slope, entropy_slope = (
        None if grad is None else _chosen(grad, head.tokens) for grad in (of_logp, of_entropy)
    )
    known = torch.zeros_like(sums[0]) if logp_slope is None else logp_slope

    def slopes(part: slice, sums: Tensor) -> tuple[Tensor, Tensor | None]:
        return known[part], None if entropy_slope is None else entropy_slope[part]

    _, gradients = head.differentiate(hidden, weight, bias, needs=needs, slopes=slopes, sums=sums)
    return gradients


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
    return dense((flat if tokens is None else flat[tokens]).double())


# Where somebody traces

_HOW = (
    f"Tensor target, Tensor? tokens, {TEMPERATURE}, ScalarType dtype, SymInt chunk_bytes, str rows"
)


def _head_again(weight: Tensor, target: Tensor, tokens: Tensor | None, *others: Any) -> Head:
    token_temperature, temperature, dtype, chunk_bytes, rows = others
    each = given_temperature(token_temperature, temperature)
    return _head(weight, target, tokens, each, dtype, chunk_bytes, rows)


def _read(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    head = _head_again(weight, target, *others)
    with as_outside(hidden.device.type):
        sums = head.read(hidden, weight, bias)
    dtype = torch.promote_types(head.dtype, torch.float32)
    logp, entropy = (_placed(value.to(dtype), head.tokens, target.shape) for value in sums[:2])
    return logp, entropy, sums


def _fake_read(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, dtype = others[0], torch.promote_types(others[3], torch.float32)
    size = target.numel() if tokens is None else tokens.shape[0]
    logp, entropy = (hidden.new_empty(target.shape, dtype=dtype) for _ in range(2))
    return logp, entropy, hidden.new_empty((4, size), dtype=torch.float64)


def _write(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *how, sums, of_logp, of_entropy = others[:-3]
    needs, head = Needs(*others[-3:]), _head_again(weight, target, *how)
    with as_outside(hidden.device.type):
        gradients = _differentiated(head, hidden, weight, bias, needs, sums, of_logp, of_entropy)
        made = handed_over(gradients, hidden, weight, bias, head)
    of_hidden, of_weight, of_bias = (
        hidden.new_empty(0) if gradient is None else gradient for gradient in made
    )
    return of_hidden, of_weight, of_bias


def _fake_write(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, *others: Any
) -> tuple[Tensor, ...]:
    leaves = zip((hidden, weight, bias), others[-3:], strict=True)
    return tuple(
        torch.empty_like(leaf, memory_format=torch.contiguous_format)
        if leaf is not None and is_needed
        else hidden.new_empty(0)
        for leaf, is_needed in leaves
    )


class _Traced(torch.autograd.Function):
    """Two operators: one reads, one makes the gradients."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        logp, entropy, sums = below_autograd(_OPERATOR, *args)
        hidden, weight, bias, target, tokens, token_temperature, *ctx.others = args
        ctx.save_for_backward(hidden, weight, bias, target, tokens, token_temperature, sums)
        ctx.mark_non_differentiable(sums)
        ctx.set_materialize_grads(False)
        return logp, entropy, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logp: Tensor | None, of_entropy: Tensor | None, _: Any) -> Any:
        *given, sums = ctx.saved_tensors
        needs = Needs(*ctx.needs_input_grad[:3])
        made = _BACKWARD(*given, *ctx.others, sums, of_logp, of_entropy, *needs)
        gradients = (
            gradient if is_needed else None for gradient, is_needed in zip(made, needs, strict=True)
        )
        return *gradients, *[None] * (len(given) - 3 + len(ctx.others))


def _by_operator(*args: Any) -> Any:
    leaves = [leaf for leaf in args[:3] if leaf is not None]
    if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves):
        return _Traced.apply(*args)  # type: ignore[no-untyped-call]
    return below_autograd(_OPERATOR, *args)


_HEAD = "Tensor hidden, Tensor weight, Tensor? bias"
_OPERATOR = register(
    "token_logp", f"({_HEAD}, {_HOW}) -> (Tensor, Tensor, Tensor)", _read, _fake_read, _by_operator
)
_BACKWARD = register(
    "token_logp_backward",
    f"({_HEAD}, {_HOW}, Tensor sums, Tensor? of_logp, Tensor? of_entropy, bool needs_hidden, "
    "bool needs_weight, bool needs_bias) -> (Tensor, Tensor, Tensor)",
    _write,
    _fake_write,
)
