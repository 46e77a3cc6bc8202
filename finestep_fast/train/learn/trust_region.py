"""A bound on how far one update moves the policy: its step is shortened until it keeps the bound.

Not the clip of the loss, which acts on single tokens, nor the KL term of the loss, which holds the
policy near its beginning: this is the distance from the policy that sampled the update's rollouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

_ATTEMPTS = 6
_CLOSE = 0.95
"""A shortened step is short enough from this share of the bound to the bound itself."""


@dataclass(frozen=True)
class TrustRegion:
    """The weights from before an update, and how far from them it may go."""

    parameters: list[nn.Parameter]
    start: list[Tensor]
    max_kl: float

    @classmethod
    def around(cls, policy: nn.Module, max_kl: float) -> Self:
        """Return the region around the weights that a policy has now.

        Args:
            policy: The model; its weights are copied.
            max_kl: Largest mean KL divergence, in nats per token that the policy wrote.
        """
        parameters = [each for each in policy.parameters() if each.requires_grad]
        return cls(parameters, [each.detach().clone() for each in parameters], max_kl)

    @torch.no_grad()
    def keep(self, measured_kl: Callable[[], float]) -> tuple[float, float]:
        """Move the weights back along the line to the start until the bound holds.

        A step within the bound stays as it is. KL grows like the square of a short step, so the
        share of the step that is kept is found by that rule and measured again.

        Args:
            measured_kl: Returns the mean KL divergence of the weights as they are, from those of
                the start; the same on all processes.

        Returns:
            The KL divergence that is left, and the share of the step that was kept.
        """
        kl, share = measured_kl(), 1.0
        if kl <= self.max_kl:
            return kl, share
        end = [each.detach().clone() for each in self.parameters]
        low, high = 0.0, 1.0
        for _ in range(_ATTEMPTS):
            usable = math.isfinite(kl) and kl > 0  # else halve what is left
            guess = share * math.sqrt(_CLOSE * self.max_kl / kl) if usable else 0.0
            share = guess if low < guess < high else (low + high) / 2
            self._move(end, share)
            kl = measured_kl()
            if _CLOSE**2 * self.max_kl <= kl <= self.max_kl:
                return kl, share
            low, high = (share, high) if kl <= self.max_kl else (low, share)
        if not kl <= self.max_kl:
            share = low
            self._move(end, share)
            kl = measured_kl()
        return kl, share

    def _move(self, end: Sequence[Tensor], share: float) -> None:
        for parameter, first, last in zip(self.parameters, self.start, end, strict=True):
            parameter.copy_(torch.lerp(first, last, share))
