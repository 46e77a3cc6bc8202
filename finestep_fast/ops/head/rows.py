"""From rows of logits to log-probability and entropy, and back: what an implementation offers.

A row is looked at once to be read and once more for its gradient, which may take its place. Rows
that nobody names are not read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from torch import Tensor

from finestep_fast.config import LossConfig


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


@dataclass(frozen=True)
class OwnRatios:
    """What makes a loss of logps where the ratio of each token is its own; [C] each."""

    logp_old: Tensor
    logp_ref: Tensor | None
    token_weight: Tensor | None
    advantage: Tensor
    """float64, of the token's step."""
    share: Tensor
    """float64, the token's weight in the aggregation."""
    loss: LossConfig
    entropy_weight: float

    def part(self, part: slice) -> OwnRatios:
        """Those of some of the tokens."""

        def some(token_value: Tensor | None) -> Tensor | None:
            return None if token_value is None else token_value[part]

        return replace(
            self,
            logp_old=self.logp_old[part],
            logp_ref=some(self.logp_ref),
            token_weight=some(self.token_weight),
            advantage=self.advantage[part],
            share=self.share[part],
        )


class Rows(Protocol):
    """What an implementation offers. `sums` are [4, C] float64, and its own affair but for two."""

    chunk_bytes: int | None
    """How many logits to name at a time where all are there; None for all."""

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

    def clear_others(self, gradient: Tensor, row: Tensor) -> None:
        """Write zeros to the rows of gradient [rows, V] that are not among `row` [C]."""

    def scale_(self, gradient: Tensor, start: Tensor, end: Tensor, scale: Tensor) -> None:
        """Multiply rows [start, end) of gradient [rows, V]; nothing moves where the scale is 1.

        Args:
            gradient: in place.
            start: [S] int64.
            end: [S] int64.
            scale: [].
        """


@runtime_checkable
class RowsAtOnce(Rows, Protocol):
    """Rows that need one look where the ratio of each token is its own."""

    def read_and_write(self, rows: NamedRows, ratios: OwnRatios, gradient: Tensor) -> Tensor:
        """Return sums and write the gradient of a loss of ratios of each token's own, at once."""
