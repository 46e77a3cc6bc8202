"""How advantages become a loss, as settings. The mathematics is in `reference`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from finestep_fast.config.rules import Share, above, at_least, check_fields
from finestep_fast.errors import InputError

Kind = Literal["ppo", "cispo"]
Ratio = Literal["token", "step", "rollout", "rollout_averaged"]
Aggregation = Literal["token_mean", "rollout_mean", "step_mean", "constant"]
KL = Literal["k1", "k2", "k3"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The policy loss: surrogate, ratio, clipping, token weights, distance to a reference."""

    kind: Kind = "ppo"
    """Clipped surrogate (ppo), or clipped ratio as a constant weight of logp (cispo)."""
    ratio: Ratio = "token"
    """Who shares one ratio: no one, the tokens of a step, or the tokens of a rollout. Its value is
    shared, and each token follows its own gradient, advantage and weight, so steps of opposite
    advantages teach opposite things. With `rollout_averaged` a rollout's tokens share the gradient,
    too: all follow the mean of its terms, and advantages that cancel teach nothing."""
    clip_low: Share = 0.2
    """The ratio is clipped below 1 - clip_low."""
    clip_high: Annotated[float, at_least(0)] = 0.28
    """The ratio is clipped above 1 + clip_high."""
    dual_clip: Annotated[float, above(1)] | None = None
    """c > 1: for a negative advantage A the surrogate is at least c A (ppo only)."""
    aggregation: Aggregation = "token_mean"
    """What is averaged: tokens, rollouts, steps; or sums over tokens divided by a constant."""
    constant_tokens: Annotated[int, at_least(1)] | None = None
    """For `constant`: each rollout's sum is divided by this many tokens, such as the longest."""
    kl: KL | None = None
    """Which estimator of the distance to the reference policy; None for no such term."""
    kl_weight: Annotated[float, at_least(0)] = 0.0
    """beta: weight of that distance; at 0 it is only measured."""

    def __post_init__(self) -> None:
        """Check every field, and that the fields fit together.

        Raises:
            InputError: A field has the wrong type, lies outside its range, or has no effect.
        """
        check_fields(self)
        if self.dual_clip is not None and self.kind != "ppo":
            raise InputError(f"dual_clip is {self.dual_clip:g}; it must be null for kind cispo")
        if self.kl is None and self.kl_weight > 0:
            raise InputError(f"kl_weight is {self.kl_weight:g} while kl is null; set kl or drop it")
        if (self.constant_tokens is not None) != (self.aggregation == "constant"):
            raise InputError(
                f"constant_tokens is {self.constant_tokens} for aggregation {self.aggregation!r}; "
                "it must be given for 'constant', and only there"
            )
