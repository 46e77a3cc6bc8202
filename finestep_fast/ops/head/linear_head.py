"""A linear head, one chunk of rows at a time: the logits of a chunk replace those of the last.

Matrix products are torch's own, in the dtype of the weights or of autocast. Rows of logits are read
and differentiated in `finestep_fast.ops.head.chunks`. The gradient of the head's weight is added up
over chunks in float32 at least.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from finestep_fast.arguments import LogitRows, Temperature
from finestep_fast.ops.head.check import rows_of
from finestep_fast.ops.head.chunks import Chunk, read_rows, row_gradients
from finestep_fast.ops.head.implementations import ROWS
from finestep_fast.ops.head.policy_tokens import PolicyTokens, Slopes
from finestep_fast.ops.head.rows import RowImplementation

CHUNK_BYTES = 128 * 2**20
"""Memory for one chunk of logits. Below some hundred rows matrix products lose speed."""

_PIECE = 2**18


class Needs(NamedTuple):
    """Which gradients are asked for."""

    hidden: bool
    weight: bool
    bias: bool


class HeadGradients(NamedTuple):
    """Gradients before scaling; None where they are not asked for."""

    hidden: Tensor | None
    """[N, D]: of the rows that were read."""
    weight: Tensor | None
    """[V, D]"""
    bias: Tensor | None
    """[V]"""


@dataclass(frozen=True)
class Head:
    """Which rows of hidden states a head reads, and how."""

    tokens: Tensor | None
    """[N] flat positions; None for all."""
    target: Tensor
    """[N] int64."""
    temperature: Tensor
    """[N] float64."""
    rows: RowImplementation
    dtype: torch.dtype
    """Of matrix products."""
    chunk_bytes: int

    @classmethod
    def of(
        cls,
        weight: Tensor,
        target: Tensor,
        tokens: Tensor | None,
        temperature: Temperature,
        *,
        rows: str,
        dtype: torch.dtype,
        chunk_bytes: int,
    ) -> Head:
        """Return the head with this weight [V, D] that reads the rows of these tokens, or of all.

        Raises:
            InputError: As `rows_of`.
        """
        of_tokens = rows_of(target, temperature, tokens, vocabulary=weight.shape[0])
        return cls(tokens, *of_tokens, rows=ROWS[rows], dtype=dtype, chunk_bytes=chunk_bytes)

    def read(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the sums [4, N] of the rows; 2 N V D floating point operations."""
        sums = self._no_sums(hidden)
        given = weight.to(self.dtype), None if bias is None else bias.to(self.dtype)
        read_rows(partial(self._chunks, hidden, *given), self.rows, sums)
        return sums

    def differentiate(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        needs: Needs,
        source: PolicyTokens | Slopes,
        sums: Tensor | None = None,
    ) -> tuple[Tensor, HeadGradients]:
        """Return sums and gradients.

        6 N V D operations, 4 where one gradient is not needed; 2 more where the loss shares ratios.

        Args:
            hidden: [T, D] or [R, L, D].
            weight: [V, D].
            bias: [V].
            needs: Which gradients.
            source: A loss of the logps, or slopes that are known.
            sums: Of an earlier `read`, where slopes are known.
        """
        head, shift = weight.to(self.dtype), None if bias is None else bias.to(self.dtype)
        wide = torch.promote_types(self.dtype, torch.float32)
        sums = self._no_sums(hidden) if sums is None else sums
        grad_hidden = grad_bias = None
        grad_weight = _Sum(wide) if needs.weight else None
        if needs.hidden:
            kept = wide if self.dtype == torch.float16 else hidden.dtype
            size = self.target.shape[0]
            grad_hidden = hidden.new_empty((size, hidden.shape[-1]), dtype=kept)
        if needs.bias and bias is not None:
            grad_bias = torch.zeros_like(bias, dtype=torch.float64)
        chunks = partial(self._chunks, hidden, head, shift)
        lifted = self.dtype == torch.float16
        for chunk, lift in row_gradients(chunks, self.rows, source, sums, lifted=lifted):
            gradient = chunk.gradient
            if grad_hidden is not None:
                _product(gradient, head, grad_hidden[chunk.part])
                if lift is not None:
                    grad_hidden[chunk.part] /= lift
            if grad_weight is not None:
                assert chunk.hidden is not None
                grad_weight.add(gradient.t(), chunk.hidden, lift)
            if grad_bias is not None:
                summed = gradient.sum(0, dtype=torch.float64)
                grad_bias += summed if lift is None else summed / lift
        total = None if grad_weight is None else grad_weight.total
        if needs.weight and total is None:
            total = torch.zeros_like(weight, memory_format=torch.contiguous_format)
        return sums, HeadGradients(grad_hidden, total, grad_bias)

    def handed_over(
        self,
        gradients: HeadGradients,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        loss_scale: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients in shape and dtype of what they belong to, scaled in place."""
        if loss_scale is not None:
            for gradient in gradients:
                if gradient is not None:
                    rows = gradient if gradient.dim() == 2 else gradient[:, None]
                    every = torch.full((1,), rows.shape[0], device=rows.device)
                    self.rows.scale_(rows, torch.zeros_like(every), every, loss_scale)
        grad_hidden, grad_weight, grad_bias = gradients
        return (
            None if grad_hidden is None else self.scattered(grad_hidden.to(hidden.dtype), hidden),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
        )

    def scattered(self, grad_rows: Tensor, hidden: Tensor) -> Tensor:
        """Return the gradient of `hidden`: that of the rows [N, D] in their places, else 0."""
        if self.tokens is None:
            return grad_rows.view(hidden.shape)
        dtype, layout = grad_rows.dtype, torch.contiguous_format
        every = torch.zeros_like(hidden, dtype=dtype, memory_format=layout)
        every.view(-1, hidden.shape[-1]).index_copy_(0, self.tokens, grad_rows)
        return every

    def _chunks(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[Chunk]:
        """Yield the logits of part of the rows in memory that is used again, also for gradients."""
        size, vocabulary = self.target.shape[0], weight.shape[0]
        if size == 0:
            return
        most = max(1, self.chunk_bytes // (vocabulary * weight.element_size()))
        each = -(-size // -(-size // most))  # chunks of like size
        memory = weight.new_empty((each, vocabulary))
        numbers = torch.arange(each, device=hidden.device)
        for first in range(0, size, each):
            part = slice(first, min(first + each, size))
            states = self._states(hidden, part).to(self.dtype)
            logits = memory[: states.shape[0]]
            if bias is None:
                torch.mm(states, weight.t(), out=logits)
            else:
                torch.addmm(bias, states, weight.t(), out=logits)
            row = numbers[: states.shape[0]]
            rows = LogitRows(logits, row, self.target[part], self.temperature[part])
            yield Chunk(part, rows, states, logits)

    def _states(self, hidden: Tensor, part: slice) -> Tensor:
        """Some rows of `hidden`, without a copy of the others."""
        if hidden.dim() == 2 or hidden.is_contiguous():
            flat = hidden.reshape(-1, hidden.shape[-1])
            return flat[part] if self.tokens is None else flat[self.tokens[part]]
        places = torch.arange(part.start, part.stop, device=hidden.device)
        places = places if self.tokens is None else self.tokens[part]
        length = hidden.shape[1]
        return hidden[places // length, places % length]

    def _no_sums(self, hidden: Tensor) -> Tensor:
        return hidden.new_empty((4, self.target.shape[0]), dtype=torch.float64)


class _Sum:
    """A sum of matrix products, in a wider type once there are two of them."""

    def __init__(self, wide: torch.dtype) -> None:
        self.wide = wide
        self.total: Tensor | None = None
        self.product: Tensor | None = None

    def add(self, left: Tensor, right: Tensor, lift: Tensor | None) -> None:
        """Add a product; one that was lifted is let down first."""
        if self.total is None and lift is None:
            self.total = torch.mm(left, right)
            return
        if left.dtype == self.wide:
            assert self.total is not None
            self.total.addmm_(left, right)
            return
        if self.product is None:
            shape = (left.shape[0], right.shape[1])
            self.product = left.new_empty(shape) if self.total is None else self.total
            self.total = (
                left.new_zeros(shape, dtype=self.wide)
                if self.total is None
                else self.total.to(self.wide)
            )
        assert self.total is not None
        torch.mm(left, right, out=self.product)
        _add_widened(self.total, self.product, lift)


def _add_widened(total: Tensor, part: Tensor, lift: Tensor | None) -> None:
    """Total += part, of fewer bits. On a CPU piece by piece: mixed types are slow to be added."""
    piece = _PIECE if total.device.type == "cpu" else max(total.numel(), 1)
    for wide, narrow in zip(total.view(-1).split(piece), part.view(-1).split(piece), strict=True):
        widened = narrow.to(wide.dtype)
        wide += widened if lift is None else widened / lift


def product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype of the head's matrix products: that of autocast, or of the weights."""
    device_type = hidden.device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return weight.dtype


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(torch.mm(left, right))
