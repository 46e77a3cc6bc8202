"""From hidden states to log-probabilities, for callers with a loss of their own."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from finestep_fast import reference
from finestep_fast.arguments import Temperature
from finestep_fast.batch import StepBatch
from finestep_fast.config.check import check_whole
from finestep_fast.ops.check import check_impl, is_opaque
from finestep_fast.ops.cpp import dense
from finestep_fast.ops.head.check import check_head, check_target, check_temperature, rows_of
from finestep_fast.ops.head.implementations import chosen_rows
from finestep_fast.ops.head.linear_head import CHUNK_BYTES, Head, Needs, product_dtype
from finestep_fast.ops.head.operators import as_outside, below_autograd, registered
from finestep_fast.ops.head.policy_tokens import Slopes
from finestep_fast.ops.operators import LIBRARY
from finestep_fast.ops.schema import Schema, put_back, set_apart
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
        batch: Which tokens belong to which step; only those inside steps are read. None for all.
        temperature: Logits are divided by it: one number, or one for each token, of the shape of
            `target`; a constant.
        bias: [V]; differentiable, once.
        chunk_bytes: Memory for the logits of a chunk; at least one row is taken.
        impl: Name of the implementation; `auto` takes the fastest for the device: `cpp` on a CPU,
            `triton` on a GPU, else `torch`.

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
    given = TokenLogpArguments(
        hidden,
        weight,
        bias,
        target,
        None if batch is None else batch.policy_token,
        temperature,
        product_dtype(hidden, weight),
        chunk_bytes,
        rows=name,
    )
    if is_opaque(hidden, weight, bias):
        logp, entropy, _ = _OPERATOR(*TOKEN_LOGP.flat(given))
        return TokenLogp(logp, entropy)
    with torch.autocast(hidden.device.type, enabled=False):
        results = _TokenLogp.apply(hidden, weight, bias, given.head(), target.shape)  # type: ignore[no-untyped-call]
    return TokenLogp(*results)


class TokenLogpArguments(NamedTuple):
    """What the operator takes."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    target: Tensor
    tokens: Tensor | None
    """[N] flat positions of those that are read; None for all."""
    temperature: Temperature
    dtype: torch.dtype
    """Of matrix products."""
    chunk_bytes: int
    rows: str
    """Name of the implementation."""

    def head(self) -> Head:
        """Return how the head reads the tokens."""
        return Head.of(
            self.weight,
            self.target,
            self.tokens,
            self.temperature,
            rows=self.rows,
            dtype=self.dtype,
            chunk_bytes=self.chunk_bytes,
        )


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
        return _results(sums, head, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logp: Tensor | None, grad_entropy: Tensor | None) -> Any:
        hidden, weight, bias, sums = ctx.saved_tensors
        head: Head = ctx.head
        with torch.autocast(hidden.device.type, enabled=False):
            _, gradients = head.differentiate(
                hidden,
                weight,
                bias,
                needs=Needs(*ctx.needs_input_grad[:3]),
                source=_slopes(grad_logp, grad_entropy, sums, head),
                sums=sums,
            )
            return *head.handed_over(gradients, hidden, weight, bias), None, None


def _results(sums: Tensor, head: Head, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Logp and entropy in the shape of the targets, 0 for tokens that are not read."""
    dtype = torch.promote_types(head.dtype, torch.float32)

    def placed(value: Tensor) -> Tensor:
        value = value.to(dtype)
        if head.tokens is None:
            return value.view(shape)
        every = value.new_zeros(shape.numel())
        return every.index_copy_(0, head.tokens, value).view(shape)

    return placed(sums[0]), placed(sums[1])


def _slopes(
    grad_logp: Tensor | None, grad_entropy: Tensor | None, sums: Tensor, head: Head
) -> Slopes:
    """The gradients of logp and entropy, for the tokens that are read."""

    def gathered(token_value: Tensor) -> Tensor:
        flat = token_value.reshape(-1)
        return dense((flat if head.tokens is None else flat[head.tokens]).double())

    return Slopes(
        torch.zeros_like(sums[0]) if grad_logp is None else gathered(grad_logp),
        None if grad_entropy is None else gathered(grad_entropy),
    )


# Where the call is traced


class BackwardArguments(NamedTuple):
    """What the operator of the backward pass takes."""

    forward: TokenLogpArguments
    sums: Tensor
    grad_logp: Tensor | None
    grad_entropy: Tensor | None
    needs: Needs


def _read(given: TokenLogpArguments) -> tuple[Tensor, Tensor, Tensor]:
    head = given.head()
    with as_outside(given.hidden.device.type):
        sums = head.read(given.hidden, given.weight, given.bias)
    return *_results(sums, head, given.target.shape), sums


def _fake_read(
    *, hidden: Tensor, target: Tensor, tokens: Tensor | None, dtype: torch.dtype, **_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(dtype, torch.float32)
    size = target.numel() if tokens is None else tokens.shape[0]
    logp, entropy = (hidden.new_empty(target.shape, dtype=wide) for _ in range(2))
    return logp, entropy, hidden.new_empty((4, size), dtype=torch.float64)


def _write(given: BackwardArguments) -> tuple[Tensor, Tensor, Tensor]:
    hidden, weight, bias = given.forward.hidden, given.forward.weight, given.forward.bias
    head = given.forward.head()
    with as_outside(hidden.device.type):
        _, gradients = head.differentiate(
            hidden,
            weight,
            bias,
            needs=given.needs,
            source=_slopes(given.grad_logp, given.grad_entropy, given.sums, head),
            sums=given.sums,
        )
        results = head.handed_over(gradients, hidden, weight, bias)
    grad_hidden, grad_weight, grad_bias = (
        hidden.new_empty(0) if gradient is None else gradient for gradient in results
    )
    return grad_hidden, grad_weight, grad_bias


def _fake_write(
    *,
    forward_hidden: Tensor,
    forward_weight: Tensor,
    forward_bias: Tensor | None,
    needs_hidden: bool,
    needs_weight: bool,
    needs_bias: bool,
    **_: Any,
) -> tuple[Tensor, ...]:
    leaves = (
        (forward_hidden, needs_hidden),
        (forward_weight, needs_weight),
        (forward_bias, needs_bias),
    )
    return tuple(
        torch.empty_like(leaf, memory_format=torch.contiguous_format)
        if leaf is not None and needs_it
        else forward_hidden.new_empty(0)
        for leaf, needs_it in leaves
    )


class _Traced(torch.autograd.Function):
    """Two operators: one reads, one makes the gradients."""

    @staticmethod
    def forward(ctx: Any, *flat: Any) -> Any:
        logp, entropy, sums = below_autograd(_OPERATOR, *flat)
        ctx.rest, tensors = set_apart(flat)
        ctx.save_for_backward(sums, *tensors)
        ctx.mark_non_differentiable(sums)
        ctx.set_materialize_grads(False)
        return logp, entropy, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logp: Tensor | None, grad_entropy: Tensor | None, _: Any) -> Any:
        sums, *tensors = ctx.saved_tensors
        flat = put_back(ctx.rest, tensors)
        needed = dict(zip(TOKEN_LOGP.names, ctx.needs_input_grad, strict=True))
        needs = Needs(*(needed[leaf] for leaf in Needs._fields))
        given = BackwardArguments(TOKEN_LOGP.bundled(flat), sums, grad_logp, grad_entropy, needs)
        gradients = dict(zip(Needs._fields, _BACKWARD(*BACKWARD.flat(given)), strict=True))
        return (*(gradients[name] if needed[name] else None for name in TOKEN_LOGP.names),)


def _by_operator(*flat: Any) -> Any:
    leaves = [TOKEN_LOGP.by_name(flat)[leaf] for leaf in Needs._fields]
    if torch.is_grad_enabled() and any(leaf is not None and leaf.requires_grad for leaf in leaves):
        return _Traced.apply(*flat)  # type: ignore[no-untyped-call]
    return below_autograd(_OPERATOR, *flat)


TOKEN_LOGP = Schema(TokenLogpArguments)
BACKWARD = Schema(BackwardArguments)
_OPERATOR = registered("token_logp", TOKEN_LOGP, 3, _read, _fake_read)
_BACKWARD = registered("token_logp_backward", BACKWARD, 3, _write, _fake_write)
LIBRARY.impl(_OPERATOR, _by_operator, "Autograd")
