"""A linear head taken a chunk of rows at a time: logits are made, used up and made anew.

Matrix products are torch's own, in the dtype of the weights or of autocast; what is made of logits
is the business of `finestep_fast.ops.head.rows`. The gradient of the head's weight is added up over
chunks in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from finestep_fast.ops.head.rows import NamedRows, OwnRatios, Rows, RowsAtOnce

CHUNK_BYTES = 128 * 2**20
"""Memory for one chunk of logits. Below some hundred rows matrix products lose speed."""

_PIECE = 2**18

Slopes = Callable[[slice, Tensor], tuple[Tensor, Tensor | None]]
"""(part of the N rows, sums [4, N]) -> d loss / d logp, d loss / d entropy of that part."""


class Needs(NamedTuple):
    """Which gradients are asked for."""

    hidden: bool
    weight: bool
    bias: bool


class HeadGradients(NamedTuple):
    """Gradients that wait for the scale of the loss; None where nobody asked."""

    hidden: Tensor | None
    """[N, D]: of the rows that were looked at."""
    weight: Tensor | None
    """[V, D]"""
    bias: Tensor | None
    """[V]"""


@dataclass(frozen=True)
class Head:
    """Which rows of hidden states a head looks at, and how."""

    tokens: Tensor | None
    """[N] flat positions; None for all."""
    target: Tensor
    """[N] int64."""
    temperature: Tensor
    """[N] float64."""
    rows: Rows
    dtype: torch.dtype
    """Of matrix products."""
    chunk_bytes: int

    def read(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the sums [4, N] of the rows; 2 N V D floating point operations."""
        sums = self._no_sums(hidden)
        given = weight.to(self.dtype), None if bias is None else bias.to(self.dtype)
        for part, _, rows in self._chunks(hidden, *given):
            sums[:, part] = self.rows.read(rows)
        return sums

    def differentiate(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        needs: Needs,
        slopes: Slopes,
        sums: Tensor | None = None,
        own_ratios: OwnRatios | None = None,
    ) -> tuple[Tensor, HeadGradients]:
        """Return sums and gradients; 6 N V D operations, 4 where one gradient is not needed.

        Args:
            hidden: [T, D] or [R, L, D].
            weight: [V, D].
            bias: [V].
            needs: which gradients.
            slopes: asked once per chunk, when the sums of its rows are known.
            sums: of an earlier `read`.
            own_ratios: what slopes are made of, where the rows take that and make them at once.
        """
        head, shift = weight.to(self.dtype), None if bias is None else bias.to(self.dtype)
        wide = torch.promote_types(self.dtype, torch.float32)
        known, sums = sums is not None, self._no_sums(hidden) if sums is None else sums
        size = self.target.shape[0]
        of_hidden = of_bias = None
        of_weight = _Sum(wide) if needs.weight else None
        if needs.hidden:
            kept = wide if self.dtype == torch.float16 else hidden.dtype
            of_hidden = hidden.new_empty((size, hidden.shape[-1]), dtype=kept)
        if needs.bias and bias is not None:
            of_bias = torch.zeros_like(bias, dtype=torch.float64)
        # What is lifted has to know its slopes first.
        at_once = None
        if isinstance(self.rows, RowsAtOnce) and self.dtype != torch.float16:
            at_once = self.rows
        for part, states, rows in self._chunks(hidden, head, shift):
            gradient, lift = rows.logits, None
            if at_once is not None and own_ratios is not None:
                sums[:, part] = at_once.read_and_write(rows, own_ratios.part(part), gradient)
            else:
                if not known:
                    sums[:, part] = self.rows.read(rows)
                logp_slope, entropy_slope = slopes(part, sums)
                if self.dtype == torch.float16:
                    lift = _lift(logp_slope, entropy_slope)
                    logp_slope = logp_slope * lift
                    entropy_slope = None if entropy_slope is None else entropy_slope * lift
                given = rows, sums[:, part], logp_slope, entropy_slope
                self.rows.write_gradient(*given, gradient)
            if of_hidden is not None:
                _product(gradient, head, of_hidden[part])
                if lift is not None:
                    of_hidden[part] /= lift
            if of_weight is not None:
                of_weight.add(gradient.t(), states, lift)
            if of_bias is not None:
                summed = gradient.sum(0, dtype=torch.float64)
                of_bias += summed if lift is None else summed / lift
        total = None if of_weight is None else of_weight.total
        if needs.weight and total is None:
            total = torch.zeros_like(weight, memory_format=torch.contiguous_format)
        return sums, HeadGradients(of_hidden, total, of_bias)

    def scattered(self, of_rows: Tensor, hidden: Tensor) -> Tensor:
        """Return the gradient of `hidden`: that of the rows [N, D] in their places, else 0."""
        if self.tokens is None:
            return of_rows.view(hidden.shape)
        every = torch.zeros_like(hidden, dtype=of_rows.dtype, memory_format=torch.contiguous_format)
        every.view(-1, hidden.shape[-1]).index_copy_(0, self.tokens, of_rows)
        return every

    def _chunks(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Iterator[tuple[slice, Tensor, NamedRows]]:
        """Part of the rows, their hidden states, and their logits in memory that is used again."""
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
            given = self.target[part], self.temperature[part]
            yield part, states, NamedRows(logits, row, *given)

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


def _lift(logp_slope: Tensor, entropy_slope: Tensor | None) -> Tensor:
    """The power of 2 that makes the steepest slope about 1/16: well inside float16's range."""
    steepest = logp_slope.abs().amax()
    if entropy_slope is not None:
        steepest = torch.maximum(steepest, entropy_slope.abs().amax())
    return torch.exp2((-4 - steepest.clamp(min=1e-300).log2()).clamp(-40, 40).floor())


def _add_widened(total: Tensor, part: Tensor, lift: Tensor | None) -> None:
    """Total += part, of fewer bits. On a CPU piece by piece: mixed types are slow to be added."""
    piece = _PIECE if total.device.type == "cpu" else max(total.numel(), 1)
    for wide, narrow in zip(total.view(-1).split(piece), part.view(-1).split(piece), strict=True):
        widened = narrow.to(wide.dtype)
        wide += widened if lift is None else widened / lift


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(torch.mm(left, right))
