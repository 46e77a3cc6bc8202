"""From rows of logits to log-probability and entropy, and back: who can do that, on what device.

A row is looked at once to be read and once more for its gradient, which may take its place. Rows
that nobody names are not touched. An implementation is one more entry of `ROWS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from finestep_fast.errors import BuildError, InputError
from finestep_fast.ops import cpp


@dataclass(frozen=True)
class NamedRows:
    """Some rows of a matrix of logits."""

    logits: Tensor
    """[rows, V], contiguous."""
    row: Tensor
    """[C] int64: which rows."""
    target: Tensor
    """[C] int64."""
    temperature: Tensor
    """[C] float64."""


class Rows(Protocol):
    """What an implementation offers. `sums` are [4, C] float64, and its own affair but for two."""

    def read(self, rows: NamedRows) -> Tensor:
        """Return sums whose first two are logp and entropy of each row."""

    def write_gradient(
        self,
        rows: NamedRows,
        sums: Tensor,
        logp_slope: Tensor,
        entropy_slope: Tensor | None,
        gradient: Tensor,
    ) -> None:
        """Write d loss / d logit to the rows of gradient [rows, V], which may be the logits.

        Args:
            rows: as they were read.
            sums: what `read` returned.
            logp_slope: [C] float64, d loss / d logp.
            entropy_slope: [C] float64, d loss / d entropy.
            gradient: [rows, V] in the dtype of the logits.
        """


class CppRows:
    """The compiled core, for CPU tensors."""

    def read(self, rows: NamedRows) -> Tensor:
        """See `Rows`."""
        sums = torch.empty(4, rows.row.shape[0], dtype=torch.float64)
        cpp.read_rows(rows.logits, rows.row, rows.target, rows.temperature, sums)
        return sums

    def write_gradient(
        self,
        rows: NamedRows,
        sums: Tensor,
        logp_slope: Tensor,
        entropy_slope: Tensor | None,
        gradient: Tensor,
    ) -> None:
        """See `Rows`."""
        given = (rows.logits, rows.row, rows.target, rows.temperature)
        cpp.write_row_gradients(*given, sums, logp_slope, entropy_slope, gradient)


class TorchRows:
    """Operations of torch, on every device: a few copies of the rows on the way."""

    def read(self, rows: NamedRows) -> Tensor:
        """See `Rows`."""
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
        rows: NamedRows,
        sums: Tensor,
        logp_slope: Tensor,
        entropy_slope: Tensor | None,
        gradient: Tensor,
    ) -> None:
        """See `Rows`."""
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
            probability = logp.exp()
            undecided = logp.masked_fill(probability == 0, 0) + entropy
            of_target -= entropy_slope * probability * undecided
        of_target /= rows.temperature
        made.scatter_(-1, rows.target[:, None], of_target.to(made.dtype)[:, None])
        gradient[rows.row] = made.to(gradient.dtype)

    def _apart(self, rows: NamedRows) -> tuple[Tensor, Tensor]:
        """(logit - maximum) / temperature [C, V], which is never above 0; and the maximum [C]."""
        logits = rows.logits[rows.row]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        maximum = logits.amax(-1)
        temperature = rows.temperature.to(logits.dtype)[:, None]
        return logits.sub(maximum[:, None]).div_(temperature), maximum


ROWS: dict[str, Rows] = {"cpp": CppRows(), "torch": TorchRows()}
AUTO_ROWS = {"cpu": "cpp"}
"""Device type -> the fastest; `torch` where none is named."""
POLICY_LOSS_IMPL = {"cpp": "cpp", "torch": "reference"}
"""Who turns log-probabilities into a loss beside them."""


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
    if impl not in ROWS:
        known = ", ".join(repr(name) for name in ["auto", "reference", *ROWS])
        raise InputError(f"impl is {impl!r}; it must be one of {known}")
    if impl == "cpp":
        if cpp.NOT_BUILT is not None:
            raise BuildError(
                f"impl is 'cpp': {cpp.NOT_BUILT}; build it with `pip install .`, or take "
                "impl='torch' or 'reference'"
            )
        reason = cpp.why_not(device)
        if reason is not None:
            raise InputError(f"impl is 'cpp', which cannot be used: {reason}")
    return impl
