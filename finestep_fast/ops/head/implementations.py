"""The implementations from rows of logits to log-probabilities and back, and for what device.

An implementation is one more entry of `ROWS`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finestep_fast.arguments import LogitRows, TokenTerms
from finestep_fast.config import LossConfig
from finestep_fast.errors import BuildError, InputError
from finestep_fast.ops import cpp
from finestep_fast.ops.head.rows import RowImplementation
from finestep_fast.ops.implementations import triton_why_not


class _TwoPassRows:
    """What torch does for the others; the gradient is written when slopes are known."""

    def clear_others(self, gradient: Tensor, row: Tensor) -> None:
        """See `RowImplementation`."""
        outside = torch.ones(gradient.shape[0], dtype=torch.bool, device=gradient.device)
        outside.index_fill_(0, row, False)
        gradient[outside] = 0

    def scale_(self, gradient: Tensor, start: Tensor, end: Tensor, loss_scale: Tensor) -> None:
        """See `RowImplementation`."""
        if gradient.device.type == "cpu" and float(loss_scale) == 1:
            return
        for first, last in zip(start.tolist(), end.tolist(), strict=True):
            gradient[first:last].mul_(loss_scale)


class CppRows(_TwoPassRows):
    """The compiled core, for CPU tensors."""

    # Rows that are still in a cache when their gradient is written.
    chunk_bytes: int | None = 4 * 2**20

    def read(self, rows: LogitRows) -> Tensor:
        """See `RowImplementation`."""
        sums = torch.empty(4, rows.row.shape[0], dtype=torch.float64)
        cpp.read_rows(rows, sums)
        return sums

    def write_gradient(
        self,
        rows: LogitRows,
        sums: Tensor,
        logp_slope: Tensor,
        entropy_slope: Tensor | None,
        gradient: Tensor,
    ) -> None:
        """See `RowImplementation`."""
        cpp.write_row_gradients(rows, sums, logp_slope, entropy_slope, gradient)


class TorchRows(_TwoPassRows):
    """Operations of torch, on every device: a few copies of the rows on the way."""

    chunk_bytes: int | None = 64 * 2**20

    def read(self, rows: LogitRows) -> Tensor:
        """See `RowImplementation`."""
        apart, maximum = self._apart(rows)
        exponential = apart.exp()
        log_total = exponential.sum(-1, dtype=torch.float64).log()
        # 0 * -inf: a token that cannot be drawn adds nothing.
        weighted = exponential.mul_(apart.masked_fill(exponential == 0, 0))
        mean = weighted.sum(-1, dtype=torch.float64) / log_total.exp()
        of_target = rows.logits[rows.row, rows.target].double()
        maximum = maximum.double()
        logp = (of_target - maximum) / rows.temperature - log_total
        return torch.stack([logp, (log_total - mean).clamp_(min=0), maximum, log_total])

    def write_gradient(
        self,
        rows: LogitRows,
        sums: Tensor,
        logp_slope: Tensor,
        entropy_slope: Tensor | None,
        gradient: Tensor,
    ) -> None:
        """See `RowImplementation`."""
        apart, _ = self._apart(rows)
        logp, entropy, _, log_total = sums
        of_target = -logp_slope * logp.expm1()
        made = apart.exp()
        # What all of a row share is multiplied in float64, and rounded once.
        share = 1 / (log_total.exp() * rows.temperature)
        if entropy_slope is None:
            made.mul_((-logp_slope * share).to(made.dtype)[:, None])
        else:
            # Of entropy: -p (log p + entropy), where log p = apart - log_total.
            constant = -logp_slope + entropy_slope * (log_total - entropy)
            apart.masked_fill_(made == 0, 0)
            apart.mul_((-entropy_slope * share).to(made.dtype)[:, None])
            made.mul_(apart.add_((constant * share).to(made.dtype)[:, None]))
            finite = logp.clamp(min=-1e4)  # 0 log 0 = 0
            of_target -= entropy_slope * finite.exp() * (finite + entropy)
        of_target /= rows.temperature
        made.scatter_(-1, rows.target[:, None], of_target.to(made.dtype)[:, None])
        gradient[rows.row] = made.to(gradient.dtype)

    def _apart(self, rows: LogitRows) -> tuple[Tensor, Tensor]:
        """(logit - maximum) / temperature [C, V], which is never above 0; and the maximum [C]."""
        logits = rows.logits[rows.row]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        maximum = logits.amax(-1)
        temperature = rows.temperature.to(logits.dtype)[:, None]
        return logits.sub(maximum[:, None]).div_(temperature), maximum


class TritonRows:
    """The kernels, for GPU tensors: a program for each row, nothing that waits for the host."""

    chunk_bytes: int | None = None

    def read(self, rows: LogitRows) -> Tensor:
        """See `RowImplementation`."""
        from finestep_fast.kernels import rows as kernels

        return kernels.read(rows)

    def write_gradient(
        self,
        rows: LogitRows,
        sums: Tensor,
        logp_slope: Tensor,
        entropy_slope: Tensor | None,
        gradient: Tensor,
    ) -> None:
        """See `RowImplementation`."""
        from finestep_fast.kernels import rows as kernels

        kernels.write(rows, sums.contiguous(), logp_slope, entropy_slope, gradient)

    def read_and_write(
        self,
        rows: LogitRows,
        terms: TokenTerms,
        *,
        loss: LossConfig,
        entropy_weight: float,
        gradient: Tensor,
    ) -> Tensor:
        """See `SinglePassRows`."""
        from finestep_fast.kernels import rows as kernels

        return kernels.read_and_write(
            rows, terms, loss=loss, entropy_weight=entropy_weight, gradient=gradient
        )

    def clear_others(self, gradient: Tensor, row: Tensor) -> None:
        """See `RowImplementation`."""
        from finestep_fast.kernels import rows as kernels

        kernels.clear_others(gradient, row)

    def scale_(self, gradient: Tensor, start: Tensor, end: Tensor, loss_scale: Tensor) -> None:
        """See `RowImplementation`."""
        from finestep_fast.kernels import scale_gradient_

        width = gradient.shape[-1]
        scale_gradient_(gradient.view(-1), loss_scale, start * width, end * width)


ROWS: dict[str, RowImplementation] = {
    "cpp": CppRows(),
    "torch": TorchRows(),
    "triton": TritonRows(),
}
AUTO_ROWS = {"cpu": "cpp", "cuda": "triton"}
"""Device type -> the fastest; `torch` where none is named. AMD's GPUs are `cuda` to torch, too."""
POLICY_LOSS_IMPL = {"cpp": "cpp", "torch": "reference", "triton": "triton"}
"""Which implementation turns log-probabilities into a loss beside them."""


def chosen_rows(impl: str, device: torch.device) -> str | None:
    """Return the name of the implementation for tensors on that device; None for the reference.

    Raises:
        InputError: There is none of that name, or it does not take tensors of that device.
        BuildError: It was not built.
    """
    if impl == "reference":
        return None
    if impl == "auto":
        impl = AUTO_ROWS.get(device.type, "torch")
    if not isinstance(impl, str) or impl not in ROWS:
        known = ", ".join(repr(name) for name in ["auto", "reference", *ROWS])
        raise InputError(f"impl is {impl!r}; it must be one of {known}")
    if impl == "cpp" and cpp.NOT_BUILT is not None:
        raise BuildError(
            f"impl is 'cpp': {cpp.NOT_BUILT}; build it with `pip install .`, or take "
            "impl='torch' or 'reference'"
        )
    reason = None
    if impl == "cpp":
        reason = cpp.why_not(device)
    elif impl == "triton":
        reason = triton_why_not(device)
    if reason is not None:
        raise InputError(
            f"impl is {impl!r}, which cannot be used: {reason}; 'torch' runs everywhere"
        )
    return impl
