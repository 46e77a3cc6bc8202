"""What implementations of the ops are given, bundled once, and the names they agree on.

The operators of torch, the C++ implementation and the kernels take the same bundles; which tokens
belong to which step, rollout and group is said by a `StepBatch` beside them. Holds no settings
(`finestep_fast.config`) and checks nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

Count = float | Tensor
"""What an aggregation divides by: a number, or [] or [1] on the device."""
Temperature = float | Tensor
"""What logits are divided by: a number, or one for each token."""

LOG_RATIO_LIMIT = 20.0
"""Differences of log-probabilities are cut to plus and minus this before they are exponentiated."""

SCALAR_METRICS = (
    "policy_tokens",
    "clip_fraction_low",
    "clip_fraction_high",
    "clip_fraction_dual",
    "approx_kl",
    "ratio_mean",
    "ratio_max",
    "effective_sample_size",
    "reference_kl",
)
"""The metrics that are one number, in the order in which compiled implementations return them."""

COUNT_OF_AGGREGATION = {
    "token_mean": "num_policy_tokens",
    "rollout_mean": "num_rollouts",
    "step_mean": "num_steps",
    "constant": "num_rollouts",
}
"""Which size of a `StepBatch` an aggregation divides by."""


class TokenConstants(NamedTuple):
    """What the loss of a token is made of beside its logp, without gradient; [T] or [N] each."""

    logp_old: Tensor
    """Under the policy that sampled."""
    logp_ref: Tensor | None
    """Under the reference policy; given where `LossConfig.kl` is set."""
    token_weight: Tensor | None
    """Factor of each token's surrogate."""

    def each(self, function: Callable[[Tensor], Tensor]) -> TokenConstants:
        """Return what a function makes of each tensor."""
        logp_old, logp_ref, token_weight = self
        return TokenConstants(
            function(logp_old),
            None if logp_ref is None else function(logp_ref),
            None if token_weight is None else function(token_weight),
        )

    def part(self, part: slice) -> TokenConstants:
        """Return those of some of the tokens."""
        return self.each(lambda token_value: token_value[part])


class Rewards(NamedTuple):
    """What advantages are worked out from."""

    step_reward: Tensor
    """[S] process rewards."""
    rollout_outcome: Tensor
    """[R] outcomes; for compiled implementations of the dtype of the rewards."""
    step_state: Tensor | None = None
    """[S] int64 keys of the states; given for scope `state`."""
    step_value: Tensor | None = None
    """[S] values of the states; given for scope `value`, for compiled implementations of the dtype
    of the rewards."""


class LogitRows(NamedTuple):
    """Rows of logits that are worked on together."""

    logits: Tensor
    """[rows, V], contiguous."""
    row: Tensor
    """[C] int64: which rows."""
    target: Tensor
    """[C] int64: the token that each row predicts."""
    temperature: Tensor
    """[C] float64: what its logits are divided by."""


class TokenTerms(NamedTuple):
    """What the loss of a token with a ratio of its own is made of beside its logp; [C] each."""

    logp_old: Tensor
    """Under the policy that sampled."""
    logp_ref: Tensor | None
    """Under the reference policy; given where `LossConfig.kl` is set."""
    token_weight: Tensor | None
    """Factor of each token's surrogate."""
    advantage: Tensor
    """float64: that of the token's step."""
    share: Tensor
    """float64: the token's weight in the aggregation."""

    def part(self, part: slice) -> TokenTerms:
        """Return those of some of the tokens."""
        constants = TokenConstants(self.logp_old, self.logp_ref, self.token_weight).part(part)
        return TokenTerms(*constants, self.advantage[part], self.share[part])
