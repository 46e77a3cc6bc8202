"""From rows of logits to log-probability and entropy, and back: what an implementation offers.

A row is read once for both and once more for its gradient, which may take its place. Other rows
are not read.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from finestep_fast.arguments import LogitRows, TokenTerms
from finestep_fast.config import LossConfig


class RowImplementation(Protocol):
    """What an implementation offers.

    Of `sums` [4, C], float64, the first two are logp and entropy, and the others its own.
    """

    chunk_bytes: int | None
    """How many bytes of logits to name at a time where all are there; None for all."""

    def read(self, rows: LogitRows) -> Tensor:
        """Return sums; the first two are logp and entropy of each row."""

    def write_gradient(
        self,
        rows: LogitRows,
        sums: Tensor,
        logp_slope: Tensor,
        entropy_slope: Tensor | None,
        gradient: Tensor,
    ) -> None:
        """Write d loss / d logit to the rows of gradient [rows, V], which may be the logits.

        Args:
            rows: As they were read.
            sums: What `read` returned.
            logp_slope: [C] float64, d loss / d logp.
            entropy_slope: [C] float64, d loss / d entropy.
            gradient: [rows, V] in the dtype of the logits.
        """

    def clear_others(self, gradient: Tensor, row: Tensor) -> None:
        """Write zeros to the rows of gradient [rows, V] that are not among `row` [C]."""

    def scale_(self, gradient: Tensor, start: Tensor, end: Tensor, loss_scale: Tensor) -> None:
        """Multiply rows [start, end) of gradient [rows, V]; nothing moves where the scale is 1.

        Args:
            gradient: In place.
            start: [S] int64.
            end: [S] int64.
            loss_scale: [].
        """


@runtime_checkable
class SinglePassRows(RowImplementation, Protocol):
    """An implementation that needs one pass where the ratio of each token is its own."""

    def read_and_write(
        self,
        rows: LogitRows,
        terms: TokenTerms,
        *,
        loss: LossConfig,
        entropy_weight: float,
        gradient: Tensor,
    ) -> Tensor:
        """Return sums, and write the gradient of a loss where each token has a ratio of its own."""
