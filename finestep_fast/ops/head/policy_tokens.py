"""The policy loss as seen from the policy tokens alone: what an op needs that makes their logps.

The N tokens inside steps stand side by side, so logps of a few of them can be made at a time. The
loss itself is one of `finestep_fast.ops.implementations`; only the entropy bonus is added here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from finestep_fast.batch import StepBatch
from finestep_fast.config import LossConfig
from finestep_fast.ops.check import Count
from finestep_fast.ops.head.rows import OwnRatios
from finestep_fast.ops.implementations import Implementation
from finestep_fast.reference import AGGREGATIONS, COUNT_OF_AGGREGATION, LossCounts, LossOutput


@dataclass(frozen=True)
class PolicyTokens:
    """A policy loss that waits for the log-probabilities of its tokens, [N] each."""

    batch: StepBatch
    """Steps on the axis of the policy tokens, with nothing between them."""
    logp_old: Tensor
    logp_ref: Tensor | None
    token_weight: Tensor | None
    step_advantage: Tensor
    loss: LossConfig
    count: Count | None
    entropy_weight: float
    impl: Implementation

    @classmethod
    def of(
        cls,
        batch: StepBatch,
        token_logp_old: Tensor,
        token_logp_ref: Tensor | None,
        token_weight: Tensor | None,
        step_advantage: Tensor,
        *,
        loss: LossConfig,
        count: Count | None,
        entropy_weight: float,
        impl: Implementation,
    ) -> PolicyTokens:
        """Gather what belongs to policy tokens from tensors [T] or [R, L]."""

        def gathered(token_value: Tensor | None) -> Tensor | None:
            return None if token_value is None else gather(token_value, batch)

        return cls(
            side_by_side(batch),
            gather(token_logp_old, batch),
            gathered(token_logp_ref),
            gathered(token_weight),
            step_advantage.detach(),
            loss,
            count,
            entropy_weight,
            impl,
        )

    @property
    def shares_ratios(self) -> bool:
        """Whether the gradient of a token depends on the logps of others."""
        return self.loss.ratio != "token"

    def logp_slope(self, logp: Tensor) -> Tensor:
        """Return d loss / d logp, [N]. Unless ratios are shared, each number needs its own logp."""
        with torch.enable_grad():
            leaf = logp.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self._evaluated(leaf).loss, leaf)
        return slope

    @property
    def own_ratios(self) -> OwnRatios:
        """What the loss is made of beside logps; not where ratios are shared."""
        return OwnRatios(
            self.logp_old,
            self.logp_ref,
            self.token_weight,
            self.step_advantage[self.batch.step_of_policy_token].double(),
            self._share,
            self.loss,
            self.entropy_weight,
        )

    def entropy_slope(self, dtype: torch.dtype) -> Tensor | None:
        """Return d loss / d entropy, [N]; None where entropy is only measured."""
        if self.entropy_weight == 0:
            return None
        return -self.entropy_weight * self._share.to(dtype)

    def output(self, logp: Tensor, entropy: Tensor) -> LossOutput:
        """Return loss and metrics, without gradient, when all logps are known."""
        with torch.no_grad():
            loss, metrics = self._evaluated(logp)
            slope = self.entropy_slope(entropy.dtype)
            if slope is not None:
                loss = loss + (slope * entropy).sum()
            metrics["entropy"] = entropy.sum() / max(self.batch.num_policy_tokens, 1)
        return LossOutput(loss, metrics)

    @property
    def _share(self) -> Tensor:
        """The weight of each token in the aggregation, [N] float64."""
        counts = loss_counts(self.batch, self.count, self.loss)
        return AGGREGATIONS[self.loss.aggregation](self.batch, counts, self.loss)

    def _evaluated(self, logp: Tensor) -> LossOutput:
        return self.impl.policy_loss(
            logp,
            self.logp_old,
            self.batch,
            self.step_advantage,
            loss=self.loss,
            count=self.count,
            token_logp_ref=self.logp_ref,
            token_weight=self.token_weight,
        )


def gather(token_value: Tensor, batch: StepBatch) -> Tensor:
    """Return the values of the policy tokens, [N], of a constant [T] or [R, L]."""
    return token_value.detach().reshape(-1)[batch.policy_token]


def side_by_side(batch: StepBatch) -> StepBatch:
    """Return the same steps on an axis that has no other tokens."""
    end = (batch.step_end - batch.step_start).cumsum(0)
    start = end - (batch.step_end - batch.step_start)
    compact = StepBatch(
        start,
        end,
        batch.step_offsets,
        batch.group_offsets,
        batch.group_rollouts,
        batch.num_policy_tokens,
    )
    # What is known of the batch is not asked for again; see StepBatch.to.
    compact.__dict__["num_policy_tokens"] = batch.num_policy_tokens
    compact.__dict__["max_rollout_steps"] = batch.max_rollout_steps
    compact.__dict__["steps_ascend"] = True
    return compact


def loss_counts(batch: StepBatch, count: Count | None, loss: LossConfig) -> LossCounts:
    """Return what means divide by: the batch's own sizes but for the one that is given."""
    counts = LossCounts(batch.num_policy_tokens, batch.num_rollouts, batch.num_steps)
    if count is None:
        return counts
    one = count.reshape(()) if isinstance(count, Tensor) else count
    return counts._replace(**{COUNT_OF_AGGREGATION[loss.aggregation]: one})
